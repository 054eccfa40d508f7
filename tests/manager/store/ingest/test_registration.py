"""Registrations at a real manager: which answers are signed, and what a refusal stores."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from kattila_manager.store.ingest import registry
from kattila_protocol import message, registration
from kattila_protocol.signing import Purpose
from support.manager import REGISTER, Manager, Reply, now_ms, running_manager
from support.reports import FOREIGN_KEY, KEY, RING, Node, node, registering, registration_nonce

MINUTES = 60_000


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with running_manager(tmp_path_factory.mktemp("registering"), workers=1) as running:
        yield running


def register(manager: Manager, sender: Node, offset: int = 0) -> Reply:
    return manager.post(registering(sender, now_ms() + offset), REGISTER)


def is_known(manager: Manager, sender: Node) -> bool:
    return bool(manager.rows("SELECT ref FROM agents WHERE agent_id = ?", sender.agent_id))


def test_a_current_registration_is_accepted(manager: Manager) -> None:
    sender = node(1)
    verdict = register(manager, sender, -9 * MINUTES).verdict(registration_nonce(sender))
    assert (verdict.outcome, verdict.agent_id) == ("accepted", sender.agent_id)
    assert is_known(manager, sender)


def test_an_issued_id_follows_from_the_request() -> None:
    first, same, other = (
        registry.issued_id(registration.unseal(registering(node(1), 0, attempt=attempt), RING)[0])
        for attempt in (1, 1, 2)
    )
    assert first == same != other
    assert (uuid.UUID(first).variant, uuid.UUID(first).version) == (uuid.RFC_4122, 8)


@pytest.mark.parametrize(("number", "offset"), [(2, 11 * MINUTES), (3, -11 * MINUTES)], ids=["ahead", "behind"])
def test_a_skewed_registration_is_refused_with_a_signed_offset(manager: Manager, number: int, offset: int) -> None:
    sender = node(number)
    reply = register(manager, sender, offset)
    verdict = reply.verdict(registration_nonce(sender))
    assert (reply.status, reply.kind, verdict.outcome) == (409, "clock_skew", "clock_skew")
    assert verdict.agent_id == sender.agent_id
    assert abs(verdict.clock_offset - offset) < MINUTES
    assert not is_known(manager, sender)


def test_under_a_foreign_key_no_answer_is_signed(manager: Manager) -> None:
    for offset in (0, 11 * MINUTES):
        reply = manager.post(registering(node(4), now_ms() + offset, key=FOREIGN_KEY), REGISTER)
        assert (reply.status, reply.kind, reply.is_signed) == (403, "bad_signature", False)


def test_a_malformed_registration_is_refused_unsigned(manager: Manager) -> None:
    reply = manager.post(message.seal(Purpose.REGISTER, KEY, {"to": "manager"}), REGISTER)
    assert (reply.status, reply.kind, reply.is_signed) == (400, "malformed", False)
