"""The WireGuard interfaces of this node with their peers, as `wg show all dump` shows them.

Three readers return the same values: `kernel` (generic netlink), `userspace` (the socket of wireguard-go and similar
programs) and `helper` (the dump from a small root program, for an agent without privilege). `collector` chooses among
them. Private and preshared keys end in the readers: no value, text or error that leaves one contains any part of them.
"""
