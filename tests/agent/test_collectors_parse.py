"""Parsing alone: recorded messages of links that this kernel may lack, malformed ones, and failures as data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kattila_agent.collectors import links, routes, system
from kattila_agent.collectors.collect import COLLECTORS, Collector, measure
from kattila_agent.collectors.rtnetlink import Message
from kattila_protocol import canonical
from kattila_protocol.report import CollectorFailure, Interface, Route

# As dump() gave them on 6.x kernels, reduced to what is read.
ETHERNET: dict[str, Any] = {
    "index": 2,
    "ifi_type": 1,
    "flags": 69699,
    "IFLA_IFNAME": "eth0",
    "IFLA_ADDRESS": bytes.fromhex("020000000001"),
    "IFLA_MTU": 1500,
    "IFLA_OPERSTATE": "UP",
    "IFLA_STATS64": {"rx_bytes": 10, "tx_bytes": 20},
}
GRE: dict[str, Any] = {
    "index": 3,
    "ifi_type": 778,
    "flags": 0x91,
    "IFLA_IFNAME": "gre1",
    "IFLA_ADDRESS": bytes((192, 0, 2, 1)),
    "IFLA_MTU": 1476,
    "IFLA_LINK": 2,
    "IFLA_LINKINFO": {"IFLA_INFO_KIND": "gre"},
}
IP6_TUNNEL = GRE | {"ifi_type": 769, "IFLA_ADDRESS": bytes.fromhex("20010db8" + "00" * 11 + "01")}
INFINIBAND = ETHERNET | {"ifi_type": 32, "IFLA_ADDRESS": bytes(range(20))}
WIREGUARD: dict[str, Any] = {
    "index": 5,
    "ifi_type": 65534,
    "flags": 0x10091,
    "IFLA_IFNAME": "wg0",
    "IFLA_MTU": 1420,
    "IFLA_OPERSTATE": "UNKNOWN",
    "IFLA_LINKINFO": {"IFLA_INFO_KIND": "wireguard"},
}
ADDRESS: dict[str, Any] = {"index": 2, "prefixlen": 24, "IFA_ADDRESS": "192.0.2.1", "IFA_LOCAL": "192.0.2.1"}
ROUTE: dict[str, Any] = {
    "family": 2,
    "dst_len": 0,
    "proto": 3,
    "type": 1,
    "flags": 0,
    "RTA_GATEWAY": "192.0.2.254",
    "RTA_OIF": 2,
}


def one(link: Message) -> Interface:
    (interface,) = links.parse([link], [])
    return interface


@pytest.mark.parametrize(
    ("link", "address"),
    [
        (ETHERNET, "02:00:00:00:00:01"),
        (GRE, "192.0.2.1"),
        (IP6_TUNNEL, "2001:db8::1"),
        (INFINIBAND, ":".join(f"{byte:02x}" for byte in range(20))),
        (WIREGUARD, None),
        (WIREGUARD | {"IFLA_ADDRESS": b""}, None),
    ],
)
def test_hardware_addresses_of_any_length(link: Message, address: str | None) -> None:
    assert one(link).address == address


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
    )


def test_links_and_addresses_are_joined_by_index() -> None:
    peer = ADDRESS | {"prefixlen": 32, "IFA_ADDRESS": "198.51.100.2", "IFA_LOCAL": "198.51.100.1"}
    v6 = {"index": 2, "prefixlen": 64, "IFA_ADDRESS": "2001:db8::1"}
    ethernet, gre = links.parse([ETHERNET, GRE], [ADDRESS, peer, v6])
    assert ethernet.addresses == ("192.0.2.1/24", "198.51.100.1/32", "2001:db8::1/64")
    assert (gre.addresses, gre.link) == ((), "eth0")


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


@pytest.mark.parametrize(
    ("message", "route"),
    [
        (ROUTE, Route("0.0.0.0/0", "192.0.2.254", "eth0", None, 0, "boot", "unicast")),
        (ROUTE | {"family": 10}, Route("::/0", "192.0.2.254", "eth0", None, 0, "boot", "unicast")),
        (ROUTE | {"RTA_OIF": 9}, Route("0.0.0.0/0", "192.0.2.254", "if9", None, 0, "boot", "unicast")),
        (ROUTE | {"proto": 77, "type": 99}, Route("0.0.0.0/0", "192.0.2.254", "eth0", None, 0, "77", "99")),
    ],
)
def test_routes(message: Message, route: Route) -> None:
    assert routes.parse([message], {2: "eth0"}) == (route,)


def test_cached_routes_are_no_routes() -> None:
    assert routes.parse([ROUTE | {"flags": 0x200}], {}) == ()


def without(message: Message, name: str) -> Message:
    return {key: value for key, value in message.items() if key != name}


@pytest.mark.parametrize("name", ["index", "ifi_type", "flags", "IFLA_IFNAME", "IFLA_MTU"])
def test_a_link_that_lacks_something_fails(name: str) -> None:
    with pytest.raises(KeyError):
        links.parse([without(ETHERNET, name)], [])


@pytest.mark.parametrize("name", ["family", "dst_len", "proto", "type", "flags"])
def test_a_route_that_lacks_something_fails(name: str) -> None:
    with pytest.raises(KeyError):
        routes.parse([without(ROUTE, name)], {})


@pytest.mark.parametrize(
    "change", [{"dst_len": 33}, {"RTA_DST": "192.0.2.1", "dst_len": 24}, {"RTA_DST": "somewhere"}, {"type": None}]
)
def test_a_route_that_cannot_be_fails(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        routes.parse([ROUTE | change], {})


READINGS = system.Readings(
    uname=os.uname_result(("Linux", "node1.example.com", "6.1.0-test", "#1 SMP", "x86_64")),
    os_release={"NAME": "Debian GNU/Linux", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"},
    uptime="350735.47 234388.90\n",
    load=(0.5, 1.234, 20.0),
    cpus=2,
    memory_total=4096,
    memory_available=1024,
)


def test_the_system() -> None:
    found = system.parse(READINGS, {"site": "north"})
    assert (found.hostname, found.os) == ("node1.example.com", "Debian GNU/Linux 12 (bookworm)")
    assert (found.kernel, found.machine) == ("6.1.0-test", "x86_64")
    assert (found.uptime_seconds, found.load, found.labels) == (350735, (50, 123, 2000), {"site": "north"})


def test_the_real_system_agrees_with_proc() -> None:
    found = system.parse(system.read(), {})
    memory = Path("/proc/meminfo").read_text().split()
    assert found.memory_total == int(memory[1]) * 1024
    assert abs(found.uptime_seconds - float(Path("/proc/uptime").read_text().split()[0])) <= 2
    assert found.cpus == os.cpu_count()
    assert found.hostname == Path("/proc/sys/kernel/hostname").read_text().strip()
    assert system.read_boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_hostname_of_any_bytes_can_be_reported() -> None:
    odd = os.uname_result(("Linux", os.fsdecode(b"node\xff"), "6.1.0", "#1", "x86_64"))
    found = system.parse(system.Readings(**{**fields(READINGS), "uname": odd}), {})
    assert canonical.parse_object(canonical.encode(found))["hostname"] == "node\ufffd"


def fields(readings: system.Readings) -> dict[str, Any]:
    return {name: getattr(readings, name) for name in readings.__slots__}


def test_no_boot_id_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "sys/kernel/random"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        system.read_boot_id(tmp_path)
    (folder / "boot_id").write_text("none")
    with pytest.raises(OSError, match="is /proc mounted"):
        system.read_boot_id(tmp_path)


def test_a_failing_collector_is_data_and_the_others_go_on() -> None:
    def broken(_: Mapping[str, str]) -> Any:
        return links.parse([without(ETHERNET, "IFLA_MTU")], [])

    def refused(_: Mapping[str, str]) -> Any:
        raise PermissionError(1, "x" * 500)

    found = measure(
        {}, 5, (Collector("links", "interfaces", broken), Collector("secret", "wireguard", refused), COLLECTORS[0])
    )
    assert [failure.collector for failure in found.telemetry.failures] == ["links", "secret"]
    assert found.telemetry.failures[0] == CollectorFailure("links", "KeyError: 'IFLA_MTU'")
    assert len(found.telemetry.failures[1].reason) == 200
    assert found.telemetry.interfaces == ()
    assert found.telemetry.system is not None


def test_hardware_tells_the_machine_and_software_only_where_there_is_none() -> None:
    def addresses(*messages: Message) -> tuple[str, ...]:
        collector = Collector("links", "interfaces", lambda _: links.parse(messages, []))
        return measure({}, 0, (collector,)).hardware_addresses

    bridge = ETHERNET | {
        "index": 7,
        "IFLA_ADDRESS": bytes.fromhex("0242ac110001"),
        "IFLA_LINKINFO": {"IFLA_INFO_KIND": "bridge"},
    }
    loopback = ETHERNET | {"index": 1, "flags": 0x10049, "IFLA_ADDRESS": bytes(6)}
    assert addresses(loopback, bridge, ETHERNET) == ("02:00:00:00:00:01",)
    assert addresses(loopback, bridge) == ("02:42:ac:11:00:01",)
