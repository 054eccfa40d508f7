"""Netlink requests and answers: rtnetlink(7) and generic netlink."""
