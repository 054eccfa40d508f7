"""Replayed and tampered messages against real workers and across restarts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kattila_protocol.envelope import Envelope, forward, hop_message, parse
from kattila_protocol.freshness import WINDOW_SIZE
from kattila_protocol.signing import Purpose
from support.manager import Manager, Reply, now_ms, running_manager
from support.raw_http import ATTEMPTS, all_at_once, allow_open_files, settled, updates
from support.reports import FOREIGN_KEY, KEY, Node, body, node, nonce_of, report, sealed

RELAY = node(99).agent_id
WORKERS = 2


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    allow_open_files(4096)
    with running_manager(tmp_path_factory.mktemp("replay"), workers=WORKERS) as running:
        yield running


def samples(manager: Manager, sender: Node) -> list[int]:
    query = "SELECT sample FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? ORDER BY sample"
    return [sample for (sample,) in manager.rows(query, sender.agent_id)]


def outcome(reply: Reply, sender: Node, sample: int, tick: int | None = None) -> str:
    return reply.verdict(nonce_of(sender, sample, tick or sample)).outcome


def test_a_report_replayed_a_thousand_times_at_once_is_stored_once(manager: Manager) -> None:
    sender = node(1)
    captured = updates(body(sender, 1, now_ms()))
    answers = settled(manager.port, [captured] * 1000)
    outcomes = Counter(outcome(answer, sender, 1) for answer, _ in answers)
    # A copy that was sent twice may have been stored the first time.
    expected = [{"accepted": 1, "duplicate": 999}] + [{"duplicate": 1000}] * any(times > 1 for _, times in answers)
    assert outcomes in expected
    assert {answer.status for answer, _ in answers} == {200}
    assert samples(manager, sender) == [1]


def test_a_thousand_connections_are_spread_over_all_workers(manager: Manager) -> None:
    # A precondition of the test above.
    def served(worker: psutil.Process) -> float:
        return float(sum(worker.cpu_times()[:2]))

    before = [served(worker) for worker in manager.workers()]
    assert len(before) == WORKERS

    def all_have_served() -> bool:
        all_at_once(manager.port, [updates(body(node(2), 1, now_ms()))] * 400)
        after = [served(worker) for worker in manager.workers()]
        return all(used > unused for used, unused in zip(after, before, strict=True))

    # A worker without CPU time during a burst accepts no connection.
    assert any(all_have_served() for _ in range(ATTEMPTS))


def test_the_same_sample_signed_again_is_a_duplicate(manager: Manager) -> None:
    sender = node(3)
    assert outcome(manager.post(body(sender, 7, now_ms(), tick=7)), sender, 7, 7) == "accepted"
    again = manager.post(body(sender, 7, now_ms(), tick=8)).verdict(nonce_of(sender, 7, 8))
    assert (again.outcome, again.highest_tick, again.highest_sample) == ("duplicate", 7, 7)
    assert samples(manager, sender) == [7]
    # The tick of a duplicate stays unused.
    assert outcome(manager.post(body(sender, 8, now_ms(), tick=8)), sender, 8, 8) == "accepted"


def test_a_replay_verdict_has_the_numbers_to_continue_above(manager: Manager) -> None:
    sender = node(4)
    captured = body(sender, 1, now_ms())
    newest = WINDOW_SIZE + 2
    for sample in range(1, newest + 1):
        assert outcome(manager.post(body(sender, sample, now_ms())), sender, sample) == "accepted"
    refused = manager.post(captured)
    verdict = refused.verdict(nonce_of(sender, 1, 1))
    assert (refused.status, refused.kind, verdict.outcome) == (409, "replay", "replay")
    assert (verdict.highest_tick, verdict.highest_sample) == (newest, newest)
    healed = manager.post(body(sender, verdict.highest_sample + 1, now_ms(), tick=verdict.highest_tick + 1))
    assert outcome(healed, sender, newest + 1) == "accepted"
    assert samples(manager, sender) == list(range(1, newest + 2))


def test_a_used_tick_or_nonce_on_another_message_is_a_replay(manager: Manager) -> None:
    sender, now = node(5), now_ms()
    assert outcome(manager.post(body(sender, 1, now, tick=1)), sender, 1) == "accepted"
    assert outcome(manager.post(body(sender, 2, now, tick=10)), sender, 2, 10) == "accepted"
    same_tick = manager.post(body(sender, 3, now, tick=1, nonce="ab" * 16))
    assert same_tick.verdict("ab" * 16).outcome == "replay"
    used = nonce_of(sender, 1, 1)
    assert manager.post(body(sender, 3, now, tick=5, nonce=used)).verdict(used).outcome == "replay"
    # Late and unused: it arrived out of order.
    assert outcome(manager.post(body(sender, 3, now, tick=5)), sender, 3, 5) == "accepted"
    assert samples(manager, sender) == [1, 2, 3]


def test_a_refused_message_uses_no_tick_and_no_nonce(manager: Manager) -> None:
    sender = node(6)
    good = body(sender, 1, now_ms())
    assert manager.post(good[:60] + b"X" + good[61:]).status in (400, 403)
    skewed = body(sender, 1, now_ms() + 11 * 60 * 1000)
    late = manager.post(skewed)
    assert (late.status, outcome(late, sender, 1)) == (409, "clock_skew")
    assert 10 * 60 * 1000 < late.verdict(nonce_of(sender, 1, 1)).clock_offset <= 11 * 60 * 1000
    assert outcome(manager.post(good), sender, 1) == "accepted"


def test_windows_hold_if_all_workers_serve_the_same_agents(manager: Manager) -> None:
    senders, chance = [node(number) for number in range(10, 14)], random.Random(1)
    wanted = [(sender, sample) for sender in senders for sample in range(1, 101)]
    # Three copies of each report, and another report with the same tick.
    mixed = [(sender, sample, copy) for sender, sample in wanted for copy in range(4)]
    chance.shuffle(mixed)
    now = now_ms()
    requests = [
        updates(body(sender, sample + (500 if copy == 3 else 0), now, tick=sample)) for sender, sample, copy in mixed
    ]
    outcomes: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for (sender, sample, copy), (answer, times) in zip(mixed, settled(manager.port, requests), strict=True):
        nonce = nonce_of(sender, sample + (500 if copy == 3 else 0), sample)
        outcomes.setdefault((sender.agent_id, sample), []).append((answer.verdict(nonce).outcome, times))
    # The message that used the tick first is accepted once; its copies are duplicates, the others replays.
    either = (["accepted", "duplicate", "duplicate", "replay"], ["accepted", "replay", "replay", "replay"])
    assert all(judged(found) in either for found in outcomes.values())
    for sender in senders:
        assert len(samples(manager, sender)) == 100


def judged(found: list[tuple[str, int]]) -> list[str]:
    """Return the sorted outcomes. A report stored before its first answer of 503 counts as accepted."""
    outcomes = sorted(outcome for outcome, _ in found)
    if "accepted" not in outcomes and any(outcome == "duplicate" and times > 1 for outcome, times in found):
        outcomes[outcomes.index("duplicate")] = "accepted"
    return sorted(outcomes)


def tampered(good: bytes) -> dict[str, bytes]:
    parts = parse(good)
    data = parts.data
    fake_mac = KEY.sign(Purpose.VERDICT, data)
    return {
        "one byte of DATA": Envelope(data.replace(b"north", b"North"), parts.mac, parts.hop_mac).to_bytes(),
        "one digit of the MAC": Envelope(data, _flipped(parts.mac), parts.hop_mac).to_bytes(),
        "one digit of the hop's MAC": Envelope(data, parts.mac, _flipped(parts.hop_mac)).to_bytes(),
        "an unsigned path": Envelope(data, parts.mac, parts.hop_mac, (RELAY,)).to_bytes(),
        "a removed path": _without_path(forward(parts, RELAY, KEY, "manager")),
        "addressed to a relay": sealed(report(node(20), 1, now_ms()), recipient=RELAY),
        "signed for another purpose": Envelope(
            data, fake_mac, KEY.sign(Purpose.HOP, hop_message(fake_mac, (), "manager"))
        ).to_bytes(),
        "the hop signed for another purpose": Envelope(
            data, parts.mac, KEY.sign(Purpose.REPORT, hop_message(parts.mac, (), "manager"))
        ).to_bytes(),
        "another key": sealed(report(node(20), 1, now_ms()), FOREIGN_KEY),
        "the hop by another key": Envelope(
            data, parts.mac, FOREIGN_KEY.sign(Purpose.HOP, hop_message(parts.mac, (), "manager"))
        ).to_bytes(),
    }


def _without_path(forwarded: Envelope) -> bytes:
    return Envelope(forwarded.data, forwarded.mac, forwarded.hop_mac).to_bytes()


def _flipped(mac: str) -> str:
    return ("0" if mac[0] != "0" else "1") + mac[1:]


@pytest.mark.parametrize("name", sorted(tampered(body(node(20), 1, 0))))
def test_a_tampered_report_is_refused_unsigned(manager: Manager, name: str) -> None:
    good = body(node(20), 1, now_ms())
    reply = manager.post(tampered(good)[name])
    assert (reply.status, reply.kind, reply.is_signed) == (403, "bad_signature", False)
    assert reply.headers["content-type"] == "application/problem+json"
    assert samples(manager, node(20)) == []


def test_a_change_of_any_byte_of_a_report_is_refused(manager: Manager) -> None:
    good = body(node(21), 1, now_ms())
    chance = random.Random(2)
    places = range(0, len(good), 3)
    changed = [good[:place] + bytes([good[place] ^ (1 << chance.randrange(8))]) + good[place + 1 :] for place in places]
    answers = all_at_once(manager.port, [updates(sent) for sent in changed])
    assert {(answer.status, answer.is_signed) for answer in answers} <= {(403, False), (400, False)}
    assert samples(manager, node(21)) == []
    assert outcome(manager.post(good), node(21), 1) == "accepted"


def test_the_rules_hold_after_a_restart(tmp_path: Path) -> None:
    sender = node(30)
    with running_manager(tmp_path) as manager:
        first = body(sender, 1, now_ms())
        newest = body(sender, 150, now_ms())
        for sent in (first, newest):
            assert manager.post(sent).status == 200
        manager.kill()
        manager.start()
        assert outcome(manager.post(newest), sender, 150) == "duplicate"
        assert outcome(manager.post(body(sender, 150, now_ms(), tick=151)), sender, 150, 151) == "duplicate"
        replay = manager.post(first).verdict(nonce_of(sender, 1, 1))
        assert (replay.outcome, replay.highest_tick, replay.highest_sample) == ("replay", 150, 150)
        answers = settled(manager.port, [updates(newest)] * 100)
        assert Counter(outcome(answer, sender, 150) for answer, _ in answers) == {"duplicate": 100}
        for changed in tampered(body(sender, 160, now_ms())).values():
            assert manager.post(changed).kind == "bad_signature"
        assert outcome(manager.post(body(sender, 152, now_ms())), sender, 152) == "accepted"
        assert samples(manager, sender) == [1, 150, 152]
