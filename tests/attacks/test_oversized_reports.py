"""A PSK holder cannot make a report, a list or a counter so large that it harms the manager or other agents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from kattila_protocol import canonical, registration
from kattila_protocol.report import (
    Cut,
    Interface,
    Neighbour,
    Route,
    Spool,
    Telemetry,
    WireguardInterface,
    WireguardPeer,
)
from support.manager import REGISTER, Manager, now_ms, running_manager
from support.reports import KEY, RING, node, nonce_of, registering, relayed, report, sealed, sealed_bytes

MB = 1_000_000
LINK = Interface(1, "eth0", None, (), "UP", 1500, None, ())
PEER = WireguardPeer("", None, (), 0, 0, 0, 0, False)
MOST = 2**63 - 1


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with running_manager(tmp_path_factory.mktemp("oversized")) as running:
        yield running


def of_system(**members: Any) -> Callable[[Telemetry], Telemetry]:
    def change(telemetry: Telemetry) -> Telemetry:
        assert telemetry.system is not None
        return replace(telemetry, system=replace(telemetry.system, **members))

    return change


def of_telemetry(**members: Any) -> Callable[[Telemetry], Telemetry]:
    return lambda telemetry: replace(telemetry, **members)


def tunnel(**members: Any) -> Callable[[Telemetry], Telemetry]:
    return of_telemetry(wireguard=(replace(WireguardInterface("wg0", "", 1, 0, (PEER,)), **members),))


# Each was accepted, and made something large: names outside of the pruned reports, rows in memory, sums of counters.
REPORTS: dict[str, Callable[[Telemetry], Telemetry]] = {
    "a host name of 1 MB": of_system(hostname="x" * MB),
    "a host name of 256 characters": of_system(hostname="x" * 256),
    "a host name of 256 wide characters": of_system(hostname="\U0001f600" * 256),
    "a host name of 1 MB of NUL bytes": of_system(hostname="\0" * (MB // 6)),
    "an agent's version of 1 MB": of_system(agent_version="x" * MB),
    "an operating system of 1 MB": of_system(os="x" * MB),
    "a label of 1 MB": of_system(labels={"site": "x" * MB}),
    "a label's name of 1 MB": of_system(labels={"x" * MB: ""}),
    "80,000 labels": of_system(labels={str(number): "" for number in range(80_000)}),
    "an interface's name of 1 MB": of_telemetry(interfaces=(replace(LINK, name="x" * MB),)),
    "a hardware address of 1 MB": of_telemetry(interfaces=(replace(LINK, address="0:" * (MB // 2)),)),
    "a flag of 1 MB": of_telemetry(interfaces=(replace(LINK, flags=("x" * MB,)),)),
    "300,000 flags": of_telemetry(interfaces=(replace(LINK, flags=("",) * 300_000),)),
    "300,000 addresses": of_telemetry(interfaces=(replace(LINK, addresses=("",) * 300_000),)),
    "2,500 interfaces with 2 addresses and 10 flags": of_telemetry(
        interfaces=(replace(LINK, addresses=("",) * 2, flags=("",) * 11),) * 2_500
    ),
    "300,000 AllowedIPs": tunnel(peers=(PEER._replace(allowed_ips=("",) * 300_000),)),
    "300,000 AllowedIPs of 100 peers": tunnel(peers=(PEER._replace(allowed_ips=("",) * 3_000),) * 100),
    "a public key of 1 MB": tunnel(public_key="x" * MB),
    "65,000 neighbours": of_telemetry(neighbours=(Neighbour("", None, "", ""),) * 65_000),
    "16,000 routes and 17,000 neighbours": of_telemetry(
        routes=(Route("", None, None, None, 0, "", ""),) * 16_000, neighbours=(Neighbour("", None, "", ""),) * 17_000
    ),
    "a cut of 1 MB": of_telemetry(cuts=(Cut("routes", 1, 2, "x" * MB),)),
    "2^63 - 1 dropped samples": of_telemetry(spool=Spool(0, 0, MOST)),
    "2^53 dropped samples": of_telemetry(spool=Spool(0, 0, 2**53)),
    "-1 waiting samples": of_telemetry(spool=Spool(-1, 0, 0)),
    "2^63 - 1 waiting samples": of_telemetry(spool=Spool(MOST, MOST, 0, MOST)),
    "an MTU of 2^63 - 1": of_telemetry(interfaces=(replace(LINK, mtu=MOST),)),
    "a negative MTU": of_telemetry(interfaces=(replace(LINK, mtu=-MOST),)),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_beyond_its_bounds_is_refused_for_good(manager: Manager, name: str) -> None:
    liar = node(1000 + list(REPORTS).index(name))
    honest = report(liar, 1, now_ms())
    reply = manager.post(sealed(replace(honest, telemetry=REPORTS[name](honest.telemetry))))
    # The verdict is signed, so an honest agent would drop the sample instead of sending it forever.
    assert (reply.status, reply.verdict(honest.nonce).outcome) == (400, "malformed")
    assert manager.rows("SELECT hostname FROM agents WHERE agent_id = ?", liar.agent_id) == []
    assert len(reply.body) < 2000


REGISTRATIONS: dict[str, dict[str, Any]] = {
    "a host name of 200 kB": {"hostname": "x" * 200_000},
    "a host name of 256 characters": {"hostname": "x" * 256},
    "a hardware address of 200 kB": {"hardware_addresses": ("x" * 200_000,)},
    "1,000 hardware addresses of 200 characters": {"hardware_addresses": ("x" * 200,) * 1000},
}


@pytest.mark.parametrize("name", REGISTRATIONS)
def test_a_registration_beyond_its_bounds_is_refused(manager: Manager, name: str) -> None:
    liar = node(2000 + list(REGISTRATIONS).index(name))
    honest, _ = registration.unseal(registering(liar, now_ms()), RING)
    reply = manager.post(registration.seal(replace(honest, **REGISTRATIONS[name]), KEY), REGISTER)
    assert (reply.status, reply.kind) == (400, "malformed")
    assert manager.rows("SELECT hostname FROM agents WHERE agent_id = ?", liar.agent_id) == []


def test_a_report_of_9500_interfaces_is_refused(manager: Manager) -> None:
    liar = node(2500)
    data = canonical.encode(report(liar, 1, now_ms()))
    link = '{"index":1,"name":"e%d","kind":null,"flags":[],"operstate":"","mtu":0,"address":null,"addresses":[]}'
    links = ",".join(link % number for number in range(9_500)).encode()
    many = re.sub(rb'"interfaces":\[.*?\}\]', b'"interfaces":[' + links + b"]", data)
    reply = manager.post(sealed_bytes(many))
    assert reply.verdict(nonce_of(liar, 1, 1)).outcome == "malformed"
    assert manager.rows("SELECT hostname FROM agents WHERE agent_id = ?", liar.agent_id) == []


def test_names_of_relays_cannot_make_the_list_of_agents_large(manager: Manager) -> None:
    origin, *relays = (node(number) for number in range(3000, 3004))
    # The longest name that is accepted, and a longer one.
    for sample, name in enumerate(("\U0001f600" * 255, "x" * MB), 1):
        for relay in relays:
            named = report(relay, sample, now_ms())
            manager.post(sealed(replace(named, telemetry=of_system(hostname=name)(named.telemetry))))
    before = len(manager.get("/status/agents").body)
    manager.post(relayed(report(origin, 1, now_ms()), *relays))
    body = manager.get("/status/agents").body
    (shown,) = [agent for agent in json.loads(body)["agents"] if agent["agent_id"] == origin.agent_id]
    assert len(shown["path"]) == 3
    assert len(body) - before < 12_000
