"""The ids that a real manager assigns: first contact, clones, reboots, and replayed messages."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from kattila_manager.store.ingest.identity import SILENCE_MS
from kattila_protocol.verdict import Verdict
from support.manager import REGISTER, Manager, now_ms, running_manager
from support.raw_http import JSON, all_at_once, request
from support.reports import FOREIGN_KEY, Node, body, node, nonce_of, registering, registration_nonce
from support.waiting import PATIENCE_SECONDS


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with running_manager(tmp_path_factory.mktemp("registration")) as running:
        yield running


def register(manager: Manager, sender: Node, attempt: int = 1) -> Verdict:
    reply = manager.post(registering(sender, now_ms(), attempt=attempt), REGISTER)
    return reply.verdict(registration_nonce(sender, attempt))


def report(manager: Manager, sender: Node, sample: int, tick: int | None = None) -> str:
    return (
        manager.post(body(sender, sample, now_ms(), tick=tick))
        .verdict(nonce_of(sender, sample, tick or sample))
        .outcome
    )


def hosts(manager: Manager, agent_id: str) -> list[tuple[int, str]]:
    query = "SELECT sample, hostname FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? ORDER BY sample"
    return manager.rows(query, agent_id)


def pass_silence(manager: Manager, agent_id: str) -> None:
    """Backdate the last report of an agent by two minutes."""
    with closing(sqlite3.connect(manager.database, timeout=PATIENCE_SECONDS)) as database, database:
        database.execute("UPDATE agents SET last_seen_at = last_seen_at - ? WHERE agent_id = ?", (SILENCE_MS, agent_id))


def test_first_contact_binds_the_proposed_id(manager: Manager) -> None:
    sender = node(1)
    first = registering(sender, now_ms())
    verdicts = [manager.post(first, REGISTER).verdict(registration_nonce(sender)) for _ in range(3)]
    assert {(verdict.outcome, verdict.agent_id) for verdict in verdicts} == {("accepted", sender.agent_id)}
    assert register(manager, sender, attempt=2).agent_id == sender.agent_id
    assert manager.rows("SELECT count(*) FROM agents WHERE agent_id = ?", sender.agent_id) == [(1,)]


def test_the_answer_to_a_registration_has_the_known_numbers(manager: Manager) -> None:
    sender = node(2)
    assert report(manager, sender, 7, tick=9) == "accepted"
    verdict = register(manager, sender)
    assert (verdict.outcome, verdict.highest_tick, verdict.highest_sample) == ("accepted", 9, 7)


def test_simultaneous_registrations_bind_one_id_once(manager: Manager) -> None:
    sender = node(3)
    requests = [
        request("POST", REGISTER, registering(sender, now_ms(), attempt=attempt), JSON) for attempt in range(50)
    ]
    verdicts = [
        reply.verdict(registration_nonce(sender, attempt))
        for attempt, reply in enumerate(all_at_once(manager.port, requests))
    ]
    assert {(verdict.outcome, verdict.agent_id) for verdict in verdicts} == {("accepted", sender.agent_id)}
    assert manager.rows("SELECT count(*) FROM agents WHERE agent_id = ?", sender.agent_id) == [(1,)]


def test_an_invalid_registration_is_refused(manager: Manager) -> None:
    sender = node(4)
    for bad in (
        registering(sender, now_ms(), key=FOREIGN_KEY),
        registering(sender, now_ms(), to=node(5).agent_id),
        registering(sender, now_ms()).replace(b"node-4", b"node-X"),
        body(sender, 1, now_ms()),
    ):
        reply = manager.post(bad, REGISTER)
        assert (reply.status, reply.is_signed) in ((403, False), (400, False))
    stale = manager.post(registering(sender, now_ms() - 11 * 60 * 1000), REGISTER)
    assert (stale.status, stale.kind) == (409, "clock_skew")
    assert manager.rows("SELECT count(*) FROM agents WHERE agent_id = ?", sender.agent_id) == [(0,)]


@pytest.mark.parametrize("registers", [True, False], ids=["registered", "never registered"])
def test_a_cloned_disk_gets_a_new_id_and_the_data_never_merge(manager: Manager, registers: bool) -> None:
    original = node(10 + registers)
    clone = original.cloned()
    if registers:
        assert register(manager, original).outcome == "accepted"
    assert report(manager, original, 1) == "accepted"

    assert register(manager, clone).outcome == "identity_unproven"
    assert report(manager, clone, 2) == "identity_unproven"
    assert report(manager, original, 2) == "accepted"
    refused = manager.post(body(clone, 3, now_ms()))
    verdict = refused.verdict(nonce_of(clone, 3, 3))
    assert (refused.status, refused.kind, verdict.outcome) == (409, "identity_conflict", "identity_conflict")
    assert original.hostname in verdict.detail
    assert clone.hostname in verdict.detail

    issued = register(manager, clone, attempt=2)
    assert issued.outcome == "accepted"
    assert issued.agent_id != original.agent_id
    assert register(manager, clone, attempt=2).agent_id == issued.agent_id, "the same request has the same answer"
    newcomer = replace(clone, agent_id=issued.agent_id)
    assert report(manager, newcomer, 1) == "accepted"
    assert report(manager, original, 3) == "accepted"
    assert hosts(manager, original.agent_id) == [(sample, original.hostname) for sample in (1, 2, 3)]
    assert hosts(manager, issued.agent_id) == [(1, clone.hostname)]
    assert manager.rows("SELECT instead_of FROM agents WHERE agent_id = ?", issued.agent_id) == [(original.agent_id,)]


def test_a_clone_is_refused_for_its_identity_and_not_for_its_numbers(manager: Manager) -> None:
    # A replay verdict would make it continue above the original again and again.
    original = node(16)
    clone = original.cloned()
    for sender, sample in ((original, 50), (clone, 51), (original, 60)):
        report(manager, sender, sample)
    for tick in (1, 55, 60, 61):
        assert report(manager, clone, 70, tick=tick) == "identity_conflict"
    assert report(manager, original, 61) == "accepted"


def test_a_clone_that_proposes_a_new_id_gets_it(manager: Manager) -> None:
    original = node(14)
    clone = original.cloned()
    for sender, sample in ((original, 1), (clone, 2), (original, 3)):
        report(manager, sender, sample)
    assert report(manager, clone, 4) == "identity_conflict"
    renamed = replace(clone, agent_id=node(15).agent_id)
    assert register(manager, renamed).agent_id == renamed.agent_id
    assert manager.rows("SELECT instead_of FROM agents WHERE agent_id = ?", renamed.agent_id) == [(original.agent_id,)]
    assert report(manager, renamed, 1) == "accepted"
    assert report(manager, original, 5) == "accepted"


def test_a_reboot_keeps_the_id(manager: Manager) -> None:
    sender = node(20)
    for boot in range(4):
        rebooted = sender.rebooted(boot) if boot else sender
        assert register(manager, rebooted, attempt=boot + 1).agent_id == sender.agent_id
        assert report(manager, rebooted, boot + 1) == "accepted"


def test_hardware_addresses_are_compared_without_case(manager: Manager) -> None:
    sender = node(26)
    hardware = sender.hardware[0]
    assert hardware != hardware.upper()
    assert register(manager, replace(sender, hardware=(hardware.upper(),))).outcome == "accepted"
    assert report(manager, sender.rebooted(), 1) == "accepted"
    upper_case = replace(sender.rebooted(2), hardware=(hardware.upper(),))
    assert register(manager, upper_case).outcome == "accepted"
    assert report(manager, upper_case, 2) == "accepted"


def test_without_hardware_addresses_every_boot_is_a_reboot(manager: Manager) -> None:
    sender = replace(node(27), hardware=())
    assert register(manager, sender).outcome == "accepted"
    assert report(manager, sender.cloned(), 1) == "accepted"
    nameless = replace(sender.cloned(2), hardware=("00:00:00:00:00:00",))
    assert report(manager, nameless, 2) == "accepted"


def test_a_reboot_with_other_hardware_is_accepted_after_two_minutes_of_silence(manager: Manager) -> None:
    sender = node(21)
    assert report(manager, sender, 1) == "accepted"
    changed = replace(sender.rebooted(), hardware=node(22).hardware)
    assert report(manager, changed, 2) == "identity_unproven"
    pass_silence(manager, sender.agent_id)
    assert report(manager, changed, 3) == "accepted"
    assert report(manager, changed, 4) == "accepted"


def test_a_clone_that_took_over_during_silence_loses_the_id_to_its_owner(manager: Manager) -> None:
    original = node(23)
    clone = original.cloned()
    assert report(manager, original, 1) == "accepted"
    pass_silence(manager, original.agent_id)
    assert report(manager, clone, 2) == "accepted"
    # The owner returns with its old numbers. It continues above the reported ones, which proves its identity.
    assert report(manager, original, 2) == "replay"
    assert report(manager, original, 3) == "accepted"
    assert report(manager, clone, 4) == "identity_conflict"
    assert report(manager, original, 4) == "accepted"


def test_a_clone_with_the_same_hardware_is_detected_when_the_first_boot_returns(manager: Manager) -> None:
    original = node(24)
    clone = original.cloned(same_hardware=True)
    assert report(manager, original, 1) == "accepted"
    assert report(manager, clone, 2) == "accepted"  # a reboot looks the same
    assert report(manager, original, 3) == "accepted"
    assert report(manager, clone, 4) == "identity_conflict"
    assert register(manager, clone).agent_id != original.agent_id
    assert report(manager, original, 4) == "accepted"


def test_identities_survive_a_restart(manager: Manager) -> None:
    original = node(25)
    clone = original.cloned()
    assert register(manager, original).outcome == "accepted"
    assert report(manager, original, 1) == "accepted"
    assert report(manager, clone, 2) == "identity_unproven"
    manager.kill()
    manager.start()
    assert report(manager, original, 2) == "accepted"
    issued = register(manager, clone).agent_id
    manager.kill()
    manager.start()
    assert report(manager, clone, 3) == "identity_conflict"
    assert register(manager, clone).agent_id == issued != original.agent_id
    assert report(manager, original, 3) == "accepted"


def test_replayed_messages_take_no_id_from_an_agent(manager: Manager) -> None:
    before = node(30)
    registration, captured = registering(before, now_ms()), body(before, 1, now_ms())
    withheld, newest = body(before, 2, now_ms()), body(before, 3, now_ms())
    manager.post(registration, REGISTER)
    manager.post(captured)
    after = before.rebooted()
    assert report(manager, after, 4) == "accepted"
    assert manager.post(captured).verdict(nonce_of(before, 1, 1)).outcome == "duplicate"
    for late, sample in ((withheld, 2), (newest, 3)):
        assert manager.post(late).verdict(nonce_of(before, sample, sample)).outcome == "replay"
    assert manager.post(registration, REGISTER).verdict(registration_nonce(before)).outcome == "identity_unproven"
    assert report(manager, after, 5) == "accepted"
    assert register(manager, after).agent_id == before.agent_id
    assert manager.rows(
        "SELECT count(*) FROM agent_boots JOIN agents ON ref = agent_ref WHERE refused = 1 AND agent_id = ?",
        before.agent_id,
    ) == [(0,)]


def test_a_replayed_report_of_the_holder_does_not_block_new_hardware(manager: Manager) -> None:
    before = node(31)
    captured = body(before, 1, now_ms())
    manager.post(captured)
    after = replace(before.rebooted(), hardware=node(32).hardware)
    assert report(manager, after, 2) == "identity_unproven"
    manager.post(captured)
    pass_silence(manager, before.agent_id)
    assert report(manager, after, 3) == "accepted"
