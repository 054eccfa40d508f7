"""The order in which a report's recipients are tried, and how each answer affects the next attempt.

The recipients are functions here, so that they can answer anything; `tests/end_to_end` has real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from kattila_agent.outbound.delivery import (
    MAX_RELAYS_TRIED,
    RELAY_SECONDS,
    Answered,
    Busy,
    Delivery,
    Outcome,
    OutgoingReport,
    Unreachable,
    Unsigned,
)
from kattila_agent.outbound.discovery import Directory, Relay
from kattila_agent.outbound.http.clients import RELAY, AgentClient, Clients
from kattila_agent.outbound.http.connection import Connection, Connections, Reply, UnreachableError
from kattila_agent.outbound.http.transport import MakeBody
from kattila_agent.outbound.paths import DeliveryPath, Uplink
from kattila_agent.runtime import Runtime
from kattila_protocol import canonical, envelope, verdict
from kattila_protocol.errors import ClockSkew, NoWay, Overloaded, Refusal
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.verdict import ACCEPTED, Verdict
from protocol.samples import AGENT, FOREIGN_KEY, KEY, NONCE, NOW, OTHER_NONCE, RELAYS, REPORT, RING

OUTGOING = OutgoingReport(lambda: canonical.encode(REPORT), NONCE, RING)


def verdict_reply(outcome: str = ACCEPTED, refusal: Refusal | None = None, nonce: str = NONCE) -> Reply:
    said = Verdict(outcome, AGENT, nonce, NOW, 0)
    return Reply(refusal.status if refusal else 200, verdict.seal(said, KEY, refusal))


def problem(refusal: Refusal) -> Reply:
    return Reply(refusal.status, canonical.encode(refusal.members), refusal.retry_after_seconds)


def gone(*_: object) -> Reply:
    raise UnreachableError("no route to host")


@dataclass
class Scene:
    """A delivery, the manager's answer, the answers of relays by address, and the requests with their bodies."""

    manager: Callable[..., Reply] = lambda *_: verdict_reply()
    relays: dict[str, Callable[..., Reply]] = field(default_factory=dict)
    asked: list[tuple[str, bytes, float]] = field(default_factory=list)
    moment: float = 1000.0

    def __post_init__(self) -> None:
        self.uplink, self.directory = Uplink(120), Directory()
        self.directory.update(tuple(self.relays))
        for number, address in enumerate(self.relays):
            answer = PeerAnswer(RELAYS[number], f"relay-{number}", 0, None, (), (), NONCE)
            self.directory.answered(address, answer, 0.01 * (number + 1), self.moment, 0.0)
        runtime = Runtime(
            now=lambda: NOW,
            monotonic=lambda: self.moment,
            since_boot_ms=lambda: 0,
            nonce=lambda: NONCE,
            new_id=lambda: AGENT,
            share=lambda: 0.0,
        )
        clients = Clients(cast(Connection, self), Connections("http://192.0.2.99"), cast(AgentClient, self))
        self.delivery = Delivery(clients, self.directory, self.uplink, runtime)

    def post(self, path: str, body: MakeBody, *, total_seconds: float | None = None) -> Reply:
        signed = body()
        self.asked.append(("manager", signed, 0))
        return self.manager(path, signed)

    def relay(self, address: str, body: MakeBody, seconds: float) -> Reply:
        signed = body()
        self.asked.append((address, signed, seconds))
        return self.relays[address](RELAY, signed)

    def deliver(self) -> tuple[Outcome, Relay | None]:
        result = self.delivery.deliver(OUTGOING, AGENT)
        return result.outcome, result.relay

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]


def test_the_manager_comes_first_and_is_enough() -> None:
    scene = Scene(relays={"192.0.2.1": lambda *_: verdict_reply()})
    outcome, relay = scene.deliver()
    assert isinstance(outcome, Answered)
    assert (relay, scene.names) == (None, ["manager"])
    assert scene.uplink.path(scene.moment) == DeliveryPath(None)
    envelope.verify(envelope.parse(scene.asked[0][1]), RING, "manager")


@pytest.mark.parametrize("manager", [gone, lambda *_: Reply(200, b"<html>log in</html>"), lambda *_: Reply(404, b"")])
def test_without_a_verdict_of_the_manager_the_nearest_relay_is_tried(manager: Callable[..., Reply]) -> None:
    scene = Scene(manager, {"192.0.2.1": lambda *_: verdict_reply()})
    outcome, relay = scene.deliver()
    assert isinstance(outcome, Answered)
    assert relay == Relay("192.0.2.1", RELAYS[0], "relay-0", 0)
    assert scene.names == ["manager", "192.0.2.1"]
    envelope.verify(envelope.parse(scene.asked[1][1]), RING, RELAYS[0])
    path = scene.uplink.path(scene.moment)
    assert path is not None
    assert (path.distance, path.next_hop) == (1, RELAYS[0])


LIES: dict[str, Callable[..., Reply]] = {
    "answers 200 itself": lambda *_: Reply(200, b'{"outcome":"accepted"}'),
    "garbage": lambda *_: Reply(200, bytes(range(256))),
    "truncated": lambda *_: Reply(200, verdict_reply().body[:-10]),
    "of another message": lambda *_: verdict_reply(nonce=OTHER_NONCE),
    "under a foreign key": lambda *_: Reply(200, verdict.seal(Verdict(ACCEPTED, AGENT, NONCE, NOW, 0), FOREIGN_KEY)),
    "gone": gone,
    "has no way": lambda *_: problem(NoWay("neither do I")),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_after_a_relay_that_lies_or_fails_another_is_tried(lie: Callable[..., Reply]) -> None:
    scene = Scene(gone, {"192.0.2.1": lie, "192.0.2.2": lambda *_: verdict_reply()})
    _, relay = scene.deliver()
    assert relay is not None and relay.address == "192.0.2.2"
    scene.asked.clear()
    scene.deliver()
    assert scene.names == ["manager", "192.0.2.2"], "it is left alone for a while"


def test_a_busy_relay_is_tried_again_in_the_next_interval() -> None:
    answers = [problem(Overloaded("full", retry_after_seconds=2)), verdict_reply()]
    scene = Scene(gone, {"192.0.2.1": lambda *_: answers.pop(0)})
    assert scene.deliver()[1] is None
    scene.moment += 30
    assert scene.deliver()[1] is not None


def test_without_a_relay_the_report_waits() -> None:
    scene = Scene(gone)
    outcome, relay = scene.deliver()
    assert (outcome, relay) == (Unreachable("no route to host"), None)
    assert scene.uplink.path(scene.moment) is None


def test_at_most_three_relays_are_tried_for_one_report() -> None:
    scene = Scene(gone, {f"192.0.2.{number}": gone for number in range(7)})
    scene.deliver()
    assert len(scene.asked) == 1 + MAX_RELAYS_TRIED


def test_a_relay_that_takes_its_time_leaves_some_for_the_next() -> None:
    def slow(*_: object) -> Reply:
        scene.moment += RELAY_SECONDS
        raise UnreachableError("no whole answer within 6 s")

    scene = Scene(gone, {f"192.0.2.{number}": slow for number in range(3)})
    scene.deliver()
    assert [seconds for _, _, seconds in scene.asked[1:]] == [6.0, 6.0]


def test_a_refusal_that_the_manager_signed_ends_the_search() -> None:
    scene = Scene(lambda *_: verdict_reply(ClockSkew.kind, ClockSkew("far")), {"192.0.2.1": lambda *_: verdict_reply()})
    outcome, _ = scene.deliver()
    assert isinstance(outcome, Answered) and outcome.verdict.outcome == ClockSkew.kind
    assert scene.names == ["manager"]


def test_a_busy_manager_gets_its_pause_from_this_node_and_its_relays() -> None:
    answers = [problem(Overloaded("full", retry_after_seconds=20)), verdict_reply()]
    scene = Scene(lambda *_: answers.pop(0), {"192.0.2.1": lambda *_: verdict_reply()})
    assert scene.deliver() == (Busy(20, "'full'"), None)
    assert scene.uplink.pause_seconds(scene.moment) == 20
    scene.moment += 30
    assert isinstance(scene.deliver()[0], Answered)
    assert scene.names == ["manager", "manager"]


def test_repeated_requests_for_a_pause_are_granted_once() -> None:
    scene = Scene(
        lambda *_: problem(Overloaded("full", retry_after_seconds=3600)), {"192.0.2.1": lambda *_: verdict_reply()}
    )
    assert scene.deliver() == (Busy(30, "'full'"), None)
    assert scene.uplink.path(scene.moment) is None, "nobody has reached the manager this way"
    for _ in range(3):
        scene.moment += 29
        assert scene.deliver()[1] is not None


def test_a_503_without_a_time_does_not_count_as_a_busy_manager() -> None:
    scene = Scene(lambda *_: Reply(503, b"upstream"), {"192.0.2.1": lambda *_: verdict_reply()})
    assert scene.deliver()[1] is not None


def test_waiting_samples_take_the_path_of_the_newest_report() -> None:
    scene = Scene(gone, {"192.0.2.1": lambda *_: verdict_reply()})
    assert isinstance(scene.delivery.deliver_again(OUTGOING), Unreachable)
    scene.deliver()
    scene.asked.clear()
    assert isinstance(scene.delivery.deliver_again(OUTGOING), Answered)
    assert scene.names == ["192.0.2.1"]


def test_each_attempt_is_signed_with_its_own_time_and_stays_the_same_message() -> None:
    """A relayed node's clock is right although its manager took seconds not to answer."""
    scene = Scene(relays={"192.0.2.1": gone, "192.0.2.2": lambda *_: verdict_reply()})

    def gone_after(seconds: float) -> Reply:
        scene.moment += seconds
        return gone()

    scene.manager = lambda *_: gone_after(3)
    scene.relays["192.0.2.1"] = lambda *_: gone_after(4)
    data = lambda: canonical.encode(replace(REPORT, timestamp=NOW + round(1000 * (scene.moment - 1000))))  # noqa: E731
    scene.delivery.deliver(OutgoingReport(data, NONCE, RING), AGENT)
    sent = [canonical.parse_object(envelope.parse(signed).data) for _, signed, _ in scene.asked]
    assert [each["timestamp"] - NOW for each in sent] == [0, 3000, 7000]
    assert {(each["tick"], each["nonce"]) for each in sent} == {(REPORT.tick, NONCE)}


def test_its_own_report_is_recognized() -> None:
    scene = Scene()
    scene.deliver()
    assert scene.uplink.report_mac == envelope.parse(scene.asked[0][1]).mac


def test_the_claimed_kind_of_an_unsigned_answer_is_kept() -> None:
    outcome, _ = Scene(lambda *_: problem(NoWay("not me"))).deliver()
    assert isinstance(outcome, Unsigned)
    assert (outcome.status, outcome.kind, outcome.words) == (502, "no_way", "'not me'")
