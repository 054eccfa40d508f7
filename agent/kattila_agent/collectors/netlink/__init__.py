"""Netlink requests and answers (rtnetlink(7), genetlink)."""
