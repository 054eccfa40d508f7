"""Reports to facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kattila_manager.topology.facts import Facts, PeerFacts, Reading, reduce
from kattila_protocol.report import CollectorFailure, Cut, Interface, WireguardInterface, WireguardPeer
from support.fleet import MINUTE, NOON, SECOND
from support.reports import node, report, telemetry

STEP = 30 * SECOND
SENDER = node(1)
PEER = WireguardPeer("kb", "192.0.2.7:51820", ("192.0.2.0/24",), NOON // SECOND - 20, 300, 400, 25, True)
WG0 = WireguardInterface("wg0", "ka", 51820, 0xCA6C, (PEER,))


def link(name: str, *flags: str) -> Interface:
    return Interface(9, name, "wireguard", flags, "UNKNOWN", 1420, None, ())


def reduced(
    received_at: int = NOON + SECOND, sampled_at: int = NOON, *, is_late: bool = False, **changes: Any
) -> Facts:
    found = {"wireguard": (WG0,), "interfaces": (*telemetry(SENDER).interfaces, link("wg0", "UP"))} | changes
    sent = report(SENDER, 7, NOON + SECOND // 2, sampled_at=sampled_at)
    return reduce(replace(sent, telemetry=replace(sent.telemetry, **found)), received_at, STEP, is_late=is_late)


def test_the_facts_of_a_report() -> None:
    facts = reduced()
    assert (facts.agent_id, facts.sample, facts.boot_id, facts.hardware) == (
        SENDER.agent_id,
        7,
        SENDER.boot_id,
        frozenset(SENDER.hardware),
    )
    assert (facts.is_late, facts.is_unreadable) == (False, False)
    [wg0] = facts.wireguard
    assert (wg0.name, wg0.key, wg0.is_up, wg0.is_cut, wg0.fwmark) == ("wg0", "ka", True, False, 0xCA6C)
    assert wg0.peers == (PeerFacts("kb", "192.0.2.7:51820", 25, True, 300, 400, NOON // SECOND - 20),)


def test_a_samples_time_is_by_the_managers_clock_and_its_clock_the_nodes() -> None:
    # The node's clock is eight minutes ahead, and it signed the message half a second after the measurement.
    facts = reduced(received_at=NOON - 8 * MINUTE)
    assert facts.at == NOON - 8 * MINUTE - SECOND // 2
    assert facts.wireguard[0].reading == Reading(facts.at, STEP, NOON, SENDER.boot_id, 9)


def test_a_sample_is_not_after_its_arrival() -> None:
    assert reduced(sampled_at=NOON + MINUTE).at == NOON + SECOND


@pytest.mark.parametrize(
    ("interfaces", "expected"), [((link("wg0", "UP", "LOWER_UP"),), True), ((link("wg0"),), False), ((), None)]
)
def test_an_interface_is_up_by_its_flag_and_unknown_without_links(
    interfaces: tuple[Interface, ...], expected: bool | None
) -> None:
    [wg0] = reduced(interfaces=interfaces).wireguard
    assert wg0.is_up is expected
    assert wg0.reading.interface_index == (9 if interfaces else None)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (Cut("peers", 1, 2, "wg0"), True),
        (Cut("peers", 1, 2), True),
        (Cut("peers", 1, 2, "wg1"), False),
        (Cut("allowed_ips", 1, 2, "kb"), False),
    ],
)
def test_a_cut_of_peers_makes_their_list_incomplete(cut: Cut, expected: bool) -> None:
    assert reduced(cuts=(cut,)).wireguard[0].is_cut is expected


@pytest.mark.parametrize(("collector", "expected"), [("wireguard", True), ("links", False)])
def test_a_failed_wireguard_collector_makes_the_facts_unknown(collector: str, expected: bool) -> None:
    assert reduced(failures=(CollectorFailure(collector, "a reason"),)).is_unreadable is expected


def test_names_and_keys_are_shared_between_reports() -> None:
    one, other = reduced(), reduced(wireguard=(replace(WG0, peers=(PEER._replace(public_key="".join(("k", "b"))),)),))
    assert one.wireguard[0].peers[0].key is other.wireguard[0].peers[0].key
