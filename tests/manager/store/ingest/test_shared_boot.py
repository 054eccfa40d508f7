"""Machines under one boot id: containers that share a host's are two machines, and changed interfaces are one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kattila_manager.store.ingest import registry
from kattila_protocol import registration
from kattila_protocol.report import Interface
from support.fleet import HOUR, NOON, SECOND, Fleet, fleet_in
from support.reports import RING, Node, node, registering, report

ORIGINAL = node(1)
COPY = replace(ORIGINAL, hostname="copy.example.net", hardware=("02:00:00:00:0b:01",))
THIRD = replace(ORIGINAL, hostname="third.example.net", hardware=("02:00:00:00:0c:01",))
CARD, DOCK, WIFI = ("eth0", "02:00:00:00:00:0a"), ("eth1", "02:00:00:00:00:0d"), ("wlan0", "02:00:00:00:00:0e")
BRIDGE, OTHER_BRIDGE = ("docker0", "02:42:00:00:00:01"), ("docker0", "02:42:00:00:00:02")
INTERVAL = 30 * SECOND

Links = Sequence[tuple[str, str]]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as made:
        yield made


def outcomes(fleet: Fleet, senders: Sequence[Node], *, every: int = INTERVAL // 2, virtual: bool = False) -> list[str]:
    """File one report of each sender in turn, with rising ticks; return the outcomes."""
    found = []
    for number, sender in enumerate(senders, 1):
        sent = report(sender, number, NOON + number * every)
        if virtual:
            links = tuple(replace(link, kind="veth") for link in sent.telemetry.interfaces)
            sent = replace(sent, telemetry=replace(sent.telemetry, interfaces=links))
        found.append(fleet.file(sent).outcome)
    return found


def honest(fleet: Fleet, states: Sequence[Links], *, every: int = INTERVAL) -> list[str]:
    """File reports of one machine whose interfaces change within a boot; return the outcomes."""
    found = []
    for number, links in enumerate(states, 1):
        sent = report(ORIGINAL, number, NOON + number * every)
        interfaces = tuple(
            Interface(i, name, "bridge" if name == "docker0" else None, (), "UP", 1500, address, ())
            for i, (name, address) in enumerate(links, 1)
        )
        sent = replace(sent, telemetry=replace(sent.telemetry, interfaces=interfaces))
        found.append(fleet.file(sent).outcome)
    return found


@pytest.mark.parametrize("virtual", [False, True], ids=["physical", "veth"])
@pytest.mark.parametrize("every", [SECOND, INTERVAL // 2, 4 * 60 * SECOND])
def test_hardware_that_alternates_under_one_boot_id_is_two_machines(fleet: Fleet, every: int, virtual: bool) -> None:
    found = outcomes(fleet, [ORIGINAL, COPY] * 3, every=every, virtual=virtual)
    assert found == ["accepted", "accepted", "accepted", "identity_conflict", "accepted", "identity_conflict"]
    assert fleet.members(ORIGINAL.agent_id)["hostname"] == ORIGINAL.hostname


def test_the_copy_registers_and_gets_an_id_of_its_own(fleet: Fleet) -> None:
    outcomes(fleet, [ORIGINAL, COPY, ORIGINAL, COPY])
    ids = {}
    for sender in (COPY, ORIGINAL):
        request = registration.unseal(registering(sender, NOON + HOUR), RING)[0]
        ids[sender.hostname], filed = fleet.store.write(
            partial(registry.register, registration=request, now=NOON + HOUR)
        )
        assert filed.outcome == "accepted"
    assert ids[ORIGINAL.hostname] == ORIGINAL.agent_id
    assert ids[COPY.hostname] != ORIGINAL.agent_id
    assert fleet.members(ids[COPY.hostname])["instead_of"] == ORIGINAL.agent_id
    as_itself = replace(COPY, agent_id=ids[COPY.hostname])
    assert fleet.file(report(as_itself, 1, NOON + HOUR)).outcome == "accepted"


def test_if_the_copy_is_heard_last_the_original_still_keeps_the_id(fleet: Fleet) -> None:
    found = outcomes(fleet, [ORIGINAL, ORIGINAL, COPY, COPY, ORIGINAL, COPY, ORIGINAL])
    assert found == [*["accepted"] * 5, "identity_conflict", "accepted"]


def test_three_containers_end_with_one_holder(fleet: Fleet) -> None:
    found = outcomes(fleet, [ORIGINAL, COPY, THIRD] * 4)
    assert found[-6:] == ["accepted", "identity_conflict", "identity_conflict"] * 2


def test_a_copy_whose_numbers_are_behind_is_refused_too(fleet: Fleet) -> None:
    for number in range(1, 9):
        fleet.file(report(ORIGINAL, number, NOON + number * INTERVAL))
    behind = fleet.file(report(COPY, 3, NOON + 9 * INTERVAL))
    assert behind.outcome == "replay"
    fleet.file(report(COPY, 9, NOON + 10 * INTERVAL, tick=behind.highest_tick + 1))
    fleet.file(report(ORIGINAL, 10, NOON + 11 * INTERVAL))
    for tick in (4, 20):
        again = report(COPY, tick, NOON + 12 * INTERVAL)
        assert fleet.file(again).outcome == "identity_conflict"


def test_a_reboot_of_the_host_brings_the_refused_hardware_no_id(fleet: Fleet) -> None:
    outcomes(fleet, [ORIGINAL, COPY, ORIGINAL, COPY])
    rebooted = [replace(sender, boot_id=ORIGINAL.rebooted().boot_id) for sender in (ORIGINAL, COPY)]
    senders = rebooted * 3
    found = [fleet.file(report(each, number, NOON + number * INTERVAL)) for number, each in enumerate(senders, 10)]
    assert found[-1].outcome == "identity_conflict"


@pytest.mark.parametrize(
    "states",
    [
        [[CARD], [DOCK], [DOCK], [DOCK]],
        [[CARD], [CARD, DOCK], [DOCK], [CARD], [DOCK], [CARD]],
        [[WIFI, DOCK], [WIFI], [WIFI, DOCK], [WIFI], [DOCK], [WIFI]],
        [[CARD, BRIDGE], [CARD], [CARD, OTHER_BRIDGE], [CARD], [CARD, BRIDGE]],
        [[CARD, BRIDGE], [BRIDGE], [CARD, BRIDGE], [BRIDGE], [CARD, BRIDGE], [BRIDGE]],
        [[BRIDGE], [OTHER_BRIDGE], [OTHER_BRIDGE]],
        [[CARD], [], [CARD], [], [DOCK], []],
        [[CARD], [DOCK], [WIFI], [BRIDGE], [OTHER_BRIDGE]],
    ],
)
def test_a_machine_whose_interfaces_change_keeps_its_id(fleet: Fleet, states: list[Links]) -> None:
    assert honest(fleet, states) == ["accepted"] * len(states)


def test_a_card_that_is_swapped_back_later_is_one_machine(fleet: Fleet) -> None:
    states: list[Links] = [[CARD], [DOCK], [CARD], [DOCK], [CARD]]
    assert honest(fleet, states, every=HOUR) == ["accepted"] * 5


def test_a_reboot_with_the_new_card_is_one_machine(fleet: Fleet) -> None:
    swapped = replace(ORIGINAL, hardware=COPY.hardware)
    assert outcomes(fleet, [ORIGINAL, swapped, swapped.rebooted(), swapped.rebooted()]) == ["accepted"] * 4
