"""No text ever shows a PSK or a key derived from it."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from kattila_protocol import canonical, envelope, message, peer, registration, reset, verdict
from kattila_protocol.errors import Refusal
from kattila_protocol.names import MANAGER
from kattila_protocol.peer import PeerQuery
from kattila_protocol.registration import Registration
from kattila_protocol.reset import Reset
from kattila_protocol.signing import Key, Purpose
from protocol.samples import (
    AGENT,
    FOREIGN_KEY,
    FOREIGN_RING,
    KEY,
    NONCE,
    NOW,
    OTHER_AGENT,
    PSK,
    RELAYS,
    REPORT,
    RING,
)


def spellings(key: Key) -> list[str]:
    """Return the secrets of a key in every form in which a text could show them."""
    secrets = [key.psk, *key.purpose_keys.values()]
    return [text for secret in secrets for text in (secret.decode("latin-1"), secret.hex(), repr(secret)[2:-1])]


def assert_no_secret(text: str) -> None:
    for key in (*(entry.key for entry in RING.entries), FOREIGN_KEY):
        for spelling in spellings(key):
            assert spelling not in text


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format, ascii])
@pytest.mark.parametrize(
    "value", [KEY, RING, RING.entries[0], [KEY], {"key": KEY}], ids=lambda value: type(value).__name__
)
def test_a_representation_shows_only_fingerprints(value: object, show: Callable[[object], str]) -> None:
    assert KEY.fingerprint in show(value)
    assert_no_secret(show(value))


def test_a_key_is_not_encoded_as_json() -> None:
    text = ""
    try:
        text = canonical.encode({"ring": KEY}).decode()
    except TypeError as error:
        text = str(error)
    assert_no_secret(text)


DATA = canonical.encode(REPORT)
REQUEST = Registration(AGENT, AGENT, "a.example.org", (), NONCE, NOW)
REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("report", lambda: envelope.verify(envelope.seal(DATA, KEY), FOREIGN_RING, MANAGER)),
    ("recipient", lambda: envelope.verify(envelope.seal(DATA, KEY), RING, AGENT)),
    ("loop", lambda: envelope.forward(envelope.Envelope(DATA, "", "", RELAYS[:1]), RELAYS[0], KEY, MANAGER)),
    ("hops", lambda: envelope.forward(envelope.Envelope(DATA, "", "", RELAYS[:3]), RELAYS[3], KEY, MANAGER)),
    ("purpose", lambda: message.unseal(Purpose.RESET, RING, message.seal(Purpose.VERDICT, KEY, {}))),
    ("strictness", lambda: message.unseal(Purpose.RESET, RING, message.seal(Purpose.RESET, KEY, [1]))),
    ("registration", lambda: registration.unseal(registration.seal(REQUEST, KEY), FOREIGN_RING)),
    ("time", lambda: reset.unseal(reset.seal(Reset(AGENT, NONCE, NOW), KEY), RING, AGENT, 0)),
    ("reset", lambda: reset.unseal(reset.seal(Reset(AGENT, NONCE, NOW), KEY), RING, OTHER_AGENT, NOW)),
    ("verdict", lambda: verdict.unseal(message.seal(Purpose.VERDICT, KEY, {}), RING, NONCE)),
    (
        "peer",
        lambda: peer.verify_query(PeerQuery(AGENT, "192.0.2.1", NONCE, NOW).parameters(KEY), RING, frozenset(), NOW),
    ),
]


@pytest.mark.parametrize("refused", [case[1] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_refusal_shows_no_key(refused: Callable[[], object]) -> None:
    with pytest.raises(Refusal) as refusal:
        refused()
    shown = "".join(traceback.format_exception(refusal.value)) + repr(refusal.value) + str(refusal.value.members)
    assert_no_secret(shown)


# Shows that the tests above can fail.
def test_a_shown_key_is_detected() -> None:
    with pytest.raises(AssertionError):
        assert_no_secret(f"the PSK is {PSK.decode()}")
    with pytest.raises(AssertionError):
        assert_no_secret(repr(KEY.purpose_keys))
