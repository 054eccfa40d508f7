"""Nodes with too many routes, links and the like, or with links that keep changing, in their own network namespaces."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from kattila_agent.collectors.limits import shares, whole
from kattila_agent.sampling.fitting import MAX_TELEMETRY_BYTES
from support.agent_process import AGENT, environment
from support.netns import Namespace, new_namespace
from support.waiting import PATIENCE_SECONDS

# Measures twice in its own process: the second time, nothing is left to import.
MEASURE = """
import json, sys, time
from dataclasses import replace
from kattila_agent import config
from kattila_agent.__main__ import _runtime
from kattila_agent.sampling import fitting
from kattila_agent.sampling.collect import Inputs, measure
from kattila_protocol import canonical
from kattila_protocol.members import build
from kattila_protocol.report import Telemetry

def cycle():
    started, before = time.monotonic(), time.process_time()
    found = measure(Inputs({}, LIMITS, _runtime()))
    encoded = fitting.encode(found.telemetry, found.allowed_ips)
    return encoded, time.monotonic() - started, time.process_time() - before

LIMITS = replace(config.default_limits(), **json.loads(sys.argv[1]))
cycle()
encoded, seconds, cpu = cycle()
telemetry = json.loads(canonical.encode(build(Telemetry, canonical.parse_object(encoded))))
print(json.dumps({
    "telemetry": telemetry, "bytes": len(encoded), "ms": round(1000 * seconds), "cpu_ms": round(1000 * cpu),
    "rss_mb": int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) // 1024,
}))
"""


def measured(namespace: Namespace, **limits: int) -> dict[str, Any]:
    command = namespace.command(sys.executable, "-c", MEASURE, json.dumps(limits))
    found: dict[str, Any] = json.loads(subprocess.check_output(command, timeout=PATIENCE_SECONDS))
    assert found["telemetry"]["failures"] == []
    assert found["bytes"] <= MAX_TELEMETRY_BYTES
    return found


def batch(namespace: Namespace, lines: str, *words: str) -> None:
    subprocess.run(["ip", "-n", namespace.name, *words, "-batch", "-"], input=lines, text=True, check=True)


def veth(namespace: Namespace) -> None:
    namespace.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    namespace.ip("link", "set", "veth0", "addrgenmode", "none", "up")
    namespace.ip("address", "add", "192.0.2.1/24", "dev", "veth0")
    namespace.ip("address", "add", "2001:db8::1/64", "dev", "veth0", "nodad")


def test_50000_routes_are_cut_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with new_namespace() as namespace:
        veth(namespace)
        batch(
            namespace,
            "".join(f"route add 10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 dev veth0\n" for n in range(49_000)),
        )
        batch(namespace, "".join(f"route add 2001:db8:1::{n:x}/128 dev veth0\n" for n in range(1000)), "-6")
        namespace.ip("route", "add", "default", "via", "192.0.2.254")
        # The kernel lists the default route of IPv6 last.
        namespace.ip("-6", "route", "add", "default", "via", "2001:db8::fe")
        found = measured(namespace)
    routes = found["telemetry"]["routes"]
    (cut,) = found["telemetry"]["cuts"]
    assert cut["what"] == "routes"
    assert cut["kept"] == len(routes) == 2001
    # The routes of the test, and those that the kernel added for the two prefixes.
    assert cut["of"] == 49_000 + 1000 + 2 + 2
    destinations = [route[0] for route in routes]
    assert {"0.0.0.0/0", "::/0"} <= set(destinations)
    assert sum(":" in destination for destination in destinations) == 1001
    with capsys.disabled():
        print("50,000 routes:", ", ".join(f"{name} {found[name]}" for name in ("bytes", "ms", "cpu_ms", "rss_mb")))


def test_thousands_of_default_routes_are_cut_like_others() -> None:
    """A flood of router advertisements makes that many."""
    with new_namespace() as namespace:
        veth(namespace)
        batch(namespace, "".join(f"route add default via 2001:db8::fe metric {n}\n" for n in range(1, 5001)), "-6")
        namespace.ip("route", "add", "default", "via", "192.0.2.254")
        found = measured(namespace, routes=100)
    (cut,) = found["telemetry"]["cuts"]
    destinations = [route[0] for route in found["telemetry"]["routes"]]
    assert (cut["what"], cut["kept"], len(destinations)) == ("routes", len(destinations), len(destinations))
    assert cut["of"] >= 5001
    assert len(destinations) <= 4 * 100
    assert {"0.0.0.0/0", "192.0.2.0/24", "::/0"} <= set(destinations)


def test_the_limit_of_routes_applies_to_next_hops(capsys: pytest.CaptureFixture[str]) -> None:
    hops = "".join(f" nexthop via 192.0.2.{n}" for n in range(2, 18))
    with new_namespace() as namespace:
        veth(namespace)
        batch(namespace, "".join(f"route add 10.0.{n >> 8}.{n & 255}{hops}\n" for n in range(2500)))
        namespace.ip("route", "add", "default", "via", "192.0.2.254")
        found = measured(namespace)
    (cut,) = found["telemetry"]["cuts"]
    routes = found["telemetry"]["routes"]
    hops_by_route = Counter(route[0] for route in routes if route[0].startswith("10."))
    assert (cut["what"], cut["kept"]) == ("routes", len(routes))
    assert set(hops_by_route.values()) == {16}
    # Another route would not have fitted. The IPv6 prefix is one of these rows.
    assert 2000 - 16 < len(routes) <= 2000
    # The first 2,000 messages of IPv4 were kept: with the default route, without the route of the prefix.
    assert cut["of"] == 1 + 1999 * 16 + 501 + 1 + 1
    with capsys.disabled():
        print("2,500 routes of 16:", ", ".join(f"{name} {found[name]}" for name in ("bytes", "ms", "cpu_ms", "rss_mb")))


# Removing many links takes longer than reading them; a hundred show the same as a thousand.
def test_neighbours_interfaces_addresses_and_rules_are_cut() -> None:
    with new_namespace() as namespace:
        veth(namespace)
        batch(namespace, "".join(f"link add b{n} type bridge\n" for n in range(97)))
        batch(namespace, "".join(f"address add 198.51.100.{n}/32 dev veth0\n" for n in range(20)))
        batch(namespace, "".join(f"rule add from 192.0.2.9 lookup 77 prio {n}\n" for n in range(100, 200)))
        batch(
            namespace,
            "".join(f"neigh add 192.0.2.{n} lladdr 02:00:00:00:00:01 dev veth0\n" for n in range(10, 210))
            + "".join(f"neigh add 2001:db8::{n} lladdr 02:00:00:00:00:01 dev veth0\n" for n in range(10, 15)),
        )
        links = len(namespace.listed("link"))
        found = measured(namespace, interfaces=50, addresses=10, neighbours=100, rules=40)
    telemetry = found["telemetry"]
    assert {cut["what"]: (cut["kept"], cut["of"]) for cut in telemetry["cuts"]} == {
        "interfaces": (50, links),
        # The first 10 of IPv4, and the only one of IPv6.
        "addresses": (11, 22),
        "neighbours": (100, 205),
        "rules": (40, 100 + 3 + 2),
    }
    assert [len(telemetry[name]) for name in ("interfaces", "neighbours", "rules")] == [50, 100, 40]
    # Both families are reported, the smaller one completely.
    assert sum(":" in neighbour[0] for neighbour in telemetry["neighbours"]) == 5
    assert sum(rule["family"] == "inet6" for rule in telemetry["rules"]) == 2


def test_a_link_with_thousands_of_addresses_leaves_room_for_other_links() -> None:
    """kube-ipvs0, for example, has the addresses of all services of a cluster."""
    with new_namespace() as namespace:
        batch(namespace, "".join(f"link add {name} type bridge\n" for name in ("ipvs0", "w0")))
        namespace.ip("link", "set", "w0", "addrgenmode", "none")
        namespace.ip("link", "set", "w0", "up")
        batch(namespace, "".join(f"address add 10.96.{n >> 8}.{n & 255}/32 dev ipvs0\n" for n in range(2000)))
        batch(namespace, "".join(f"address add 192.0.2.{n}/32 dev w0\n" for n in range(1, 10)))
        batch(namespace, "".join(f"address add 2001:db8::{n}/128 dev w0 nodad\n" for n in range(1, 10)))
        found = measured(namespace)
    addresses = {each["name"]: each["addresses"] for each in found["telemetry"]["interfaces"]}
    assert {name: len(each) for name, each in addresses.items()} == {"lo": 0, "ipvs0": 2000, "w0": 8 + 8}
    assert addresses["w0"][:8] == [f"192.0.2.{n}/32" for n in range(1, 9)]
    assert found["telemetry"]["cuts"] == [{"what": "addresses", "kept": 2016, "of": 2018, "where": ""}]


def test_addresses_of_cut_links_take_no_room_and_are_counted() -> None:
    with new_namespace() as namespace:
        batch(namespace, "".join(f"link add {name} type bridge\n" for name in ("b0", "b1", "b2")))
        batch(namespace, "".join(f"address add 2001:db8::{n}/128 dev b0 nodad\n" for n in range(1, 21)))
        batch(namespace, "".join(f"address add 198.51.100.{n}/32 dev b2\n" for n in range(1, 21)))
        found = measured(namespace, interfaces=2, addresses=15)
    assert [len(each["addresses"]) for each in found["telemetry"]["interfaces"]] == [0, 15]
    assert {cut["what"]: (cut["kept"], cut["of"]) for cut in found["telemetry"]["cuts"]} == {
        "interfaces": (2, 4),
        "addresses": (15, 40),
    }


def test_tunnels_and_lookups_do_not_depend_on_which_links_are_cut() -> None:
    with new_namespace() as namespace, new_namespace() as other:
        veth(namespace)
        namespace.ip("link", "set", "veth0", "mtu", "1400")
        vxlan = ("type", "vxlan", "dstport", "4789", "id")
        if not namespace.has("link", "add", "vx0", *vxlan, "7", "remote", "192.0.2.9", "dev", "veth0"):
            pytest.skip("this kernel has no vxlan")
        remotes = ("dev", "vx0", "dst", "192.0.2.10")
        subprocess.run(["bridge", "-n", namespace.name, "fdb", "append", "00:00:00:00:00:00", *remotes], check=True)
        other.ip("link", "add", "moved0", *vxlan, "8", "remote", "192.0.2.44")
        other.ip("link", "set", "moved0", "netns", namespace.name)
        whole, few, fewest = (sysinfo(namespace, MAX_INTERFACES=most) for most in ("1000", "2", "1"))
    assert [each["name"] for each in few["interfaces"]] == ["lo", "veth1"]
    assert few["cuts"] == [cut_of("interfaces", 2, 5), cut_of("addresses", 0, 2)]
    assert [(each["interface"], each["link"]) for each in few["tunnels"]] == [("vx0", "veth0"), ("moved0", None)]
    assert [each["remotes"] for each in few["tunnels"]] == [["192.0.2.10"], []]
    # None for the tunnel that was moved here.
    expected = [(name, f"192.0.2.{host}", 1400) for name, host in (("vx0", 9), ("vx0", 10), (None, 77))]
    assert [(each["tunnel"], each["destination"], each["mtu"]) for each in few["lookups"]] == expected
    assert (few["tunnels"], few["lookups"]) == (whole["tunnels"], whole["lookups"])
    assert fewest["tunnels"] == whole["tunnels"][:1]
    assert fewest["cuts"] == [cut_of("interfaces", 1, 5), cut_of("addresses", 0, 2), cut_of("tunnels", 1, 2)]


def cut_of(what: str, kept: int, of: int) -> dict[str, Any]:
    return {"what": what, "kept": kept, "of": of, "where": ""}


def sysinfo(namespace: Namespace, **settings: str) -> dict[str, Any]:
    chosen = environment(MANAGER_URL="http://192.0.2.77:5086", **settings)
    raw = subprocess.check_output(namespace.command(*AGENT, "-sysinfo"), env=chosen, timeout=PATIENCE_SECONDS)
    found: dict[str, Any] = json.loads(raw)
    assert found["failures"] == []
    return found


@pytest.mark.parametrize(
    ("limit", "counts", "granted"),
    [
        (10, [3, 4], [3, 4]),
        (10, [100, 100], [5, 5]),
        (10, [100, 2], [8, 2]),
        (10, [1, 100, 100], [1, 4, 5]),
        (0, [5], [0]),
        (1, [5, 5], [0, 1]),
        (5, [], []),
    ],
)
def test_a_limit_is_shared(limit: int, counts: list[int], granted: list[int]) -> None:
    assert shares(limit, counts) == granted
    assert sum(granted) == min(limit, sum(counts))


@pytest.mark.parametrize(
    ("sizes", "limit", "taken"),
    [
        ([4, 4, 4], 12, [4, 4, 4]),
        ([4, 4, 4], 11, [4, 4, 0]),
        ([4, 9, 4, 1], 9, [4, 0, 4, 1]),
        ([0, 9, 8], 3, [0, 3, 0]),
        ([2, 2], 0, [0, 0]),
        ([0, 0], 5, [0, 0]),
        ([], 5, []),
    ],
)
def test_a_group_is_only_split_if_no_group_fits(sizes: list[int], limit: int, taken: list[int]) -> None:
    assert whole(sizes, limit) == taken


def test_links_that_come_and_go_never_make_a_report_fail() -> None:
    code = MEASURE.split("cycle()\nencoded", maxsplit=1)[0] + (
        "for _ in range(600):\n"
        "    found = measure(Inputs({}, config.default_limits(), _runtime(), '192.0.2.77')).telemetry\n"
        "    print(json.dumps([[f.reason for f in found.failures], [i.name for i in found.interfaces]]))\n"
    )
    with new_namespace() as namespace:
        veth(namespace)
        stop = threading.Event()
        changes: list[str] = []
        thread = threading.Thread(target=come_and_go, args=(namespace, stop, changes))
        thread.start()
        try:
            output = subprocess.check_output(
                namespace.command(sys.executable, "-c", code, "{}"), timeout=PATIENCE_SECONDS, text=True
            )
        finally:
            stop.set()
            thread.join()
    found = [json.loads(line) for line in output.splitlines()]
    assert [failures for failures, _ in found if failures] == []
    assert all({"lo", "veth0", "veth1"} <= set(names) for _, names in found)
    seen = {frozenset(names) for _, names in found}
    print(len(changes), "changes,", len(seen), "different sets of links in", len(found), "reports")
    assert len(changes) > 10
    assert len(seen) > 1


def come_and_go(namespace: Namespace, stop: threading.Event, changes: list[str]) -> None:
    """Make and remove links with addresses, routes, neighbours and tunnels, until `stop` is set."""
    make = (
        "link add t{0} type veth peer name p{0}\nlink set t{0} up\naddress add 198.51.100.{0}/24 dev t{0}\n"
        "route add 203.0.113.{0} dev t{0}\nneighbour add 198.51.100.99 lladdr 02:00:00:00:00:09 dev t{0}\n"
        "link add x{0} type vxlan id {0} dstport 4789 remote 203.0.113.{0} dev t{0}\n"
    )
    while not stop.is_set():
        for number in (7, 8, 9):
            batch(namespace, make.format(number))
            changes.append("made")
        for number in (7, 8, 9):
            batch(namespace, f"link del x{number}\nlink del t{number}\n")
            changes.append("gone")
        stop.wait(0.02)


def test_names_of_any_bytes_are_reported_completely() -> None:
    with new_namespace() as namespace:
        odd = b"w\xc3\xa4g\xff\x01"
        for words in (
            (b"link", b"add", odd, b"type", b"bridge"),
            (b"address", b"add", b"192.0.2.1/24", b"dev", odd),
            (b"link", b"set", odd, b"up"),
            (b"neighbour", b"add", b"192.0.2.9", b"lladdr", b"02:00:00:00:00:09", b"dev", odd),
            (b"rule", b"add", b"iif", odd, b"lookup", b"77"),
            (b"link", b"add", b"vx0", b"type", b"vxlan", b"id", b"7", b"dstport", b"4789", b"dev", odd),
        ):
            subprocess.run([b"ip", b"-n", namespace.name.encode(), *words], check=True, capture_output=True)
        raw = subprocess.check_output(
            namespace.command(*AGENT, "-sysinfo"), env=environment(), timeout=PATIENCE_SECONDS
        )
    found = json.loads(raw)
    name = "wäg\\xff\x01"
    assert found["failures"] == []
    assert name in [link["name"] for link in found["interfaces"]]
    assert [route["interface"] for route in found["routes"] if route["destination"] == "192.0.2.0/24"] == [name]
    assert [neighbour["interface"] for neighbour in found["neighbours"]] == [name]
    assert name in [rule["iif"] for rule in found["rules"]]
    assert [tunnel["link"] for tunnel in found["tunnels"]] == [name]
