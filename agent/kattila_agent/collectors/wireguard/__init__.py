"""The WireGuard interfaces of this node with their peers, as `wg show all dump` shows them.

Three readers give the same values: `kernel` (generic netlink), `userspace` (the socket of wireguard-go and its kin) and
`helper` (the dump that a small root program sends, for an agent without privilege). `collector` chooses. Private and
preshared keys end in the readers: no value, text or error that leaves one holds any part of them.
"""
