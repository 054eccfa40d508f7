"""Any bytes are either parsed or refused, without another exception and in a short time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import thread_time

import pytest
from hypothesis import example, given
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

# A body of maximum size takes about 50 ms; a quadratic algorithm would take minutes.
SECONDS = 5.0

Parser = Callable[[bytes], object]
PARSERS: dict[str, Parser] = {
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
    """Return a valid body with a part removed, doubled, or replaced by any bytes or by a part of another body."""
    body = draw(st.sampled_from(GOOD))
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, min(len(body), start + 100)))
    other = draw(st.sampled_from(GOOD))
    cut = draw(st.integers(0, len(other)))
    middle = draw(st.binary(max_size=30) | st.just(body[start:end] * 2) | st.just(other[cut : cut + 200]))
    return body[:start] + middle + body[end:]


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS.keys())
@given(body=st.binary() | spoiled())
@example(b"")
@example(b'{"data":,"hmac":"' + b"0" * 64 + b'"}')
def test_any_body_is_parsed_or_refused(parser: Parser, body: bytes) -> None:
    with suppress(Refusal):
        parser(body)


# Signed with the PSK, so that the signed part is parsed.
@pytest.mark.parametrize("purpose", [Purpose.VERDICT, Purpose.REGISTER, Purpose.RESET])
@given(signed=st.binary() | spoiled())
def test_any_signed_data_is_parsed_or_refused(purpose: Purpose, signed: bytes) -> None:
    body = b'{"data":' + signed + b',"hmac":"' + KEY.sign(purpose, signed).encode() + b'"}'
    for name, parser in PARSERS.items():
        if name not in ("parse_object", "report"):
            with suppress(Refusal):
                parser(body)


def assert_refused_quickly(parser: Parser, body: bytes) -> None:
    started = thread_time()
    with pytest.raises(Refusal):
        parser(body)
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
def test_large_bodies_are_refused_quickly(pattern: bytes, size: int) -> None:
    for start in (b"", b'{"data":{"a":', b'{"x":"'):
        body = start + filled(pattern, size - len(start))
        for parser in PARSERS.values():
            assert_refused_quickly(parser, body)


# A body over the limit is not parsed.
@pytest.mark.parametrize("parser", [PARSERS[name] for name in PARSERS if name != "parse_object"])
def test_100_megabytes_are_refused_quickly(parser: Parser) -> None:
    assert_refused_quickly(parser, b"{" * 100_000_000)
