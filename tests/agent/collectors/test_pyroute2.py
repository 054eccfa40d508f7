"""The collectors and pyroute2 read the same from a namespace that was set up by pyroute2."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.netns import new_namespace
from support.waiting import PATIENCE_SECONDS

# Runs in the namespace, and prints a line for each kind of object: how many there are, and whether both agree.
COMPARE = """
from pyroute2 import IPRoute
from kattila_agent.collectors import links, neighbours, routes

with IPRoute() as kernel:
    kernel.link("add", ifname="bridge0", kind="bridge")
    kernel.link("add", ifname="left", kind="veth", peer="right")
    index = {name: kernel.link_lookup(ifname=name)[0] for name in ("lo", "bridge0", "left", "right")}
    kernel.link("set", index=index["left"], master=index["bridge0"], mtu=1400)
    for name in index:
        kernel.link("set", index=index[name], state="up")
    kernel.addr("add", index=index["bridge0"], address="192.0.2.1", prefixlen=24)
    kernel.addr("add", index=index["bridge0"], address="2001:db8::1", prefixlen=64)
    kernel.route("add", dst="198.51.100.0/24", gateway="192.0.2.254", priority=42)
    kernel.neigh("add", dst="192.0.2.9", lladdr="00:00:5e:00:53:09", ifindex=index["bridge0"], state="permanent")
    theirs = {
        link.get("ifname"): (link.get("index"), link.get("mtu"), link.get("address"), link.get("operstate"))
        for link in kernel.get_links()
    }
    their_addresses = {
        (link.get("ifname"), f"{address.get('local') or address.get('address')}/{address.get('prefixlen')}")
        for link in kernel.get_links()
        for address in kernel.get_addr(index=link["index"])
    }
    their_routes = {
        (f"{route.get('dst')}/{route.get('dst_len')}", route.get("gateway"), route.get("priority") or 0)
        for route in kernel.get_routes(family=2, table=254)
    }
    their_neighbours = {
        (entry.get("dst"), entry.get("lladdr"))
        for entry in kernel.get_neighbours(family=2)
        if entry.get("lladdr") and not entry.get("state") & 0x40  # NUD_NOARP: multicast
    }
found = links.parse(links.read(100, 100)).items
ours = {one.name: (one.index, one.mtu, one.address, one.operstate) for one in found}
our_addresses = {(one.name, address) for one in found for address in one.addresses}
our_routes = {
    (one.destination, one.gateway, one.metric)
    for one in routes.parse(routes.read(100), 100).items
    if "." in one.destination
}
our_neighbours = {
    (one.destination, one.address)
    for one in neighbours.parse(neighbours.read(100), 100).items
    if "." in one.destination
}
for what, our, their in (
    ("links", ours, theirs),
    ("addresses", our_addresses, their_addresses),
    ("routes", our_routes, their_routes),
    ("neighbours", our_neighbours, their_neighbours),
):
    print(what, len(our), "same" if our == their else f"{our} is not {their}")
"""


def test_pyroute2_sees_the_same_links_addresses_routes_and_neighbours() -> None:
    with new_namespace() as namespace:
        if not namespace.has("link", "add", "probe", "type", "bridge"):
            pytest.skip("this kernel has no bridge")
        namespace.ip("link", "del", "probe")
        command = namespace.command(sys.executable, "-c", COMPARE)
        found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert found.returncode == 0, found.stderr
    lines = [line.split(maxsplit=2) for line in found.stdout.splitlines()]
    assert [(what, rest) for what, _, rest in lines] == [
        (what, "same") for what in ("links", "addresses", "routes", "neighbours")
    ], found.stdout
    assert all(int(count) > 0 for _, count, _ in lines), found.stdout
