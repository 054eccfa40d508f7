"""A report that is too large is cut until it fits, and says so."""

from __future__ import annotations

import pytest

from kattila_agent import fitting, sample
from kattila_agent.fitting import MAX_TELEMETRY_BYTES
from kattila_agent.sample import Clock, Sample, Signing
from kattila_protocol import canonical, envelope
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.members import build
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.report import (
    Cut,
    Interface,
    Lookup,
    Neighbour,
    Route,
    Telemetry,
    WireguardInterface,
    WireguardPeer,
)
from protocol.samples import AGENT, BOOT, KEY, NONCE, NOW, RELAYS, REPORT

ADDRESS = ":".join(["2001", "db8", *["ffff"] * 6])
ROUTE = Route(f"{ADDRESS}/128", ADDRESS, "wireguard-north", ADDRESS, 2**32 - 1, "kernel", "unreachable")
LINK = Interface(
    1, "veth0123456789a", "veth", ("UP",) * 9, "LOWERLAYERDOWN", 1500, "02:" * 5 + "01", (), None, "x" * 15
)


def peer(number: int, allowed_ips: int) -> WireguardPeer:
    prefixes = (f"{ADDRESS}/128",) * allowed_ips
    return WireguardPeer(f"{number:043}=", f"[{ADDRESS}]:51820", prefixes, NOW // 1000, 10**15, 10**15, 65535, True)


def tunnel(*peers: WireguardPeer) -> WireguardInterface:
    return WireguardInterface("wireguard-north", "k" * 44, 51820, 2**32 - 1, peers)


def fitted(telemetry: Telemetry) -> Telemetry:
    encoded = fitting.encode(telemetry, MAX_TELEMETRY_BYTES)
    assert len(encoded) <= MAX_TELEMETRY_BYTES
    return build(Telemetry, canonical.parse_object(encoded))


def test_what_fits_is_left_alone() -> None:
    assert fitting.encode(REPORT.telemetry, MAX_TELEMETRY_BYTES) == canonical.encode(REPORT.telemetry)


def test_300_peers_and_one_with_2000_allowed_ips_fit_whole() -> None:
    about = "wireguard", "wireguard-north", ADDRESS, 2**32 - 1
    lookup = Lookup(*about, "eth0123456789ab", ADDRESS, ADDRESS, 1500, 254, None)
    large = Telemetry(
        system=None,
        interfaces=(LINK,) * 200,
        wireguard=(tunnel(*(peer(number, 1) for number in range(299)), peer(299, 2000)),),
        lookups=(lookup,) * 300,
    )
    assert fitted(large) == large


def test_the_largest_list_is_cut_and_the_others_are_whole() -> None:
    default = replace_destination("::/0")
    large = Telemetry(
        system=None,
        interfaces=(LINK,) * 10,
        routes=(*(ROUTE,) * 9000, default),
        wireguard=(tunnel(peer(0, 1)),),
        cuts=(Cut("routes", 9001, 50_000), Cut("neighbours", 1, 2)),
    )
    found = fitted(large)
    assert (found.interfaces, found.wireguard) == (large.interfaces, large.wireguard)
    assert found.routes[-1] == default
    assert found.cuts == (Cut("routes", len(found.routes), 50_000), Cut("neighbours", 1, 2))
    # No more than it had to.
    assert len(fitting.encode(found, MAX_TELEMETRY_BYTES)) > MAX_TELEMETRY_BYTES * 0.99


def test_default_routes_go_when_no_others_are_left() -> None:
    defaults = (replace_destination("::/0"),) * 20_000
    found = fitted(Telemetry(system=None, interfaces=(LINK,) * 10, routes=(ROUTE, *defaults)))
    assert {route.destination for route in found.routes} == {"::/0"}
    assert found.cuts == (Cut("routes", len(found.routes), 20_001),)
    assert (len(found.routes) > 1000, len(found.interfaces)) == (True, 10)


def replace_destination(destination: str) -> Route:
    return ROUTE._replace(destination=destination)


@pytest.mark.parametrize(
    ("telemetry", "what", "where"),
    [
        (Telemetry(None, wireguard=(tunnel(peer(0, 30_000), peer(1, 3)),)), "allowed_ips", f"{0:043}="),
        (
            Telemetry(None, wireguard=(tunnel(*(peer(number, 0) for number in range(9000))),)),
            "peers",
            "wireguard-north",
        ),
        (Telemetry(None, neighbours=(Neighbour(ADDRESS, "02", "eth0", "STALE"),) * 30_000), "neighbours", ""),
        (Telemetry(None, interfaces=(LINK,) * 5000), "interfaces", ""),
    ],
)
def test_any_list_can_be_the_largest(telemetry: Telemetry, what: str, where: str) -> None:
    found = fitted(telemetry)
    (cut,) = found.cuts
    assert (cut.what, cut.where) == (what, where)
    assert 0 < cut.kept < (cut.of or 0)
    if what == "allowed_ips":
        assert [len(each.allowed_ips) for each in found.wireguard[0].peers] == [cut.kept, 3]


def test_everything_at_once_fits() -> None:
    peers = tuple(peer(number, 10) for number in range(1000))
    large = Telemetry(
        system=None,
        interfaces=(LINK,) * 1000,
        routes=(ROUTE,) * 2000,
        neighbours=(Neighbour(ADDRESS, "02:00:00:00:00:01", "veth0123456789a", "INCOMPLETE"),) * 1000,
        wireguard=(tunnel(*peers),),
    )
    found = fitted(large)
    assert min(len(found.interfaces), len(found.routes), len(found.neighbours), len(found.wireguard[0].peers)) > 100


def test_the_rest_of_the_body_has_room_beside_the_largest_telemetry() -> None:
    largest = Sample(MAX_COUNTER, MAX_COUNTER, BOOT, 0, b'"' + b"a" * (MAX_TELEMETRY_BYTES - 2) + b'"')
    signing = Signing(AGENT, MAX_COUNTER, NONCE, Clock(MAX_COUNTER, BOOT, 0))
    sealed = envelope.seal(sample.encode(largest, signing), KEY, RELAYS[0])
    for number in range(3):
        sealed = envelope.pass_on(sealed, RELAYS[number], KEY, RELAYS[number + 1])
    assert len(sealed.to_bytes()) <= MAX_BODY_BYTES


def test_what_cannot_be_cut_is_an_error() -> None:
    with pytest.raises(fitting.TooMuchError, match="cannot be cut to 10"):
        fitting.encode(REPORT.telemetry, 10)
