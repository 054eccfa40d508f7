"""A report that is too large is cut until it fits, and contains the cuts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kattila_agent.sampling import fitting
from kattila_agent.sampling.fitting import MAX_TELEMETRY_BYTES
from kattila_agent.spool import sample
from kattila_agent.spool.sample import Moment, Sample, Signing
from kattila_protocol import canonical, envelope
from kattila_protocol.bounds import MAX_ENTRIES, count_entries
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.members import build
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.report import (
    Cut,
    Interface,
    Lookup,
    Neighbour,
    Route,
    Rule,
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


def fitted(telemetry: Telemetry, allowed_ips: dict[tuple[str, str], int] | None = None) -> Telemetry:
    encoded = fitting.encode(telemetry, allowed_ips or {})
    assert len(encoded) <= MAX_TELEMETRY_BYTES
    found = build(Telemetry, canonical.parse_object(encoded))
    assert count_entries([found], Telemetry) <= MAX_ENTRIES
    return found


def test_a_report_that_fits_is_not_changed() -> None:
    telemetry = replace(REPORT.telemetry, cuts=(Cut("routes", 2000, 50_000),))
    assert fitting.encode(telemetry, {}) == canonical.encode(telemetry, omit_defaults=True)


def test_300_peers_and_2000_allowed_ips_of_one_fit() -> None:
    about = "wireguard", "wireguard-north", ADDRESS, 2**32 - 1
    lookup = Lookup(*about, "eth0123456789ab", ADDRESS, ADDRESS, 1500, 254, None)
    large = Telemetry(
        system=None,
        interfaces=(LINK,) * 200,
        wireguard=(tunnel(*(peer(number, 1) for number in range(299)), peer(299, 2000)),),
        lookups=(lookup,) * 300,
    )
    assert fitted(large) == large


def test_only_the_largest_list_is_cut() -> None:
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
    # Not more than necessary.
    assert len(fitting.encode(found, {})) > MAX_TELEMETRY_BYTES * 0.99


def test_default_routes_are_cut_last() -> None:
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


def cuts_of(found: Telemetry, what: str) -> list[Cut]:
    return [cut for cut in found.cuts if cut.what == what]


def test_allowed_ips_of_very_many_peers_are_cut_in_one_sum() -> None:
    peers = tuple(peer(number, 8) for number in range(12_000))
    found = fitted(Telemetry(None, wireguard=(tunnel(*peers),)))
    (of_peers,) = cuts_of(found, "peers")
    assert of_peers == Cut("peers", len(found.wireguard[0].peers), 12_000, "wireguard-north")
    assert of_peers.kept >= 3000
    for cut in cuts_of(found, "allowed_ips"):
        assert cut.where == ""
        cut_short = [len(each.allowed_ips) for each in found.wireguard[0].peers if len(each.allowed_ips) < 8]
        assert (cut.kept, cut.of) == (sum(cut_short), 8 * len(cut_short))


@pytest.mark.parametrize("allowed_ips", [0, 1])
def test_cuts_by_the_reader_do_not_fill_a_report(allowed_ips: int) -> None:
    """This happens with MAX_PEERS=20000 and a small MAX_ALLOWED_IPS."""
    peers = tuple(peer(number, allowed_ips) for number in range(12_000))
    cuts = tuple(Cut("allowed_ips", allowed_ips, 8, each.public_key) for each in peers)
    counts = {("wireguard-north", each.public_key): 8 for each in peers}
    found = fitted(Telemetry(None, wireguard=(tunnel(*peers),), cuts=cuts), counts)
    reported = len(found.wireguard[0].peers)
    (of_allowed_ips,) = cuts_of(found, "allowed_ips")
    assert (of_allowed_ips.of, of_allowed_ips.where) == (8 * reported, "")
    assert reported > 3000


def test_a_peer_that_is_left_out_has_no_cut() -> None:
    peers = [peer(number, 3) for number in range(9000)]
    cut = [peers[number].public_key for number in (0, 1, 8998, 8999)]
    cuts = tuple(Cut("allowed_ips", 3, 100, public_key) for public_key in cut)
    counts = {("wireguard-north", public_key): 100 for public_key in cut}
    found = fitted(Telemetry(None, wireguard=(tunnel(*peers),), cuts=cuts), counts)
    assert [(cut.of, cut.where) for cut in cuts_of(found, "allowed_ips")[:2]] == [
        (100, f"{0:043}="),
        (100, f"{1:043}="),
    ]
    keys = {each.public_key for each in found.wireguard[0].peers}
    assert {cut.where for cut in cuts_of(found, "allowed_ips")} <= keys | {""}
    assert len(keys) < 8998


@pytest.mark.parametrize(("first", "second", "of"), [(100, 900, 1000), (3, 900, 900), (100, 3, 100)])
def test_a_peer_on_two_interfaces_is_cut_in_one_sum(first: int, second: int, of: int) -> None:
    """Only the cut peers count: one with all its AllowedIPs adds nothing."""
    counts = {(name, f"{7:043}="): count for name, count in (("wg0", first), ("wg1", second)) if count > 3}
    cuts = tuple(Cut("allowed_ips", 3, count, key) for (_, key), count in counts.items())
    both = tuple(WireguardInterface(name, "k" * 44, 1, 0, (peer(7, 3),)) for name in ("wg0", "wg1"))
    large = Telemetry(None, wireguard=both, cuts=(*cuts, Cut("neighbours", 1, 2)))
    expected = Cut("allowed_ips", 3 * len(cuts), of, f"{7:043}=")
    assert fitted(large, counts).cuts == (Cut("neighbours", 1, 2), expected)
    routes = fitted(replace(large, routes=(ROUTE,) * 9000), counts)
    assert (routes.cuts[0].what, routes.cuts[1].what, routes.cuts[2:]) == ("neighbours", "routes", (expected,))


def test_a_peer_that_is_left_out_of_one_interface_does_not_count() -> None:
    one, two = (
        WireguardInterface(name, "k" * 44, 1, 0, tuple(peer(number, 1) for number in numbers))
        for name, numbers in (("wg0", [*range(6000), 9999]), ("wg1", [9999]))
    )
    counts = {("wg0", f"{9999:043}="): 100, ("wg1", f"{9999:043}="): 900}
    cuts = tuple(Cut("allowed_ips", 1, count, key) for (_, key), count in counts.items())
    found = fitted(Telemetry(None, wireguard=(one, two), cuts=cuts), counts)
    assert f"{9999:043}=" not in {each.public_key for each in found.wireguard[0].peers}
    assert len(found.wireguard[1].peers) == 1
    of_it = [cut.of for cut in cuts_of(found, "allowed_ips") if cut.where == f"{9999:043}="]
    assert of_it == [900]


def test_too_many_cuts_become_one_sum() -> None:
    cuts = tuple(Cut("remotes", 1, 3, f"vx{number}") for number in range(30_000))
    found = fitted(Telemetry(None, cuts=(*cuts, *(Cut("peers", 1, 2, f"wg{number}") for number in range(3)))))
    assert found.cuts == (Cut("remotes", 30_000, 90_000), *(Cut("peers", 1, 2, f"wg{number}") for number in range(3)))


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


SHORT = Route("::/0", None, None, None, 0, "", "")
SHORT_NEIGHBOUR = Neighbour("", None, "", "")


@pytest.mark.parametrize(
    ("member", "entry", "longest"),
    [
        ("routes", SHORT, 16_384),
        ("routes", SHORT._replace(destination="::/1"), 16_384),
        ("neighbours", SHORT_NEIGHBOUR, 16_384),
        ("rules", Rule("", 0, "", 0), 4096),
        ("wireguard", WireguardInterface("", "", 0, 0, ()), 4096),
    ],
)
def test_a_list_that_is_too_long_is_cut(member: str, entry: Any, longest: int) -> None:
    lists: dict[str, Any] = {member: (entry,) * (longest + 1)}
    large = replace(Telemetry(None), **lists)
    found = fitted(large)
    assert getattr(found, member) == (entry,) * longest
    assert found.cuts == (Cut(member, longest, longest + 1),)


def test_default_routes_stay_when_a_list_is_too_long() -> None:
    others = (SHORT._replace(destination="::/1"),) * 16_384
    found = fitted(Telemetry(None, routes=(*others, SHORT, SHORT)))
    assert found.routes == (*others[:-2], SHORT, SHORT)
    assert found.cuts == (Cut("routes", 16_384, 16_386),)


def test_lists_with_too_many_entries_together_are_cut() -> None:
    peers = (WireguardPeer("", None, ("",) * 20_000, 0, 0, 0, 0, False),)
    large = Telemetry(None, routes=(SHORT,) * 16_384, neighbours=(SHORT_NEIGHBOUR,) * 9000, wireguard=(tunnel(*peers),))
    found = fitted(large)
    # Little more is cut than necessary.
    assert count_entries([found], Telemetry) > MAX_ENTRIES * 3 // 4
    assert {cut.what: cut.of for cut in found.cuts} == {"routes": 16_384, "neighbours": 9000}


def test_the_largest_telemetry_leaves_room_for_the_rest_of_the_body() -> None:
    largest = Sample(MAX_COUNTER, MAX_COUNTER, BOOT, 0, b'"' + b"a" * (MAX_TELEMETRY_BYTES - 2) + b'"')
    signing = Signing(AGENT, MAX_COUNTER, NONCE, Moment(MAX_COUNTER, BOOT, 0))
    sealed = envelope.seal(sample.encode(largest, signing), KEY, RELAYS[0])
    for number in range(3):
        sealed = envelope.forward(sealed, RELAYS[number], KEY, RELAYS[number + 1])
    assert len(sealed.to_bytes()) <= MAX_BODY_BYTES


def test_a_report_that_cannot_be_cut_enough_is_an_error() -> None:
    with pytest.raises(fitting.TooMuchError, match="cannot be cut to 10"):
        fitting.encode(REPORT.telemetry, {}, 10)
