"""Whatever bytes arrive, they are read or refused, and nothing else happens; and soon."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import thread_time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kattila_protocol import canonical, envelope, message, peer, registration, reset, verdict
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import Refusal
from kattila_protocol.names import MANAGER
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.registration import Registration
from kattila_protocol.reset import Reset
from kattila_protocol.signing import Purpose
from kattila_protocol.verdict import Verdict
from protocol.samples import AGENT, KEY, NONCE, NOW, REPORT, RING

# A body of the largest size takes some 50 ms here; quadratic work on it takes minutes.
SECONDS = 5.0

Reader = Callable[[bytes], object]
READERS: dict[str, Reader] = {
    "parse_object": canonical.parse_object,
    "report": lambda body: envelope.verify(envelope.parse(body), RING, MANAGER),
    "message": lambda body: message.unseal(Purpose.RESET, RING, body),
    "verdict": lambda body: verdict.unseal(body, RING, NONCE),
    "registration": lambda body: registration.unseal(body, RING),
    "reset": lambda body: reset.unseal(body, RING, AGENT, NOW),
    "reset answer": lambda body: reset.unseal_answer(body, RING, NONCE),
    "peer answer": lambda body: peer.unseal_answer(body, RING, NONCE),
}
GOOD: list[bytes] = [
    canonical.encode(REPORT),
    envelope.seal(canonical.encode(REPORT), KEY).to_bytes(),
    registration.seal(Registration(AGENT, AGENT, "a.example.org", (), NONCE, NOW), KEY),
    reset.seal(Reset(AGENT, NONCE, NOW), KEY),
    verdict.seal(Verdict("accepted", AGENT, NONCE, NOW, 0), KEY),
    peer.seal_answer(
        PeerAnswer(AGENT, "a.example.org", 0, None, REPORT.telemetry.interfaces, REPORT.telemetry.routes, NONCE), KEY
    ),
]


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Return a good body with a part of it cut out, doubled, or replaced by any bytes or by a part of another."""
    body = draw(st.sampled_from(GOOD))
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, min(len(body), start + 100)))
    other = draw(st.sampled_from(GOOD))
    cut = draw(st.integers(0, len(other)))
    middle = draw(st.binary(max_size=30) | st.just(body[start:end] * 2) | st.just(other[cut : cut + 200]))
    return body[:start] + middle + body[end:]


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
@given(body=st.binary() | spoiled())
@example(b"")
@example(b'{"data":,"hmac":"' + b"0" * 64 + b'"}')
@settings(deadline=None)
def test_read_or_refused(reader: Reader, body: bytes) -> None:
    with suppress(Refusal):
        reader(body)


# Signed by one who has the PSK, so that nothing stops it before it is read.
@pytest.mark.parametrize("purpose", [Purpose.VERDICT, Purpose.REGISTER, Purpose.RESET])
@given(signed=st.binary() | spoiled())
@settings(deadline=None)
def test_signed_is_read_or_refused(purpose: Purpose, signed: bytes) -> None:
    body = b'{"data":' + signed + b',"hmac":"' + KEY.sign(purpose, signed).encode() + b'"}'
    for name, reader in READERS.items():
        if name not in ("parse_object", "report"):
            with suppress(Refusal):
                reader(body)


def assert_refused_soon(reader: Reader, body: bytes) -> None:
    started = thread_time()
    with pytest.raises(Refusal):
        reader(body)
    assert thread_time() - started < SECONDS


def filled(pattern: bytes, size: int = MAX_BODY_BYTES) -> bytes:
    return (pattern * (size // len(pattern) + 1))[:size]


@pytest.mark.parametrize("size", [MAX_BODY_BYTES, message.MAX_MESSAGE_BYTES])
@pytest.mark.parametrize(
    "pattern",
    [
        *(b"{", b"[", b'"', b"\\", b"9", b"}", b"\x00", b" ", b'{"data":', b'"data":', b'{"a":', b"[{", b'["'),
        b',"hmac":"',
        b',"hmac":"' + b"0" * 64 + b'"}',
        b',"hmac":"' + b"0" * 64 + b'","hop_hmac":"' + b"0" * 64 + b'","relay_path":[',
        b"\\ud800",
        b'"\\ud800":1,',
    ],
    ids=lambda pattern: repr(pattern[:20])[2:-1],
)
def test_large_bodies_are_refused_soon(pattern: bytes, size: int) -> None:
    for front in (b"", b'{"data":{"a":', b'{"x":"'):
        body = front + filled(pattern, size - len(front))
        for reader in READERS.values():
            assert_refused_soon(reader, body)


# What is over the limit is not looked at.
@pytest.mark.parametrize("reader", [READERS[name] for name in READERS if name != "parse_object"])
def test_100_megabytes_are_refused_soon(reader: Reader) -> None:
    assert_refused_soon(reader, b"{" * 100_000_000)
