"""A node with everything that is unusual: -sysinfo still shows the same as `ip`, column by column.

Also runs in the virtual machine of `make test-kernel`, whose kernel has features that this one may lack.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from support import iproute2
from support.agent_process import AGENT, environment
from support.iproute2 import Entries
from support.netns import Namespace, new_namespace
from support.waiting import PATIENCE_SECONDS

NAMES = (b"\"quo\\te'", b"w\xc3\xa4g\xe2\x80\x83x", b"b\xff\xfe\x01", b"a]b", b"12", b"-lead", b"<b>&amp;", b"$(id)`;|")
LINKS = """
link add vlan7 link v0 type vlan id 7
link add vlan8 link vlan7 type vlan protocol 802.1ad id 8
link add macvlan0 link v0 type macvlan mode bridge

link add vrf1 type vrf table 1001
link add u0 type veth peer name u1
link set u0 master vrf1
link set vrf1 up
link set u0 addrgenmode none
link set u1 addrgenmode none
link set u0 up
link set u1 up
address add 198.51.100.1/24 dev u0
route add default via 198.51.100.254 vrf vrf1
route add unreachable default metric 4278198272 vrf vrf1

link add bond0 type bond mode 802.3ad
link add s0 type veth peer name s1
link set s0 master bond0

link add bond1 type bond mode active-backup
link add s2 type veth peer name s3
link set s2 master bond1
link set bond1 up
link set s3 up

link add team0 type team

link add dummy0 type dummy

link add xfrm0 type xfrm dev v0 if_id 42

link set v0 alias {alias}
link property add dev v0 altname another-name-than-that
"""
TUNNELS = """
link add vx1 type vxlan external dstport 4789
link add vx2 type vxlan id 5 group ff05::100 dev v0 dstport 4790

link add gnv1 type geneve external

link add gre1 type gre local 192.0.2.1 remote any key 5

link add gre2 type gre local 192.0.2.1 key 77
link set gre2 up
neighbour add 10.7.7.7 lladdr 198.51.100.3 dev gre2 nud permanent

link add gre3 type gretap external

link add gre4 type ip6gre local 2001:db8::1 remote any key 9

link add erspan1 type ip6erspan local 2001:db8::1 remote 2001:db8::2 key 5 erspan_ver 1 erspan 77

link add ipip1 type ipip local 192.0.2.1 remote 192.0.2.2 encap fou encap-sport auto encap-dport 5555

link add sit1 type sit local 192.0.2.1 6rd-prefix 2001:db8::/32

link add ip6tnl1 type ip6tnl local 2001:db8::1 remote 2001:db8::2 mode ip6ip6 hoplimit 33 encaplimit none

link add vti1 type vti6 local 2001:db8::1 remote 2001:db8::2 key 8
"""
ADDRESSES = """
address add 192.0.2.1/24 dev v0
address add 2001:db8::1/64 dev v0 nodad
address add fe80::1/64 dev v0 nodad
address add 192.0.2.200/32 peer 203.0.113.250/32 dev v0 label v0:second
address add 169.254.7.7/16 dev v0 scope link
address add 2001:db8::dead/64 dev v0 preferred_lft 0 nodad
address add 127.0.0.53/8 dev lo
"""
ROUTES = """
nexthop add id 10 via 192.0.2.10 dev v0
nexthop add id 11 via 192.0.2.11 dev v0
nexthop add id 12 group 10/11,3
nexthop add id 13 blackhole
nexthop add id 20 via 2001:db8::20 dev v0
nexthop add id 21 via 2001:db8::21 dev v0
nexthop add id 22 group 20/21
route add 203.0.113.0/28 nhid 10
route add 203.0.113.16/28 nhid 12
route add 203.0.113.32/28 nhid 13
route add 203.0.113.48/28 nhid 20
route add 203.0.113.64/28 nexthop via 192.0.2.7 weight 5 nexthop via inet6 2001:db8::9 dev v0
route add prohibit 203.0.113.80/28
route add throw 203.0.113.96/28
route add local 203.0.113.112/28 dev lo
route add 203.0.113.128/28 via 10.9.9.9 dev v0 onlink
route add 203.0.113.144/28 via 192.0.2.3 mtu lock 1300 advmss 1200 rto_min 5ms
route add 203.0.113.160/28 encap mpls 100/200 via 192.0.2.2 dev v0
route add 203.0.113.176/28 encap ip id 5 dst 192.0.2.9 dev v0
route add default via 192.0.2.254 metric 100
route add default via 192.0.2.253 metric 200 src 192.0.2.1
route add unreachable default metric 4278198272
route add 10.9.0.0/16 via 192.0.2.2 table 77
route add default via 192.0.2.2 table 77
route add default via 192.0.2.3 table 4000000000
"""
ROUTES6 = """
route add 2001:db8:a0::/48 nhid 20
route add 2001:db8:a1::/48 nhid 22
route add default via fe80::fe dev v0 metric 100 pref high
route add blackhole default metric 4278198272
route add 2001:db8:b0::/48 encap seg6 mode encap segs 2001:db8::5,2001:db8::6 dev v0
route add 2001:db8:b1::/48 encap seg6local action End.X nh6 2001:db8::3 dev v0
route add default via 2001:db8::44 table 88
route add 2001:db8:b2::/48 via 2001:db8::2 expires 300
"""
RULES = """
rule add uidrange 1000-1000 lookup 77 priority 100
rule add uidrange 0-4294967294 lookup 77 priority 101
rule add ipproto 6 dport 443 lookup 77 priority 102
rule add ipproto 17 sport 51820 lookup 78 priority 103
rule add ipproto 1 lookup 77 priority 104
rule add from 192.0.2.0/24 realms 3/4 lookup 77 priority 105
rule add from 192.0.2.0/25 realms 4 lookup 77 priority 106
rule add tos 0x10 lookup 77 priority 107
rule add fwmark 0/0xff lookup 77 priority 108
rule add iif 12 oif nosuch lookup 77 priority 109
rule add tun_id 7 lookup 77 priority 110
rule add not from 192.0.2.9 to 10.0.0.0/8 lookup 4000000000 priority 111
rule add suppress_ifgroup 5 lookup main priority 112
rule add nop priority 113
rule add goto 32766 priority 114
rule add protocol bgp lookup 77 priority 115
rule add l3mdev priority 999
rule add iif lo lookup default priority 116
"""
RULES6 = """
rule add from 2001:db8::/32 unreachable
rule add uidrange 5-9 prohibit
rule add blackhole fwmark 9
rule add from 2001:db8::1 to 2001:db8::2 tos 0x20 iif v0 lookup 88
"""
NEIGHBOURS = """
neighbour add 192.0.2.20 lladdr 02:00:00:00:00:20 dev v0 nud permanent
neighbour add 192.0.2.22 lladdr 02:00:00:00:00:22 dev v0 nud stale
neighbour add 192.0.2.28 lladdr 02:00:00:00:00:28 dev v0 nud noarp
neighbour add 192.0.2.29 lladdr 02:00:00:00:00:29 dev v0 nud noarp extern_learn
neighbour add 192.0.2.30 lladdr 02:00:00:00:00:30 dev v0 nud permanent extern_learn router
neighbour add proxy 192.0.2.99 dev v0
neighbour add 2001:db8::20 lladdr 02:00:00:00:00:20 dev v0 nud permanent router
neighbour add 2001:db8::29 lladdr 02:00:00:00:00:29 dev v0 nud noarp extern_learn
neighbour add proxy 2001:db8::99 dev v0
"""
# Moved to a namespace that lacks the link that they are bound to.
MOVED = """
link add moved0 type veth peer name stayed0
link add moved1 type vxlan id 99 remote 192.0.2.44 dstport 4789 dev v0
link add moved2 type gre local 192.0.2.1 remote 192.0.2.9
link add moved3 link v0 type macvlan
link add moved4 link v0 type vlan id 99
"""


COMPARED = ("interfaces", "tunnels", "routes", "rules", "policy_routes", "neighbours")


class Node(NamedTuple):
    """What `ip` shows for a namespace, and what the agent shows, member by member."""

    expected: dict[str, Entries]
    found: dict[str, Any]


def compared(namespace: Namespace) -> Node:
    return Node(*iproute2.stable_reading(namespace, lambda: sysinfo(namespace)))


def sysinfo(namespace: Namespace) -> dict[str, Any]:
    command = namespace.command(*AGENT, "-sysinfo")
    found: dict[str, Any] = json.loads(subprocess.check_output(command, env=environment(), timeout=PATIENCE_SECONDS))
    assert (found["failures"], found["cuts"]) == ([], [])
    return found


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Node, Node]]:
    """An unusual node, and one to which some of its links were moved."""
    with new_namespace() as made, new_namespace() as other:
        made.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        for link in ("lo", "v0", "v1"):
            # Otherwise their link-local addresses appear and change during the comparison.
            made.ip("link", "set", link, "addrgenmode", "none", "up")
        # Packets from the kernel would change the states of neighbours.
        made.ip("link", "set", "v0", "arp", "off")
        for name in NAMES:
            words = (b"ip", b"-n", made.name.encode(), b"link", b"add", b"name", name, b"type", b"bridge")
            subprocess.run(words, check=True, capture_output=True)
        missing = made.ip_lines("\n".join((ADDRESSES, LINKS.format(alias="A" * 255), TUNNELS, ROUTES)))
        missing += made.ip_lines("\n".join((ROUTES6, RULES6)), "-6")
        missing += made.ip_lines("\n".join((RULES, NEIGHBOURS, MOVED)))
        made.ip_lines("".join(f"link set moved{number} netns {other.name}\n" for number in range(5)))
        if missing:
            print("this kernel refuses:", *missing, sep="\n")
        yield compared(made), compared(other)


@pytest.fixture
def unusual(two: tuple[Node, Node]) -> Node:
    return two[0]


@pytest.mark.parametrize("member", COMPARED)
def test_an_unusual_node_is_shown_as_by_ip(unusual: Node, member: str) -> None:
    assert unusual.found[member] == unusual.expected[member]


@pytest.mark.parametrize("member", COMPARED)
def test_links_from_another_namespace_are_shown_as_by_ip(two: tuple[Node, Node], member: str) -> None:
    assert two[1].found[member] == two[1].expected[member]


def test_an_index_in_another_namespace_is_not_taken_for_a_link_here(two: tuple[Node, Node]) -> None:
    below = {link["name"]: (link["link"], link["link_netnsid"]) for link in two[1].found["interfaces"]}
    assert below["moved0"] == below["moved3"] == (None, 0)
    assert {tunnel["link"] for tunnel in two[1].found["tunnels"] if tunnel["interface"].startswith("moved")} == {None}


def test_names_of_any_bytes(unusual: Node) -> None:
    names = {link["name"] for link in unusual.found["interfaces"]}
    assert {"\"quo\\te'", "wäg\u2003x", "b\\xff\\xfe\x01", "a]b", "12", "-lead", "<b>&amp;", "$(id)`;|"} <= names


def test_routes_of_every_type_and_through_nexthop_objects(unusual: Node) -> None:
    routes = unusual.found["routes"]
    defaults = {route["type"] for route in routes if route["destination"] in ("0.0.0.0/0", "::/0")}
    assert defaults == {"unreachable", "blackhole", "unicast"}
    hops = [route["gateway"] for route in routes if route["destination"] in ("203.0.113.16/28", "2001:db8:a1::/48")]
    assert hops == ["192.0.2.10", "192.0.2.11", "2001:db8::20", "2001:db8::21"]


def test_default_routes_of_tables_that_rules_look_up(unusual: Node) -> None:
    tables = {route["table"] for route in unusual.found["policy_routes"]}
    assert {77, 88, 4_000_000_000} <= tables
    # Only if the kernel has VRFs.
    assert (1001 in tables) == ("vrf1" in {link["name"] for link in unusual.found["interfaces"]})


def test_selectors_of_rules_that_have_no_column(unusual: Node) -> None:
    others = {other for rule in unusual.found["rules"] for other in rule["other"]}
    assert {"realms 3/4", "realms 4", "l3mdev", "tun_id 7", "suppress_ifgroup 5", "uidrange 5-9"} <= others


def test_neighbours_that_a_routing_daemon_learned(unusual: Node) -> None:
    states = {neighbour["destination"]: neighbour["state"] for neighbour in unusual.found["neighbours"]}
    assert (states["192.0.2.29"], states["2001:db8::29"]) == ("NOARP", "NOARP")
    # Multicast and proxy entries are not reported.
    assert not {"192.0.2.28", "192.0.2.99", "2001:db8::99"} & set(states)


def test_a_link_with_all_possible_names_does_not_hide_others() -> None:
    """The kernel allows 64 KiB of names. A dump that is not prepared for that ends before such a link."""
    with new_namespace() as namespace:
        namespace.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        namespace.ip_lines("".join(f"link property add dev v1 altname {n:03}{'z' * 120}\n" for n in range(600)))
        (link,) = namespace.listed("link", "show", "v1")
        assert len(link["altnames"]) > 400
        node = compared(namespace)
    assert node.found == node.found | node.expected
    assert {"lo", "v0", "v1"} <= {each["name"] for each in node.found["interfaces"]}


def test_nexthop_objects_are_read_if_routes_have_no_other_next_hop() -> None:
    """This is nexthop_compat_mode=0, as on large routers; with 1, the kernel adds the next hops to the routes."""
    with new_namespace() as namespace:
        namespace.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        for link in ("lo", "v0", "v1"):
            namespace.ip("link", "set", link, "addrgenmode", "none", "up")
        assert namespace.ip_lines(OBJECTS) == namespace.ip_lines(OBJECTS6, "-6") == []
        spelled_out = sysinfo(namespace)
        assert spelled_out["routes"] == iproute2.routes(namespace)
        assert spelled_out["policy_routes"] == iproute2.policy_routes(namespace)
        off = ("sh", "-c", "echo 0 > /proc/sys/net/ipv4/nexthop_compat_mode")
        subprocess.run(namespace.command(*off), check=True)
        assert [route for route in namespace.listed("route") if "nhid" in route and "dev" not in route]
        alone = sysinfo(namespace)
    for member in ("routes", "policy_routes"):
        assert alone[member] == spelled_out[member]
    assert [route["gateway"] for route in alone["policy_routes"]] == ["192.0.2.10", "192.0.2.11", "2001:db8::20"]


OBJECTS = """
address add 192.0.2.1/24 dev v0
address add 2001:db8::1/64 dev v0 nodad
nexthop add id 10 via 192.0.2.10 dev v0
nexthop add id 11 via 192.0.2.11 dev v0
nexthop add id 12 group 10/11,3
nexthop add id 14 dev v0
nexthop add id 20 via 2001:db8::20 dev v0
nexthop add id 21 via 2001:db8::21 dev v0
nexthop add id 22 group 20/21
route add default nhid 12
route add default nhid 12 table 77
route add 203.0.113.0/28 nhid 10
route add 203.0.113.32/28 nhid 14
route add 203.0.113.48/28 nhid 20
route add 203.0.113.64/28 nexthop via 192.0.2.7 nexthop via 192.0.2.8
rule add lookup 77
"""
OBJECTS6 = """
route add default nhid 22
route add default nhid 20 table 77
route add 2001:db8:3::/48 nhid 20
rule add lookup 77
"""


def test_three_hundred_vlans() -> None:
    with new_namespace() as namespace:
        namespace.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        if namespace.ip_lines("".join(f"link add vlan{n} link v0 type vlan id {n}\n" for n in range(1, 301))):
            pytest.skip("this kernel has no vlan; make test-kernel runs this in a virtual machine")
        node = compared(namespace)
    assert node.found == node.found | node.expected
    vlans = {link["name"]: (link["vlan_id"], link["link"]) for link in node.found["interfaces"] if link["vlan_id"]}
    assert vlans == {f"vlan{number}": (number, "v0") for number in range(1, 301)}
