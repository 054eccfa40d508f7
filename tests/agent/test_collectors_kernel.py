"""What the collectors read is what `ip` reads, field by field, in a network namespace of the test's own."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support.agent_process import AGENT, environment
from support.netns import Namespace, new_namespace

# Kinds that a kernel may lack; what it has is compared.
OPTIONAL = {
    "dummy": ("link", "add", "d0", "type", "dummy"),
    "vlan": ("link", "add", "link", "veth0", "name", "veth0.7", "type", "vlan", "id", "7"),
    "vxlan": ("link", "add", "vx0", "type", "vxlan", "id", "42", "dstport", "4789", "local", "192.0.2.1"),
    "bond": ("link", "add", "bond0", "type", "bond"),
    "macvlan": ("link", "add", "link", "veth0", "name", "mac0", "type", "macvlan"),
    "gre": ("link", "add", "gre7", "type", "gre", "remote", "192.0.2.9", "local", "192.0.2.1"),
    "sit": ("link", "add", "sit7", "type", "sit", "remote", "192.0.2.9", "local", "192.0.2.1"),
    "ip6tnl": ("link", "add", "six7", "type", "ip6tnl", "remote", "2001:db8::9", "local", "2001:db8::1"),
    "wireguard": ("link", "add", "wg0", "type", "wireguard"),
    "tun": ("tuntap", "add", "dev", "tun0", "mode", "tun"),
}


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with new_namespace() as made:
        build(made)
        yield made


@pytest.fixture(scope="module")
def seen(namespace: Namespace) -> dict[str, Any]:
    """What -sysinfo prints in the namespace."""
    command = namespace.command(*AGENT, "-sysinfo")
    found: dict[str, Any] = json.loads(subprocess.check_output(command, env=environment(), timeout=30))
    assert found["failures"] == []
    return found


def build(namespace: Namespace) -> None:
    namespace.ip("link", "set", "lo", "up")
    namespace.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    namespace.ip("link", "add", "br0", "type", "bridge")
    namespace.ip("link", "set", "veth1", "master", "br0")
    namespace.ip("address", "add", "192.0.2.1/24", "dev", "veth0")
    namespace.ip("address", "add", "198.51.100.1", "peer", "198.51.100.2/32", "dev", "veth0")
    namespace.ip("address", "add", "2001:db8::1/64", "dev", "veth0", "nodad")
    namespace.ip("address", "add", "2001:db8:1::1", "peer", "2001:db8:1::2/128", "dev", "veth0", "nodad")
    namespace.ip("link", "set", "veth0", "mtu", "1420", "up")
    namespace.ip("link", "set", "veth1", "promisc", "on", "up")
    missing = [kind for kind, words in OPTIONAL.items() if not namespace.has(*words)]
    if missing:
        print("this kernel has no", ", ".join(missing))
    namespace.ip("route", "add", "default", "via", "192.0.2.254", "metric", "100")
    namespace.ip("route", "add", "203.0.113.0/24", "via", "192.0.2.253", "src", "192.0.2.1", "proto", "static")
    namespace.ip("route", "add", "203.0.113.9", "dev", "veth0", "proto", "dhcp")
    namespace.ip("route", "add", "blackhole", "233.252.0.0/24", "proto", "200")
    namespace.ip("route", "add", "198.18.0.0/24", "nexthop", "via", "192.0.2.7", "nexthop", "via", "192.0.2.8")
    namespace.ip("route", "add", "198.18.1.0/24", "via", "inet6", "2001:db8::9", "dev", "veth0")
    namespace.ip("route", "add", "198.18.2.0/24", "dev", "veth0", "table", "77")
    namespace.ip("-6", "route", "add", "default", "via", "2001:db8::fe", "metric", "50", "proto", "ra")
    namespace.ip("-6", "route", "add", "unreachable", "2001:db8:dead::/48")
    namespace.ip(
        "-6", "route", "add", "2001:db8:2::/48", "nexthop", "via", "2001:db8::7", "nexthop", "via", "2001:db8::8"
    )


def test_links(namespace: Namespace, seen: dict[str, Any]) -> None:
    expected = [
        {
            "index": link["ifindex"],
            "name": link["ifname"],
            "kind": link.get("linkinfo", {}).get("info_kind"),
            # ip derives M-DOWN from the other end's state.
            "flags": [flag for flag in link["flags"] if flag != "M-DOWN"],
            "operstate": link["operstate"],
            "mtu": link["mtu"],
            "address": link.get("address"),
            "master": link.get("master"),
            "link": link.get("link"),
        }
        for link in namespace.listed("link")
    ]
    assert [{name: link[name] for name in expected[0]} for link in seen["interfaces"]] == expected
    assert {"veth", "bridge", None} <= {link["kind"] for link in expected}
    assert {"br0"} == {link["master"] for link in expected} - {None}


def test_a_link_into_another_namespace_names_nothing_here() -> None:
    with new_namespace() as here, new_namespace() as there:
        here.ip("link", "add", "out0", "type", "veth", "peer", "name", "in0", "netns", there.name)
        found = json.loads(subprocess.check_output(here.command(*AGENT, "-sysinfo"), env=environment(), timeout=30))
        out = next(link for link in found["interfaces"] if link["name"] == "out0")
        assert (out["kind"], out["link"]) == ("veth", None)


def test_addresses(namespace: Namespace, seen: dict[str, Any]) -> None:
    expected = {
        link["ifname"]: [f"{address['local']}/{address['prefixlen']}" for address in link["addr_info"]]
        for link in namespace.listed("address")
    }
    assert {link["name"]: link["addresses"] for link in seen["interfaces"]} == expected
    assert "198.51.100.1/32" in expected["veth0"]


def test_counters_move_with_the_traffic(namespace: Namespace) -> None:
    code = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(bytes(1000), ('127.0.0.1', 9))"
    subprocess.check_call(namespace.command(sys.executable, "-c", code))
    found = json.loads(subprocess.check_output(namespace.command(*AGENT, "-sysinfo"), env=environment(), timeout=30))
    expected = {link["ifname"]: link["stats64"] for link in namespace.listed("-statistics", "link")}
    lo = next(link for link in found["interfaces"] if link["name"] == "lo")
    assert lo["rx_bytes"] == expected["lo"]["rx"]["bytes"] >= 1000
    assert lo["tx_bytes"] == expected["lo"]["tx"]["bytes"] >= 1000


def test_routes(namespace: Namespace, seen: dict[str, Any]) -> None:
    listed = [
        (route, version)
        for version in (4, 6)
        for route in namespace.listed(f"-{version}", "route", "show", "table", "main")
    ]
    expected = [
        {
            "destination": destination(route["dst"], version),
            "gateway": hop.get("gateway") or hop.get("via", {}).get("host"),
            "interface": hop.get("dev"),
            "source": route.get("prefsrc"),
            "metric": route.get("metric", 0),
            "protocol": route["protocol"],
            "type": route["type"],
        }
        for route, version in listed
        for hop in route.get("nexthops", [route])
    ]
    assert seen["routes"] == expected
    assert {"blackhole", "unreachable", "unicast"} <= {route["type"] for route in expected}
    assert "198.18.2.0/24" not in {route["destination"] for route in expected}
    assert "2001:db8::9" in {route["gateway"] for route in expected if route["destination"] == "198.18.1.0/24"}
    assert sum(route["destination"] in ("198.18.0.0/24", "2001:db8:2::/48") for route in expected) == 4


def destination(text: str, version: int) -> str:
    default = "0.0.0.0/0" if version == 4 else "::/0"
    return str(ipaddress.ip_network(default if text == "default" else text))


def test_many_routes_are_cut_off_and_cost_little() -> None:
    with new_namespace() as namespace:
        namespace.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        namespace.ip("address", "add", "192.0.2.1/24", "dev", "veth0")
        namespace.ip("link", "set", "veth0", "up")
        batch = "".join(
            f"route add 10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32 dev veth0\n" for number in range(50_000)
        )
        subprocess.run(["ip", "-n", namespace.name, "-batch", "-"], input=batch, text=True, check=True)
        code = (
            "import resource; from kattila_agent.collectors import routes\n"
            "routes.parse(*routes.read())\n"
            "before = resource.getrusage(resource.RUSAGE_SELF)\n"
            "print(len(routes.parse(*routes.read())))\n"
            "after = resource.getrusage(resource.RUSAGE_SELF)\n"
            "print(after.ru_maxrss // 1024, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)"
        )
        found = subprocess.check_output(namespace.command(sys.executable, "-c", code), text=True, timeout=60)
    count, megabytes, seconds = found.split()
    assert int(count) == 2000
    assert int(megabytes) < 100
    assert float(seconds) < 2


def test_names_of_any_bytes_arrive_whole() -> None:
    with new_namespace() as namespace:
        odd = b"w\xc3\xa4g\xff\x01"
        subprocess.run(
            [b"ip", b"-n", namespace.name.encode(), b"link", b"add", odd, b"type", b"bridge"],
            check=True,
            capture_output=True,
        )
        subprocess.run(
            [b"ip", b"-n", namespace.name.encode(), b"address", b"add", b"192.0.2.1/24", b"dev", odd], check=True
        )
        subprocess.run([b"ip", b"-n", namespace.name.encode(), b"link", b"set", odd, b"up"], check=True)
        raw = subprocess.check_output(namespace.command(*AGENT, "-sysinfo"), env=environment(), timeout=30)
    found = json.loads(raw)
    name = "wäg\\xff\x01"
    assert found["failures"] == []
    assert name in [link["name"] for link in found["interfaces"]]
    assert [route["interface"] for route in found["routes"] if route["destination"] == "192.0.2.0/24"] == [name]
