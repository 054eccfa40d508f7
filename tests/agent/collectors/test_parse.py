"""The parsers without a kernel: messages about links that this kernel may lack, and failures as data."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kattila_agent.collectors import links, lookups, system
from kattila_agent.collectors.lookups import RouteQuery
from kattila_agent.config import default_limits
from kattila_agent.sampling.collect import COLLECTORS, Collector, Inputs, measure
from kattila_agent.sampling.measurement import Measurement
from kattila_protocol import canonical
from kattila_protocol.report import (
    CollectorFailure,
    Interface,
    Lookup,
    Neighbour,
    Route,
    Rule,
    Telemetry,
    Tunnel,
    WireguardInterface,
    WireguardPeer,
)
from support import netlink
from support.collector_messages import (
    ADDRESS,
    COUNTERS,
    ETHERNET,
    GRE,
    INFINIBAND,
    IP6_TUNNEL,
    LOCAL,
    LOCAL6,
    OIF,
    REMOTE,
    REMOTE6,
    ROUTE,
    WIREGUARD,
    listed,
    one,
    parsed_links,
    parsed_lookups,
    parsed_neighbours,
    parsed_routes,
    parsed_rules,
    parsed_tunnels,
)
from support.netlink import ip, link, link_info, nla
from support.runtime import FIXED, runtime

# --- Links


@pytest.mark.parametrize(
    ("body", "address"),
    [
        (ETHERNET, "02:00:00:00:00:01"),
        (GRE, "192.0.2.1"),
        (IP6_TUNNEL, "2001:db8::1"),
        (INFINIBAND, ":".join(f"{byte:02x}" for byte in range(20))),
        (WIREGUARD, None),
        (WIREGUARD + nla(1, b""), None),
    ],
)
def test_hardware_addresses_of_any_length(body: bytes, address: str | None) -> None:
    assert one(body).address == address


def test_a_link_without_statistics_or_state() -> None:
    assert one(GRE) == Interface(
        index=3,
        name="gre1",
        kind="gre",
        flags=("NO-CARRIER", "POINTOPOINT", "NOARP", "UP"),
        operstate="UNKNOWN",
        mtu=1476,
        address="192.0.2.1",
        addresses=(),
        link_index=2,
    )


def test_counters() -> None:
    found = one(ETHERNET, netlink.statistics(2, COUNTERS), netlink.statistics(3, bytes(64)))
    assert (found.rx_bytes, found.tx_bytes) == (10, 20)
    assert (found.rx_errors, found.tx_errors, found.rx_dropped, found.tx_dropped) == (3, 4, 5, 6)


def test_a_counter_that_fell_below_zero_becomes_the_largest_number_of_a_report() -> None:
    stats = struct.pack("=8Q", 1, 2, 2**64 - 1, 2**63, 3, 2**63 - 1, 2**64 - 7, 6)
    found = one(ETHERNET, netlink.statistics(2, stats))
    most = 2**63 - 1
    assert (found.rx_bytes, found.tx_bytes) == (most, most)
    assert (found.rx_errors, found.tx_errors, found.rx_dropped, found.tx_dropped) == (3, most, most, 6)
    assert canonical.parse_object(canonical.encode(found))["rx_bytes"] == most


def test_without_counters_the_links_are_reported_with_a_failure() -> None:
    found = links.parse(links.LinkReadings(listed(ETHERNET), listed(), {}, refusal="Operation not supported"))
    assert ([each.rx_bytes for each in found.items], found.cuts) == ([0], ())
    assert found.failures == ("the counters of all links: Operation not supported",)


def test_links_and_addresses_are_joined_by_index() -> None:
    peer = netlink.address(2, 32, nla(1, ip("198.51.100.2")), nla(2, ip("198.51.100.1")))
    v6 = netlink.address(2, 64, nla(1, ip("2001:db8::1")), family=socket.AF_INET6)
    gone = netlink.address(99, 24, nla(2, ip("192.0.2.9")))
    ethernet, gre = parsed_links((ETHERNET, GRE), (ADDRESS, peer, v6, gone))
    assert ethernet.addresses == ("192.0.2.1/24", "198.51.100.1/32", "2001:db8::1/64")
    assert (gre.addresses, gre.link) == ((), "eth0")


def test_a_port_of_a_bond() -> None:
    slave = nla(18, nla(4, "bond") + nla(5, nla(1, 1, 1)))
    below = link(2, "eth0", nla(10, 7), slave, nla(54, bytes.fromhex("020000000002")))
    port, bond = parsed_links((below, link(7, "bond0", link_info("bond"))))
    assert (port.master, port.slave_kind, port.slave_state) == ("bond0", "bond", "BACKUP")
    assert (port.permanent_address, bond.kind) == ("02:00:00:00:00:02", "bond")


def test_a_link_below_in_another_namespace() -> None:
    found = one(link(2, "veth0", nla(5, 2), nla(37, 0), link_info("veth")))
    assert (found.link, found.link_index, found.link_netnsid) == (None, 2, 0)
    assert one(link(2, "veth0", nla(5, 2), nla(37, 0xFFFFFFFF))).link_netnsid == -1


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (0, ()),
        (0x10049, ("LOOPBACK", "UP", "LOWER_UP")),
        (0x1003, ("NO-CARRIER", "BROADCAST", "MULTICAST", "UP")),
        (0x1043 | 1 << 20, ("BROADCAST", "MULTICAST", "UP", "100000")),
    ],
)
def test_flags(flags: int, names: tuple[str, ...]) -> None:
    assert links.flag_names(flags) == names


# --- Tunnels of kinds that this kernel may lack, with numbers from linux/if_link.h and linux/if_tunnel.h

KEYED = b"\x20\x00"
ENDS: dict[str, Any] = {"local": "192.0.2.1", "remote": "198.51.100.9"}
ENDS6: dict[str, Any] = {"local": "2001:db8::1", "remote": "2001:db8::9"}


@pytest.mark.parametrize(
    ("kind", "data", "tunnel"),
    [
        ("vxlan", (nla(1, 42), nla(2, REMOTE), nla(4, LOCAL), nla(15, b"\x12\xb5"), nla(3, 2)),
         Tunnel("t0", "vxlan", **ENDS, id=42, port=4789, link="eth0")),
        ("vxlan", (nla(1, 42), nla(16, REMOTE6), nla(17, LOCAL6)), Tunnel("t0", "vxlan", **ENDS6, id=42)),
        ("vxlan", (nla(1, 0),), Tunnel("t0", "vxlan", id=0)),
        ("geneve", (nla(1, 7), nla(2, REMOTE), nla(3, 9, 1), nla(5, b"\x17\xc1")),
         Tunnel("t0", "geneve", remote="198.51.100.9", id=7, ttl=9, port=6081)),
        ("geneve", (nla(1, 7), nla(7, REMOTE6)), Tunnel("t0", "geneve", remote="2001:db8::9", id=7)),
        ("gre", (nla(2, b"\0\0"), nla(3, b"\0\0"), nla(4, bytes(4)), nla(5, bytes(4)), nla(6, LOCAL), nla(7, REMOTE)),
         Tunnel("t0", "gre", **ENDS)),
        ("gretap", (nla(2, KEYED), nla(3, KEYED), nla(4, b"\0\0\0\x07"), nla(5, b"\0\0\0\0"), nla(20, 51820)),
         Tunnel("t0", "gretap", ikey=7, okey=0, fwmark=51820)),
        ("ip6gre", (nla(6, LOCAL6), nla(7, REMOTE6)), Tunnel("t0", "ip6gre", **ENDS6)),
        ("ipip", (nla(1, 3), nla(2, LOCAL), nla(3, REMOTE), nla(4, 64, 1)),
         Tunnel("t0", "ipip", **ENDS, ttl=64, link="eth1")),
        ("sit", (nla(2, LOCAL), nla(3, bytes(4))), Tunnel("t0", "sit", local="192.0.2.1")),
        ("ip6tnl", (nla(2, LOCAL6), nla(3, REMOTE6)), Tunnel("t0", "ip6tnl", **ENDS6)),
        ("vti", (nla(2, b"\0\0\0\x05"), nla(3, bytes(4)), nla(4, LOCAL), nla(5, REMOTE), nla(6, 9)),
         Tunnel("t0", "vti", **ENDS, ikey=5, fwmark=9)),
    ],
)  # fmt: skip
def test_tunnels(kind: str, data: tuple[bytes, ...], tunnel: Tunnel) -> None:
    assert parsed_tunnels(ETHERNET, link(9, "t0", link_info(kind, *data)), WIREGUARD) == (tunnel,)


def test_a_tunnel_bound_to_another_namespace_has_no_link_here() -> None:
    (tunnel,) = parsed_tunnels(link(9, "t0", nla(37, 1), link_info("vxlan", nla(1, 5), nla(3, 2))))
    assert tunnel.link is None


# --- Routes, rules, neighbours, lookups


@pytest.mark.parametrize(
    ("body", "route"),
    [
        (ROUTE, Route("0.0.0.0/0", "192.0.2.254", "eth0", None, 0, "boot", "unicast")),
        (netlink.route(OIF, family=10), Route("::/0", None, "eth0", None, 0, "boot", "unicast")),
        (netlink.route(nla(4, 9)), Route("0.0.0.0/0", None, "if9", None, 0, "boot", "unicast")),
        (netlink.route(OIF, protocol=77, kind=99), Route("0.0.0.0/0", None, "eth0", None, 0, "77", "99")),
    ],
)
def test_routes(body: bytes, route: Route) -> None:
    assert parsed_routes(body) == (route,)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (netlink.rule(nla(6, 32766)), Rule("inet", 32766, "lookup", 254)),
        (netlink.rule(nla(15, 51820), nla(10, 7), nla(16, 0xFF), flags=2),
         Rule("inet", 0, "lookup", 51820, fwmark=7, fwmask=0xFF, inverted=True)),
        (netlink.rule(nla(14, 0), nla(13, 0xFFFFFFFF)), Rule("inet", 0, "lookup", 254, suppress_prefixlength=0)),
        (netlink.rule(nla(14, 0xFFFFFFFF), nla(3, "eth0"), nla(17, "eth1")),
         Rule("inet", 0, "lookup", 254, iif="eth0", oif="eth1")),
        (netlink.rule(nla(1, LOCAL6), nla(2, REMOTE6), to=64, source=128, action=2, family=10) + nla(4, 100),
         Rule("inet6", 0, "goto", 254, "2001:db8::9/128", "2001:db8::1/64", goto=100)),
        (netlink.rule(nla(22, 6, 1), nla(24, struct.pack("=HH", 53, 53)), nla(20, struct.pack("=II", 0, 99)),
                      action=6),
         Rule("inet", 0, "blackhole", 254, other=("ipproto 6", "dport 53", "uidrange 0-99"))),
        (netlink.rule(nla(99, 1)), Rule("inet", 0, "lookup", 254, other=("attribute 99",))),
    ],
)  # fmt: skip
def test_rules(body: bytes, rule: Rule) -> None:
    assert parsed_rules(body) == (rule,)


def test_neighbours() -> None:
    ethernet = netlink.neighbour(2, 2, nla(1, ip("192.0.2.9")), nla(2, bytes.fromhex("020000000009")))
    assert parsed_neighbours(ethernet, netlink.neighbour(7, 0x20, nla(1, ip("192.0.2.8")))) == (
        Neighbour("192.0.2.9", "02:00:00:00:00:09", "eth0", "REACHABLE"),
        Neighbour("192.0.2.8", None, "if7", "FAILED"),
    )


def test_a_lookup_has_the_mtu_of_its_route_or_of_its_interface() -> None:
    attributes = nla(5, ip("192.0.2.254")), nla(4, 2), nla(7, ip("192.0.2.1"))
    (plain,) = parsed_lookups(netlink.route(*attributes, length=32, table=252) + nla(15, 51820))
    (bound,) = parsed_lookups(netlink.route(*attributes, nla(8, nla(2, 1280)), length=32))
    about = ("wireguard", "wg0", "198.51.100.7", 0, "eth0", "192.0.2.254", "192.0.2.1")
    assert (plain, bound) == (Lookup(*about, 1500, 51820, None), Lookup(*about, 1280, 254, None))


def test_a_lookup_that_only_differs_in_its_last_use_is_decoded_once() -> None:
    answer = netlink.route(nla(5, ip("192.0.2.253")), nla(4, 2), length=32)
    before = lookups._route.cache_info()
    found = [parsed_lookups(answer + nla(12, struct.pack("=8I", *range(number, number + 8)))) for number in range(9)]
    assert {each.gateway for (each,) in found} == {"192.0.2.253"}
    after = lookups._route.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 8)
    # Other attributes of that size, and the same one before others, stay.
    six = answer + nla(12, bytes(32)) + nla(15, 77)
    assert lookups._without_last_use(six) == six
    assert lookups._without_last_use(answer + nla(99, bytes(32))) == answer + nla(99, bytes(32))


def test_lookups_are_made_for_endpoints_remotes_and_the_manager() -> None:
    def peer(endpoint: str | None) -> WireguardPeer:
        return WireguardPeer("k", endpoint, (), 0, 0, 0, 0, False)

    found = Telemetry(
        system=None,
        wireguard=(
            WireguardInterface(
                "wg0",
                "k",
                1,
                51820,
                tuple(map(peer, ("192.0.2.1:1", "192.0.2.1:2", None, "[2001:db8::1]:3", "[fe80::1%eth0]:4"))),
            ),
        ),
        tunnels=(Tunnel("vx0", "vxlan", "192.0.2.1", "198.51.100.7", port=4789, link="eth0"), Tunnel("vx1", "vxlan")),
    )
    assert lookups.queries(found, "2001:db8::5") == (
        RouteQuery("wireguard", "wg0", "192.0.2.1", 51820, sport=1, dport=1),
        RouteQuery("wireguard", "wg0", "192.0.2.1", 51820, sport=1, dport=2),
        RouteQuery("wireguard", "wg0", "2001:db8::1", 51820, sport=1, dport=3),
        RouteQuery("wireguard", "wg0", "fe80::1", 51820, link="eth0", sport=1, dport=4),
        RouteQuery("tunnel", "vx0", "198.51.100.7", 0, "192.0.2.1", "eth0", dport=4789),
        RouteQuery("manager", None, "2001:db8::5"),
    )


# --- The machine, and failures as data

GIVEN = Inputs({}, default_limits(), FIXED)


def clock() -> float:
    return 0.0


READINGS = system.SystemReadings(
    uname=os.uname_result(("Linux", "node1.example.com", "6.1.0-test", "#1 SMP", "x86_64")),
    os_release={"NAME": "Debian GNU/Linux", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"},
    uptime="350735.47 234388.90\n",
    load=(0.5, 1.234, 20.0),
    cpus=2,
    memory=(4096, 1024),
)


def test_the_system() -> None:
    parsed = system.parse(READINGS, {"site": "north"})
    found: Any = parsed.items
    failures = parsed.failures
    assert (found.hostname, found.os) == ("node1.example.com", "Debian GNU/Linux 12 (bookworm)")
    assert (found.kernel, found.machine) == ("6.1.0-test", "x86_64")
    assert (found.uptime_seconds, found.load, found.labels) == (350735, (50, 123, 2000), {"site": "north"})
    assert (found.memory_total, found.memory_available, failures) == (4096, 1024, ())


def _uptime_of_proc() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def test_the_real_system_agrees_with_proc() -> None:
    before = _uptime_of_proc()
    parsed = system.parse(system.read(), {})
    found: Any = parsed.items
    failures = parsed.failures
    assert failures == ()
    assert found.uptime_seconds is not None
    # Both round, each in its own way.
    assert before - 1 <= found.uptime_seconds <= _uptime_of_proc() + 1
    memory = Path("/proc/meminfo").read_text().split()
    assert found.memory_total == int(memory[1]) * 1024
    assert found.cpus == os.cpu_count()
    assert found.hostname == Path("/proc/sys/kernel/hostname").read_text().strip()
    assert system.read_boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_hostname_of_any_bytes_can_be_reported() -> None:
    odd = os.uname_result(("Linux", os.fsdecode(b"node\xff"), "6.1.0", "#1", "x86_64"))
    found: Any = system.parse(system.SystemReadings(**{**fields(READINGS), "uname": odd}), {}).items
    assert canonical.parse_object(canonical.encode(found))["hostname"] == "node\ufffd"


def fields(readings: system.SystemReadings) -> dict[str, Any]:
    return {name: getattr(readings, name) for name in readings.__slots__}


def test_no_boot_id_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "sys/kernel/random"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        system.read_boot_id(tmp_path)
    (folder / "boot_id").write_text("none")
    with pytest.raises(OSError, match="is /proc mounted"):
        system.read_boot_id(tmp_path)


def test_a_failing_collector_is_data_and_the_others_still_run() -> None:
    def broken(*_: Any) -> Any:
        return parsed_links((link(2, "eth0", mtu=None),))

    def refused(*_: Any) -> Any:
        raise PermissionError(1, "x" * 900)

    listed = (Collector("links", "interfaces", broken), Collector("secret", "wireguard", refused), COLLECTORS[0])
    found = measure(GIVEN, listed)
    assert [failure.collector for failure in found.telemetry.failures] == ["links", "secret"]
    assert found.telemetry.failures[0] == CollectorFailure("links", "ValueError: eth0 has no MTU")
    assert len(found.telemetry.failures[1].reason) == 300
    assert found.telemetry.interfaces == ()
    assert found.telemetry.system is not None


def test_the_boot_id_of_the_unit_is_used() -> None:
    boot_id = "9d3b6c21-5e7f-4a80-b1c2-fedcba987654"
    assert measure(replace(GIVEN, boot_id=boot_id), ()).boot_id == boot_id
    assert measure(GIVEN, ()).boot_id == system.read_boot_id()


def test_each_run_is_timed() -> None:
    ticks = iter((1.0, 1.0025, 2.0, 2.5))

    def refused(*_: Any) -> Any:
        raise OSError("no")

    listed = (Collector("system", "system", lambda *_: None), Collector("links", "interfaces", refused))
    found = measure(replace(GIVEN, runtime=runtime(monotonic=lambda: next(ticks))), listed).telemetry
    assert [(run.collector, run.duration_us) for run in found.runs] == [("system", 2500), ("links", 500_000)]


def measured_links(*bodies: bytes) -> Measurement:
    return measure(GIVEN, (Collector("links", "interfaces", lambda *_: parsed_links(bodies)),))


def test_hardware_identifies_the_machine_and_software_only_without_hardware() -> None:
    bridge = link(7, "br0", nla(1, bytes.fromhex("0242ac110001")), link_info("bridge"))
    loopback = link(1, "lo", nla(1, bytes(6)), flags=0x10049)
    assert measured_links(loopback, bridge, ETHERNET).hardware_addresses == ("02:00:00:00:00:01",)
    assert measured_links(loopback, bridge).hardware_addresses == ("02:42:ac:11:00:01",)
