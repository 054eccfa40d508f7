"""Route lookups for the endpoints of a real tunnel: -sysinfo shows the same as `ip route get`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import iproute2
from support.agent_process import AGENT, environment
from support.netns import Namespace
from support.waiting import PATIENCE_SECONDS
from support.wireguard import connected_namespaces, new_device, wg

# Endpoints on another node, and one that never answers.
ENDPOINTS = ("192.0.2.2:51820", "[2001:db8::2]:51820", "[fe80::2%up0]:51820", "198.51.100.7:4")

NO_SCOPE = "the interface of the link-local address is unknown"


@pytest.mark.parametrize("mark", [0, 51820])
def test_endpoints_are_looked_up_under_the_mark_of_their_interface(mark: int, tmp_path: Path) -> None:
    with connected_namespaces() as (here, _), new_device(here) as device:
        here.ip("link", "set", device.name, "up")
        # The rules of wg-quick for a full tunnel: without the mark, the tunnel would run through itself.
        here.ip("route", "add", "default", "via", "192.0.2.2")
        here.ip("route", "add", "default", "dev", device.name, "table", "51820")
        here.ip("rule", "add", "not", "fwmark", "51820", "lookup", "51820", "prio", "200")
        here.ip("rule", "add", "lookup", "main", "suppress_prefixlength", "0", "prio", "199")
        for endpoint in ENDPOINTS:
            device.set("peer", wg("pubkey", stdin=wg("genkey")).strip(), "endpoint", endpoint)
        device.set("fwmark", str(mark))
        found = sysinfo(here, tmp_path)
        (interface,) = found["wireguard"]
        assert (interface["name"], interface["fwmark"], len(interface["peers"])) == (device.name, mark, len(ENDPOINTS))
        lookups = {lookup["destination"]: lookup for lookup in found["lookups"]}
        assert set(lookups) == {"192.0.2.2", "2001:db8::2", "fe80::2", "198.51.100.7"}
        for lookup in lookups.values():
            assert (lookup["purpose"], lookup["tunnel"], lookup["fwmark"]) == ("wireguard", device.name, mark)
        scopeless = lookups.pop("fe80::2")
        # wireguard-go forgets the scope, as `wg` shows, too. Without it, the kernel would choose any interface.
        assert "[fe80::2]:51820" in [peer["endpoint"] for peer in interface["peers"]]
        assert (scopeless["interface"], scopeless["error"]) == (None, NO_SCOPE)
        for lookup in lookups.values():
            assert lookup == iproute2.lookup(here, lookup)
        assert lookups["198.51.100.7"]["interface"] == ("up0" if mark else device.name)


def test_rules_for_ports_apply_to_the_ports_of_a_tunnel(tmp_path: Path) -> None:
    with connected_namespaces() as (here, _), new_device(here) as device:
        here.ip("link", "set", device.name, "up")
        device.set("listen-port", "51820")
        for table, gateway in ((78, 78), (79, 79)):
            here.ip("route", "add", "default", "via", f"192.0.2.{gateway}", "table", str(table))
            here.ip("-6", "route", "add", "default", "via", f"2001:db8::{gateway}", "table", str(table))
        for family in ("-4", "-6"):
            here.ip(
                family, "rule", "add", "ipproto", "17", "sport", "51820", "dport", "2000", "lookup", "78", "prio", "8"
            )
            here.ip(family, "rule", "add", "ipproto", "17", "dport", "2000-2100", "lookup", "79", "prio", "9")
        peers = ("198.51.100.7:2000", "198.51.100.7:2001", "198.51.100.7:2002", "[2001:db8:7::7]:2000")
        for endpoint in (*peers, "203.0.113.9:9"):
            device.set("peer", wg("pubkey", stdin=wg("genkey")).strip(), "endpoint", endpoint)
        lookups = sysinfo(here, tmp_path)["lookups"]
        ports = ["ipproto", "17", "sport", "51820", "dport"]
        for lookup in lookups:
            port = {"192.0.2.79": "2001", None: "9"}.get(lookup["gateway"], "2000")
            assert lookup == iproute2.lookup(here, lookup, *ports, port)
    # Two ports with the same route have one row.
    assert sorted((lookup["destination"], lookup["gateway"], lookup["error"]) for lookup in lookups) == [
        ("198.51.100.7", "192.0.2.78", None),
        ("198.51.100.7", "192.0.2.79", None),
        ("2001:db8:7::7", "2001:db8::78", None),
        ("203.0.113.9", None, "Network is unreachable"),
    ]


def sysinfo(namespace: Namespace, folder: Path) -> dict[str, Any]:
    """What -sysinfo shows without a helper."""
    command = namespace.command(*AGENT, "-sysinfo")
    settings = environment(WIREGUARD_HELPER=str(folder / "none.sock"))
    found: dict[str, Any] = json.loads(subprocess.check_output(command, env=settings, timeout=PATIENCE_SECONDS))
    assert found["failures"] == []
    return found


def test_a_link_local_endpoint_is_looked_up_on_its_interface() -> None:
    """Devices of the kernel report the scope, but this kernel may have none."""
    with connected_namespaces() as (here, _):
        # Without the scope, the kernel would choose the other interface.
        here.ip("link", "add", "up1", "type", "veth", "peer", "name", "far1")
        here.ip("link", "set", "up1", "up")
        here.ip("link", "set", "far1", "up")
        code = (
            "import json; from kattila_agent.collectors import link_table, lookups\n"
            "query = lambda link: lookups.RouteQuery('wireguard', 'wg0', 'fe80::2', link=link)\n"
            "queries = map(query, ('up0', 'up1', 'gone0'))\n"
            "links = link_table.read_by_index(link_table.summary)\n"
            "print(json.dumps([each._asdict() for each in lookups.parse(lookups.look_up(queries, links))]))"
        )
        found = json.loads(subprocess.check_output(here.command(sys.executable, "-c", code)))
    assert [(each["interface"], each["error"]) for each in found] == [
        ("up0", None),
        ("up1", None),
        (None, "there is no interface gone0"),
    ]
