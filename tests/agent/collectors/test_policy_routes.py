"""The default routes of tables that rules look up, and rules for single users, compared with `ip`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kattila_agent.collectors import policy_routes, rules
from kattila_agent.collectors.netlink.transport import Listed
from kattila_protocol.report import Cut, Rule
from support import iproute2, netlink
from support.agent_process import AGENT, environment
from support.collector_messages import NAMES, listed
from support.netlink import channel_with, done, ip, message, multipath, nla
from support.netns import Namespace, new_namespace
from support.waiting import PATIENCE_SECONDS

NOBODY = 65534
# A small machine has no /etc/services.
HIDING = '[ ! -e /etc/services ] || mount --bind /dev/null /etc/services; exec "$@"'
SMALL = ("unshare", "--mount", "sh", "-c", HIDING, "sh")


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with new_namespace() as made:
        made.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
        for name in ("lo", "far0", "up0"):
            made.ip("link", "set", name, "addrgenmode", "none", "up")
        made.ip("address", "add", "192.0.2.1/24", "dev", "up0")
        made.ip("address", "add", "2001:db8::1/64", "dev", "up0", "nodad")
        add_routes(made)
        for table in (51820, 300, 77, 99, 66, 51820):
            made.ip("rule", "add", "fwmark", str(table), "lookup", str(table))
        made.ip("-6", "rule", "add", "fwmark", "51820", "lookup", "51820")
        made.ip("rule", "add", "uidrange", f"{NOBODY}-{NOBODY}", "lookup", "99", "prio", "9")
        made.ip("-6", "rule", "add", "uidrange", f"{NOBODY}-{NOBODY}", "prohibit", "prio", "9")
        yield made


def add_routes(made: Namespace) -> None:
    made.ip("route", "add", "default", "via", "192.0.2.254")
    made.ip("-6", "route", "add", "default", "via", "2001:db8::fe")
    made.ip("route", "add", "default", "dev", "up0", "table", "51820")
    made.ip("route", "add", "198.51.100.0/24", "dev", "up0", "table", "77")
    hops = ("nexthop", "via", "192.0.2.7", "nexthop", "via", "192.0.2.8")
    made.ip("route", "add", "default", "table", "300", "metric", "7", "proto", "static", *hops)
    made.ip("route", "add", "default", "via", "192.0.2.9", "src", "192.0.2.1", "table", "99")
    made.ip("route", "add", "default", "via", "192.0.2.5", "table", "1234")
    made.ip("-6", "route", "add", "unreachable", "default", "table", "51820", "metric", "3")


def sysinfo(namespace: Namespace, manager_url: str = "") -> dict[str, Any]:
    given = environment(MANAGER_URL=manager_url) if manager_url else environment()
    found: dict[str, Any] = json.loads(
        subprocess.check_output(namespace.command(*SMALL, *AGENT, "-sysinfo"), env=given, timeout=PATIENCE_SECONDS)
    )
    return found


def test_default_routes_of_the_tables_that_rules_look_up(namespace: Namespace) -> None:
    found = sysinfo(namespace)
    assert found["failures"] == found["cuts"] == []
    reported = found["policy_routes"]
    assert reported == iproute2.policy_routes(namespace)
    assert len(reported) == 5
    assert {51820, 300, 99} == {route["table"] for route in reported}


def test_the_lookup_of_the_manager_is_for_tcp_to_its_port(namespace: Namespace) -> None:
    # By number: a small machine has no /etc/protocols.
    rule = ("ipproto", "6", "dport", "5086", "lookup", "77", "prio", "8")
    namespace.ip("rule", "add", *rule)
    try:
        found = {url: sysinfo(namespace, url)["lookups"] for url in ("http://198.51.100.9:5086", "http://198.51.100.9")}
    finally:
        namespace.ip("rule", "del", *rule)
    assert [[each["table"] for each in lookups] for lookups in found.values()] == [[77], [254]]


# Lookups by an agent of an unprivileged user, with a rule that routes this user's own packets differently.
LOOKED_UP = f"""
import json, os
from kattila_agent.collectors import link_table, lookups
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
queries = [lookups.RouteQuery(*words) for words in (
    ("wireguard", "wg0", "198.51.100.7"), ("tunnel", "gre7", "198.51.100.7"), ("manager", None, "198.51.100.7"),
    ("wireguard", "wg0", "2001:db8:7::7"), ("manager", None, "2001:db8:7::7"),
)]
links = link_table.read_by_index(link_table.summary)
print(json.dumps([lookup._asdict() for lookup in lookups.parse(lookups.look_up(queries, links))]))
"""


def test_packets_of_a_tunnel_are_not_looked_up_as_the_agents_own(namespace: Namespace) -> None:
    command = namespace.command(sys.executable, "-c", LOOKED_UP)
    found = json.loads(subprocess.check_output(command, timeout=PATIENCE_SECONDS))
    assert [(each["purpose"], each["gateway"], each["error"]) for each in found] == [
        (each["purpose"], *as_ip_says(namespace, each["destination"], NOBODY if each["purpose"] == "manager" else 0))
        for each in found
    ]
    assert [each["gateway"] for each in found] == ["192.0.2.254", "192.0.2.254", "192.0.2.9", "2001:db8::fe", None]


def as_ip_says(namespace: Namespace, destination: str, uid: int) -> tuple[str | None, str | None]:
    command = ["ip", "-n", namespace.name, "-json", "route", "get", destination, "uid", str(uid)]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode:
        return None, answer.stderr.removeprefix("RTNETLINK answers: ").strip()
    return json.loads(answer.stdout)[0].get("gateway"), None


# --- Without a kernel


def test_tables_and_routes_beyond_their_limits_are_counted() -> None:
    bodies = [netlink.route(nla(15, table.to_bytes(4, sys.byteorder)), table=252) for table in (300, 301, 302)]
    readings = policy_routes.PolicyRouteReadings((listed(*bodies[:2]), listed(*bodies[2:], total=5)), 2, 3, NAMES)
    found = policy_routes.parse(readings, 2)
    assert [(route.table, route.destination) for route in found.items] == [(300, "0.0.0.0/0"), (301, "0.0.0.0/0")]
    assert found.cuts == (Cut("policy_routes", 2, 7), Cut("policy_tables", 2, 3))


def test_the_limit_applies_to_next_hops() -> None:
    bodies = [netlink.route(multipath(*hops), table=77) for hops in ((1, 2, 3), (4, 5, 6), (7,))]
    readings = policy_routes.PolicyRouteReadings((listed(*bodies, total=9),), 1, 1, NAMES)
    found = policy_routes.parse(readings, 4)
    assert [route.gateway for route in found.items] == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.7"]
    assert found.cuts == (Cut("policy_routes", 4, 3 + 3 + 1 + 6),)


def test_a_kernel_without_ipv6_has_the_rules_of_ipv4(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with namespace.entered():
        both = rules.parse(rules.read(100), 100)
        # This kernel has IPv6. It answers for DECnet what a kernel with ipv6.disable=1 answers for IPv6.
        monkeypatch.setattr(rules, "_FAMILIES", {socket.AF_INET: "inet", 12: "decnet"})
        found = rules.parse(rules.read(100), 100)
    assert found.items == tuple(rule for rule in both.items if rule.family == "inet") != ()
    assert found.cuts == ()


def test_at_most_64_tables_are_read(namespace: Namespace) -> None:
    many = [Rule("inet", priority, "lookup", table=1000 + priority) for priority in range(65)]
    readings = policy_routes.read(many, 9)
    assert (len(readings.defaults), readings.read_tables, readings.tables) == (64, 64, 65)


def test_a_rule_for_vrfs_looks_up_all_their_tables() -> None:
    rules = [
        Rule("inet", 1, "lookup", table=77),
        *(Rule(family, 1000, "lookup", table=0, other=("l3mdev",)) for family in ("inet", "inet6")),
        Rule("inet", 2000, "lookup", table=77),
        Rule("inet", 2001, "lookup", table=254),
        Rule("inet", 2002, "prohibit", table=5),
    ]
    found = policy_routes.tables(rules, lambda: [10, 20])
    assert found == [(2, 77), (2, 10), (2, 20), (10, 10), (10, 20)]
    assert policy_routes.tables(rules[:1], lambda: pytest.fail("there is no such rule")) == [(2, 77)]


def defaults(*bodies: bytes, family: int = 2, table: int = 77, limit: int = 9) -> Listed:
    messages = (message(24, body, sequence=1) for body in bodies)
    with channel_with(*messages, done()) as channel:
        return policy_routes.defaults(channel, b"", family=family, table=table, limit=limit)


def test_other_routes_and_other_tables_are_skipped() -> None:
    ours = netlink.route(table=77)
    others = [netlink.route(table=78), netlink.route(table=252) + nla(15, 300), netlink.route(family=10, table=77)]
    cloned = ours[:8] + (0x200).to_bytes(4, sys.byteorder) + ours[12:]
    assert defaults(*others, cloned, ours, ours, ours, limit=2) == Listed([ours, ours], 3)
    far = netlink.route(table=252) + nla(15, 300)
    assert defaults(*others, far, table=300) == Listed([others[1], far], 2)


def test_an_ipv4_table_is_read_up_to_its_last_default_route() -> None:
    default, narrow = netlink.route(table=77), netlink.route(nla(1, bytes(4)), length=8, table=77)
    another, beyond = (netlink.route(nla(1, ip("192.0.2.0")), length=24, table=table) for table in (78, 77))
    assert defaults(narrow, another, default, beyond, default) == Listed([default], 1)
    default6, beyond6 = netlink.route(table=77, family=10), netlink.route(LONG, length=64, table=77, family=10)
    assert defaults(beyond6, default6, family=10) == Listed([default6], 1)


LONG = nla(1, ip("2001:db8::"))


@pytest.mark.parametrize(("flags", "cloned"), [(0, False), (0x200, True), (0x2000000, False), (0x20000, False)])
def test_cloned_routes_are_recognised_by_one_flag(flags: int, cloned: bool) -> None:
    body = netlink.route(table=77)
    marked = body[:8] + flags.to_bytes(4, sys.byteorder) + body[12:]
    assert defaults(marked).total == (not cloned)
