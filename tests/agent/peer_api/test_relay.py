"""A relay passes reports on along its own delivery path, and returns the verdicts of the manager.

The way on is a function here, so that it can answer anything; `tests/end_to_end` has real ones.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest

from kattila_agent.identity import Identity
from kattila_agent.outbound.discovery import Relay
from kattila_agent.outbound.http.clients import AgentClient, Clients
from kattila_agent.outbound.http.connection import Connection, Connections, Reply, UnreachableError
from kattila_agent.outbound.paths import DeliveryPath, Uplink
from kattila_agent.peer_api.relay import SLOTS, ReportRelay
from kattila_agent.runtime import Runtime
from kattila_keys.refresh import Keys
from kattila_protocol import canonical, envelope, verdict
from kattila_protocol.errors import (
    BadSignature,
    BudgetSpent,
    ClockSkew,
    Malformed,
    NoWay,
    Overloaded,
    Refusal,
    RelayLoop,
    TooManyHops,
)
from kattila_protocol.names import MANAGER
from kattila_protocol.signing import Key, Purpose
from kattila_protocol.verdict import ACCEPTED, Verdict
from protocol.samples import AGENT, FOREIGN_KEY, KEY, NONCE, NOW, PREVIOUS_KEY, RELAYS, REPORT, RING
from support.waiting import PATIENCE_SECONDS

OWN, NEXT, FARTHER, FARTHEST = RELAYS[:4]
SIGNED = canonical.encode(REPORT)
DIRECT = DeliveryPath(None)
THROUGH_NEXT = DeliveryPath(Relay("192.0.2.7", NEXT, "next", 0))


def verdict_reply(outcome: str = ACCEPTED, key: Key = KEY, refusal: Refusal | None = None) -> Reply:
    said = Verdict(outcome, AGENT, NONCE, NOW, 0)
    return Reply(refusal.status if refusal else 200, verdict.seal(said, key, refusal))


def refusal_reply(refusal: Refusal) -> Reply:
    return Reply(refusal.status, json.dumps(refusal.members).encode(), refusal.retry_after_seconds)


@dataclass
class Scene:
    """A relay, the answer of its next hop, and the bodies sent there: to whom, and with how many seconds."""

    answer: Callable[[float], Reply] = lambda seconds: verdict_reply()
    sent: list[tuple[str, bytes, float]] = field(default_factory=list)
    uplink: Uplink = field(default_factory=lambda: Uplink(90))
    moment: float = 1000.0

    def __post_init__(self) -> None:
        self.uplink.found(DIRECT, self.moment)
        keys = SimpleNamespace(verify=lambda operation, now: operation(RING))
        runtime = Runtime(
            now=lambda: NOW,
            monotonic=lambda: self.moment,
            since_boot_ms=lambda: 0,
            nonce=lambda: NONCE,
            new_id=lambda: OWN,
            share=lambda: 0.0,
        )
        self.report_relay = ReportRelay(
            cast(Identity, SimpleNamespace(agent_id=lambda: OWN)),
            cast(Keys, keys),
            self.uplink,
            Clients(Connection("http://192.0.2.99"), cast(Connections, self), cast(AgentClient, self)),
            runtime,
        )

    def post(self, path: str, body: bytes, seconds: float) -> Reply:
        self.sent.append((MANAGER, body, seconds))
        return self.answer(seconds)

    def relay(self, address: str, body: bytes, seconds: float) -> Reply:
        self.sent.append((address, body, seconds))
        return self.answer(seconds)

    def pass_on(self, body: bytes | None = None, seconds: float | None = None) -> Reply:
        return self.report_relay.pass_on(sealed() if body is None else body, seconds)


def sealed(*path: str, recipient: str = OWN) -> bytes:
    """A report that has passed these relays and is addressed to the recipient."""
    way = [*path, recipient]
    parts = envelope.seal(SIGNED, KEY, way[0])
    for relay, following in pairwise(way):
        parts = envelope.forward(parts, relay, KEY, following)
    return parts.to_bytes()


def answers(reply: Reply) -> Callable[[float], Reply]:
    return lambda seconds: reply


def fails(seconds: float) -> Reply:
    raise UnreachableError("it does not answer in time")


def test_a_report_gets_one_more_hop_and_the_verdict_comes_back_unchanged() -> None:
    scene = Scene()
    reply = scene.pass_on()
    ((recipient, body, _),) = scene.sent
    assert reply == verdict_reply()
    assert recipient == MANAGER
    onward = envelope.parse(body)
    assert (onward.data, onward.relay_path) == (SIGNED, (OWN,))
    assert envelope.verify(onward, RING, MANAGER) == KEY


def test_a_signed_refusal_comes_back_unchanged() -> None:
    reply = verdict_reply(ClockSkew.kind, refusal=ClockSkew("far off"))
    assert Scene(answers(reply)).pass_on() == reply


def test_through_another_relay_it_is_addressed_to_that_one() -> None:
    scene = Scene()
    scene.uplink.found(THROUGH_NEXT, scene.moment)
    scene.pass_on(sealed(FARTHER))
    onward = envelope.parse(scene.sent[0][1])
    assert onward.relay_path == (FARTHER, OWN)
    envelope.verify(onward, RING, NEXT)
    with pytest.raises(BadSignature):
        envelope.verify(onward, RING, MANAGER)


def test_a_report_under_an_older_key_is_passed_on_under_that_key() -> None:
    scene = Scene(answers(verdict_reply(key=PREVIOUS_KEY)))
    parts = envelope.seal(SIGNED, PREVIOUS_KEY, OWN)
    scene.pass_on(parts.to_bytes())
    onward = envelope.parse(scene.sent[0][1])
    assert PREVIOUS_KEY.matches(Purpose.HOP, envelope.hop_message(onward.mac, (OWN,), MANAGER), onward.hop_mac)


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (sealed(recipient=NEXT), BadSignature),
        (sealed(recipient=MANAGER), BadSignature),
        (envelope.seal(SIGNED, FOREIGN_KEY, OWN).to_bytes(), BadSignature),
        (sealed().replace(b'"relay_path":[]', b'"relay_path":["%s"]' % FARTHER.encode()), BadSignature),
        (sealed(FARTHER).replace(FARTHER.encode(), FARTHEST.encode()), BadSignature),
        (sealed().replace(b'"sample":41', b'"sample":42'), BadSignature),
        (sealed()[:-1], Malformed),
        (b"{}", Malformed),
        (sealed(NEXT, FARTHER, FARTHEST), TooManyHops),
    ],
    ids=["for another", "for the manager", "outsider", "forged path", "changed path", "changed", "cut", "{}", "hops"],
)
def test_a_report_for_another_recipient_is_refused(body: bytes, refusal: type[Refusal]) -> None:
    scene = Scene()
    with pytest.raises(refusal):
        scene.pass_on(body)
    assert scene.sent == []


def test_a_report_that_was_relayed_before_is_a_loop() -> None:
    scene = Scene()
    with pytest.raises(RelayLoop):
        scene.pass_on(sealed(OWN, NEXT, recipient=OWN))
    assert scene.sent == []


def test_a_report_that_came_from_where_it_would_go_is_a_loop() -> None:
    scene = Scene()
    scene.uplink.found(THROUGH_NEXT, scene.moment)
    with pytest.raises(RelayLoop):
        scene.pass_on(sealed(NEXT))
    assert scene.sent == []


def test_its_own_report_coming_back_is_a_loop() -> None:
    scene = Scene()
    scene.uplink.report_mac = envelope.parse(sealed()).mac
    with pytest.raises(RelayLoop, match="made the report itself"):
        scene.pass_on()


@pytest.mark.parametrize(
    ("path", "distance", "fits"),
    [((), 2, True), ((FARTHER,), 1, True), ((FARTHER, FARTHEST), 0, True), ((FARTHER,), 2, False), ((), 3, False)],
)
def test_relays_still_ahead_count_as_hops(path: tuple[str, ...], distance: int, fits: bool) -> None:
    scene = Scene()
    onward = DIRECT if distance == 0 else DeliveryPath(Relay("192.0.2.7", NEXT, "next", distance - 1))
    scene.uplink.found(onward, scene.moment)
    if fits:
        scene.pass_on(sealed(*path))
    else:
        with pytest.raises(TooManyHops):
            scene.pass_on(sealed(*path))
    assert len(scene.sent) == fits


def test_without_a_path_it_refuses_and_does_not_look_for_one() -> None:
    scene = Scene()
    scene.uplink.lost()
    with pytest.raises(NoWay):
        scene.pass_on()
    assert scene.sent == []


def test_an_expired_path_is_not_used() -> None:
    scene = Scene()
    scene.moment += 91
    with pytest.raises(NoWay):
        scene.pass_on()


def test_a_failed_path_is_lost_until_its_own_next_report() -> None:
    scene = Scene(fails)
    with pytest.raises(NoWay, match="the manager does not answer: it does not answer in time"):
        scene.pass_on()
    assert scene.uplink.path(scene.moment) is None


def test_a_path_found_meanwhile_is_kept() -> None:
    def fails_late(seconds: float) -> Reply:
        scene.uplink.found(THROUGH_NEXT, scene.moment)
        raise UnreachableError("it does not answer in time")

    scene = Scene(fails_late)
    with pytest.raises(NoWay):
        scene.pass_on()
    assert scene.uplink.path(scene.moment) == THROUGH_NEXT


def test_the_managers_pause_applies_to_relayed_reports() -> None:
    scene = Scene()
    scene.uplink.pause(3.2, scene.moment)
    with pytest.raises(Overloaded) as raised:
        scene.pass_on()
    assert (raised.value.retry_after_seconds, scene.sent) == (4, [])


def test_a_path_that_failed_for_lack_of_time_is_kept() -> None:
    scene = Scene(fails)
    with pytest.raises(NoWay):
        scene.pass_on(seconds=1.0)
    assert scene.uplink.path(scene.moment) == DIRECT


@pytest.mark.parametrize(
    ("reply", "is_lost"),
    [
        (Reply(200, b'{"outcome":"accepted"}'), False),
        (Reply(200, b""), False),
        (verdict_reply(key=FOREIGN_KEY), False),
        (refusal_reply(RelayLoop("it was here")), False),
        (refusal_reply(NoWay("neither do I")), True),
    ],
    ids=["unsigned", "empty", "foreign key", "refused", "no way"],
)
def test_only_verdicts_are_returned(reply: Reply, is_lost: bool) -> None:
    scene = Scene(answers(reply))
    with pytest.raises(NoWay):
        scene.pass_on()
    assert (scene.uplink.path(scene.moment) is None) == is_lost


def test_a_busy_next_hop_is_reported_back() -> None:
    with pytest.raises(Overloaded) as raised:
        Scene(answers(refusal_reply(Overloaded("full", retry_after_seconds=7)))).pass_on()
    assert raised.value.retry_after_seconds == 7


@pytest.mark.parametrize(("allowed", "given"), [(None, 5.7), (60.0, 5.7), (2.0, 1.7)])
def test_the_next_hop_gets_the_callers_budget_less_a_margin(allowed: float | None, given: float) -> None:
    scene = Scene()
    scene.pass_on(seconds=allowed)
    assert scene.sent[0][2] == pytest.approx(given)


@pytest.mark.parametrize("allowed", [0.0, 0.001, 0.5, 0.79])
def test_a_budget_that_is_spent(allowed: float) -> None:
    scene = Scene()
    with pytest.raises(BudgetSpent):
        scene.pass_on(seconds=allowed)
    assert scene.sent == []


def test_the_same_report_again_gets_the_stored_verdict() -> None:
    scene = Scene()
    first = scene.pass_on()
    scene.answer = answers(verdict_reply("duplicate"))
    assert scene.pass_on() == first
    assert len(scene.sent) == 1


def test_a_stored_verdict_requires_a_valid_hop_signature() -> None:
    scene = Scene()
    scene.pass_on()
    with pytest.raises(BadSignature):
        scene.pass_on(sealed(recipient=NEXT))


def test_an_overloaded_answer_is_not_stored() -> None:
    scene = Scene(answers(verdict_reply(Overloaded.kind, refusal=Overloaded("full"))))
    assert scene.pass_on().status == 503
    scene.answer = answers(verdict_reply())
    assert scene.pass_on() == verdict_reply()


def test_too_many_reports_at_once_are_refused_for_a_while() -> None:
    entered, leave = threading.Semaphore(0), threading.Event()

    def slow(seconds: float) -> Reply:
        entered.release()
        leave.wait(PATIENCE_SECONDS)
        return verdict_reply()

    scene = Scene(slow)
    threads = [threading.Thread(target=scene.pass_on) for _ in range(SLOTS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert entered.acquire(timeout=PATIENCE_SECONDS)
    with pytest.raises(Overloaded) as raised:
        scene.pass_on()
    assert raised.value.retry_after_seconds
    leave.set()
    for thread in threads:
        thread.join()
    assert scene.pass_on() == verdict_reply()
