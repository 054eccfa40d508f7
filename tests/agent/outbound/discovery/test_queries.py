"""Queries over real sockets, to siblings and to servers that are not siblings or are hostile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from typing import Any

import pytest

from kattila_agent.identity import StateError
from kattila_agent.outbound.discovery import Directory, Discoverer, Get, candidates, query
from kattila_agent.outbound.discovery.queries import PACE_SECONDS
from kattila_agent.outbound.http.clients import AgentClient
from kattila_agent.outbound.http.connection import Page, UnreachableError
from kattila_agent.runtime import Runtime
from kattila_protocol import message, peer
from kattila_protocol.errors import BadSignature, Malformed, NoKey, Refusal
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.report import CollectorFailure, Telemetry, WireguardInterface, WireguardPeer
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose
from support.agent_folder import OTHER_PSK, PSK, ring_of
from support.counts import PEER_QUERIES
from support.knot import free_port
from support.open_files import open_files
from support.sibling import Behaviour, close, drip, parameters, responds, send, serving, silence
from support.waiting import ENDLESS_SECONDS, join_all, not_waiting_for, wait_for
from support.wireguard import connected_namespaces

OWN = "00000000-0000-4000-8000-000000000000"
SIBLING = "11111111-1111-4111-8111-111111111111"
NONCE = "00112233445566778899aabbccddeeff"
NOW = 1_760_000_000_000
RING = ring_of(PSK)
SAID = PeerAnswer(SIBLING, "sibling", 0, None, (), (), NONCE)


def sealed(said: PeerAnswer = SAID, key: Key = RING.current) -> bytes:
    return peer.seal_answer(said, key)


def asked_at(port: int, ring: Ring = RING, address: str = "127.0.0.1") -> PeerAnswer:
    return query(AgentClient(port).query, OWN, address, ring, NONCE, NOW)


def test_a_query_is_signed_and_its_answer_read() -> None:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        assert handler.path.startswith("/status/peer?")
        query, key = peer.verify_query(parameters(handler), RING, frozenset({"127.0.0.1"}), NOW)
        assert (query.agent_id, query.nonce, query.timestamp) == (OWN, NONCE, NOW)
        send(handler, sealed(key=key))

    with serving(behave) as port:
        assert asked_at(port) == SAID


@pytest.mark.parametrize("key", [ring_of(PSK, OTHER_PSK).current, Key.from_psk(OTHER_PSK)])
def test_all_keys_of_the_ring_are_good(key: Key) -> None:
    with serving(responds(sealed(key=key))) as port:
        assert asked_at(port, ring_of(PSK, OTHER_PSK)) == SAID


NOT_OURS = "the answer is not from an agent of this fleet"
PROBLEM = b'{"type":"urn:kattila:problem:foreign_source","detail":"192.0.2.1 may not\\u001b[2J"}'


@pytest.mark.parametrize(
    ("behave", "error", "said"),
    [
        (silence, UnreachableError, "no whole answer within 2 s"),
        (drip, UnreachableError, "no whole answer within 2 s"),
        (close, UnreachableError, "the connection was closed before an answer came"),
        (responds(b"x" * 300_000), UnreachableError, "its answer is over 262144 bytes"),
        (responds(sealed(), Content_Length="100000000"), UnreachableError, "closed before"),
        (responds(b"\x00\xff garbage"), Malformed, NOT_OURS),
        (responds(b""), Malformed, NOT_OURS),
        (responds(b"[" * 200_000), Malformed, NOT_OURS),
        (responds(message.seal(Purpose.VERDICT, RING.current, [])), Malformed, NOT_OURS),
        (responds(sealed(replace(SAID, nonce="f" * 32))), Malformed, "the answer has the nonce of another query"),
        (responds(sealed(key=Key.from_psk(OTHER_PSK))), BadSignature, "matches none of the 1 keys"),
        (responds(message.seal(Purpose.RESET, RING.current, SAID)), BadSignature, "matches none of the 1 keys"),
        (responds(message.seal(Purpose.VERDICT, RING.current, {"nonce": NONCE})), Malformed, "agent_id is missing"),
        (responds(sealed(replace(SAID, agent_id="../../x"))), Malformed, "agent_id is not a UUID"),
        (responds(sealed(replace(SAID, distance=-1))), Malformed, "distance is not from 0 to"),
        (responds(b"", 302, Location="http://127.0.0.1:1/status/peer"), Malformed, "it refuses (HTTP 302)"),
        (responds(PROBLEM, 403), Malformed, r"it refuses (HTTP 403): '192.0.2.1 may not\u001b[2J'"),
        (responds(b"<html>", 404), Malformed, "it refuses (HTTP 404)"),
    ],
)  # fmt: skip
def test_invalid_answers(behave: Behaviour, error: type[Exception], said: str) -> None:
    with serving(behave) as port, pytest.raises(error) as caught, not_waiting_for("the end of the answer"):
        asked_at(port)
    assert said in str(caught.value)


def test_no_server_at_the_address() -> None:
    with pytest.raises(UnreachableError, match="connection refused"):
        asked_at(free_port())


def test_without_a_key_no_query_is_possible() -> None:
    with pytest.raises(NoKey):
        asked_at(1, Ring())


@pytest.mark.parametrize("address", ["2001:db8::1", "192.0.2.1"])
def test_either_family_is_reached(address: str) -> None:
    told: list[str] = []

    def behave(handler: BaseHTTPRequestHandler) -> None:
        told.append(parameters(handler)["to"])
        send(handler, sealed())

    with connected_namespaces() as (one, two), ExitStack() as stack:
        with one.entered():
            port = stack.enter_context(serving(behave, address))
        with two.entered():
            assert asked_at(port, address=address) == SAID
    assert told == [address]


def test_many_queries_leave_nothing_behind() -> None:
    answers = [responds(sealed()), responds(b"garbage"), responds(b"", 302), close, responds(b"x" * 300_000)]
    turn = iter(range(10_000))

    def behave(handler: BaseHTTPRequestHandler) -> None:
        answers[next(turn) % len(answers)](handler)

    with serving(behave) as port:
        before, threads = open_files(), threading.active_count()
        began = time.monotonic()
        for _ in range(PEER_QUERIES):
            try:
                assert asked_at(port) == SAID
            except (UnreachableError, Refusal):
                continue
        print(f"{(time.monotonic() - began) / PEER_QUERIES * 1000:.2f} ms for a query")
        # The server's threads end by themselves.
        wait_for(lambda: threading.active_count() <= threads, "the end of the server's threads")
        assert open_files() <= before + 1


class Asked:
    """A `get` that answers at once as a test says, and remembers the addresses."""

    def __init__(self, said: Callable[[str, str], PeerAnswer]) -> None:
        self.addresses: list[str] = []
        self._said = said

    def __call__(self, address: str, given: Any) -> Page:
        self.addresses.append(address)
        return Page(200, "", sealed(self._said(address, given["nonce"])))


def discoverer(directory: Directory, get: Get, **parts: Any) -> Discoverer:
    runtime = Runtime(lambda: NOW, time.monotonic, lambda: 0, lambda: NONCE, lambda: OWN, lambda: 0.5)
    given: dict[str, Any] = {
        "ring": lambda: RING,
        "own_id": lambda: OWN,
        "hurried": lambda now: True,
        "stop": threading.Event(),
    }
    return Discoverer(runtime, directory, get, **(given | parts))


class Turns(Directory):
    """A directory that records each turn and its time; only one thread has a turn at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.moments: list[float] = []

    def due(self, now: float, *, hurried: bool) -> str | None:
        address = super().due(now, hurried=hurried)
        if address is not None:
            self.addresses.append(address)
            self.moments.append(time.monotonic())
        return address


def run_until(asking: Discoverer, is_done: Callable[[], object]) -> None:
    thread = threading.Thread(target=asking.run)
    thread.start()
    try:
        wait_for(is_done, "the answers")
    finally:
        asking.stop.set()
        join_all([thread])


def test_a_failed_measurement_keeps_the_known_siblings() -> None:
    directory = Directory()

    def observe(telemetry: Telemetry) -> None:
        found = candidates(telemetry)
        directory.update(found.addresses, are_all=not found.unread)

    peer_of_wg0 = WireguardPeer("key", None, ("192.0.2.1/32",), 1, 0, 0, 0, False)
    read = Telemetry(system=None, wireguard=(WireguardInterface("wg0", "key", 51820, 0, (peer_of_wg0,)),))
    observe(read)
    assert directory.due(0.0, hurried=False) == "192.0.2.1"
    directory.answered("192.0.2.1", SAID, 0.01, 0.0, 0.0)
    observe(Telemetry(system=None, failures=(CollectorFailure("wireguard", "wg0: it hangs"),)))
    assert directory.relays(OWN, 1.0) != ()
    observe(Telemetry(system=None, failures=(CollectorFailure("rules", "not this one"),)))
    assert directory.relays(OWN, 1.0) == ()


def test_all_threads_together_keep_the_pace() -> None:
    directory = Turns()
    directory.update(tuple(f"192.0.2.{number}" for number in range(1, 13)))
    asked = Asked(lambda address, nonce: replace(SAID, agent_id=f"{address[8:]:0>8}-0000-4000-8000-000000000000"))
    asking = discoverer(directory, asked)
    asking.start()
    run_until(asking, lambda: len(directory.relays(OWN, time.monotonic())) == 12)
    assert directory.addresses == [f"192.0.2.{number}" for number in range(1, 13)]
    assert sorted(asked.addresses) == sorted(directory.addresses)
    pauses = [later - before for before, later in pairwise(directory.moments)]
    assert min(pauses) >= PACE_SECONDS * 0.9


def test_a_silent_address_does_not_delay_the_others() -> None:
    directory = Directory()
    directory.update(("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    stop, asked = threading.Event(), Asked(lambda address, nonce: SAID)

    def get(address: str, given: Any) -> Page:
        if address != "192.0.2.3":
            stop.wait(ENDLESS_SECONDS)
            raise UnreachableError("late")
        return asked(address, given)

    asking = discoverer(directory, get, stop=stop)
    asking.start()
    run_until(asking, lambda: directory.relays(OWN, time.monotonic()))


@pytest.mark.parametrize(
    "said",
    [
        replace(SAID, agent_id=OWN),
        replace(SAID, distance=10**9),
        replace(SAID, distance=1, next_hop=OWN),
        replace(SAID, distance=None),
        replace(SAID, nonce="f" * 32),
    ],
)
def test_which_answers_make_no_relay(said: PeerAnswer) -> None:
    directory, asked = Directory(), Asked(lambda address, nonce: said)
    directory.update(("192.0.2.1",))
    asking = discoverer(directory, asked)
    run_until(asking, lambda: asked.addresses)
    assert directory.relays("another id", time.monotonic()) == ()
    assert directory.due(time.monotonic(), hurried=True) is None


def test_without_a_key_or_an_id_it_waits_until_it_has_one() -> None:
    directory, asked, rings = Directory(), Asked(lambda address, nonce: SAID), [Ring()]
    directory.update(("192.0.2.1",))
    asking = discoverer(directory, asked, ring=lambda: rings[0])
    turns = threading.Timer(0.5, lambda: rings.__setitem__(0, RING))
    turns.start()
    run_until(asking, lambda: asked.addresses)

    def no_id() -> str:
        raise StateError("the folder is gone")

    run_until(discoverer(directory, asked, own_id=no_id), lambda: True)
