"""No reader leaks a private or preshared key: not in a value, a text, a debug log, or the traceback of a failure."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import struct
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_agent.collectors.wireguard import curve25519, helper, kernel, userspace, wg_dump
from kattila_agent.collectors.wireguard.builder import InterfaceBuilder, PeerLimits, build
from kattila_agent.helpers import wireguard_helper
from kattila_protocol import canonical
from support import wireguard_packets as packets
from support.counts import examples
from support.wireguard_packets import INDEX, attribute, message

LIMITS = PeerLimits(1000, 5000)
# A part of a secret this long never appears by chance.
PART = 8

# No byte is repeated, because runs of zeros also appear outside of secrets.
keys = st.lists(st.integers(0, 255), min_size=32, max_size=32, unique=True).map(bytes)


def scope(index: int) -> str:
    return str(index)


def encodings(secret: bytes) -> set[str]:
    """Every part of a key as text: hex, base64 in each alignment, bytes as Python shows them, and a number."""
    found = {str(int.from_bytes(secret, order)) for order in ("big", "little")}
    for start in range(len(secret) - PART + 1):
        part = secret[start : start + PART]
        found |= {part.hex(), part.hex(":"), repr(part)[2:-1], part.decode("latin-1"), str(list(part))[1:-1]}
    encoded = base64.b64encode(secret).decode()
    return found | {encoded[start : start + 12] for start in range(len(encoded) - 12)}


@contextmanager
def debug_log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    catcher = logging.StreamHandler(text)
    root = logging.getLogger()
    before = root.level
    root.addHandler(catcher)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.setLevel(before)
        root.removeHandler(catcher)


def shown(read: Callable[[], InterfaceBuilder]) -> str:
    """Everything that a reading shows, whether it succeeds or fails."""
    with debug_log() as log:
        try:
            builder = read()
            built = build([builder], LIMITS)
            out = [repr(builder), repr(built), canonical.encode(built.items).decode()]
        except Exception as error:
            # The chain, too: "from None" keeps the causes out of a traceback.
            out = [repr(error), str(error), *traceback.format_exception(error)]
            assert error.__suppress_context__ or error.__context__ is None
    return "\n".join([*out, log.getvalue()])


def assert_no_secret(text: str, *secrets: bytes) -> None:
    for secret in secrets:
        assert not [part for part in encodings(secret) if part in text]


def test_these_tests_would_find_a_leak() -> None:
    secret = bytes(range(40, 72))
    for leak in (secret.hex(), base64.b64encode(secret).decode(), repr(secret), repr([*secret]), secret[3:12].hex()):
        assert any(part in leak for part in encodings(secret))


# A field may be missing, repeated, or contain other bytes; a secret may have another length. A source never gives a
# secret the name of another field, because it would be reported as that field. Most fields are correct, so that many
# answers are read to their end.
mangled = st.sampled_from(
    [
        *(lambda payload, _: [payload],) * 30,
        lambda _payload, _: [],
        lambda payload, _: [payload, payload],
        lambda payload, _: [payload[:-1]],
        lambda payload, junk: [payload + junk],
        lambda _payload, junk: [junk],
    ]
)


T = TypeVar("T")


def mostly_in_order(items: Sequence[T]) -> st.SearchStrategy[Sequence[T]]:
    return st.one_of(st.just(items), st.just(items), st.just(items), st.permutations(items))


def cut_off(draw: st.DrawFn, whole: bytes) -> bytes:
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 3)) == 0 else whole


@st.composite
def kernel_answers(draw: st.DrawFn, private: bytes, preshared: bytes) -> list[bytes]:
    own = curve25519.public_key(private)

    def field(kind: int, payload: bytes) -> bytes:
        how = draw(mangled)
        return b"".join(attribute(kind, each) for each in how(payload, draw(st.binary(max_size=6))))

    peer = b"".join(
        draw(
            mostly_in_order(
                [
                    field(1, own),
                    field(2, preshared),
                    field(4, packets.sockaddr("2001:db8::1", 1, 1)),
                    field(5, bytes(2)),
                    field(6, struct.pack("=qq", 1, 1)),
                    field(7, bytes(8)),
                    field(8, bytes(8)),
                    field(9, attribute(0, packets.allowed_ip("192.0.2.0/24"))),
                ]
            )
        )
    )
    index = struct.pack("=I", INDEX)
    fields = [field(1, index), field(3, private), field(4, own), field(6, b"\1\0"), field(7, bytes(4))]
    whole = message(b"".join(draw(mostly_in_order(fields))), field(8, attribute(0, peer)))
    return [cut_off(draw, whole)]


@st.composite
def userspace_answers(draw: st.DrawFn, private: bytes, preshared: bytes) -> bytes:
    lines = []
    for name, value in (
        ("private_key", private.hex()),
        ("listen_port", "1"),
        ("public_key", bytes(32).hex()),
        ("preshared_key", preshared.hex()),
        ("endpoint", "192.0.2.1:1"),
        ("allowed_ip", "192.0.2.0/24"),
        ("last_handshake_time_sec", "1"),
        ("rx_bytes", "1"),
        ("tx_bytes", "1"),
        ("errno", "0"),
    ):
        how = draw(mangled)
        lines += [f"{name}={each}" for each in how(value, draw(st.text("=-x9 \u00fc", max_size=4)))]
    whole = ("\n".join(draw(mostly_in_order(lines))) + "\n\n").encode()
    return cut_off(draw, whole)


@st.composite
def dumps(draw: st.DrawFn, private: bytes, preshared: bytes) -> bytes:
    own = base64.b64encode(curve25519.public_key(private)).decode()
    secrets = [base64.b64encode(secret).decode() for secret in (private, preshared)]
    lines = [
        ["wg0", secrets[0], own, "1", "off"],
        ["wg0", own, secrets[1], "192.0.2.1:1", "192.0.2.0/24", "1", "1", "1", "off"],
    ]
    changed = []
    for line in lines:
        secret = 1 if len(line) == 5 else 2
        # The secret may have any length, but must not be in another column, where it would be reported.
        hidden = draw(
            st.sampled_from([line[secret], line[secret], line[secret][:-1], line[secret] + "(", "", "(none)"])
        )
        tail = [
            each for column in line[secret + 1 :] for each in draw(mangled)(column, draw(st.text("x9(,", max_size=3)))
        ]
        changed.append("\t".join([*line[:secret], hidden, *tail]))
    whole = ("\n".join(draw(mostly_in_order(changed))) + "\n").encode()
    return cut_off(draw, whole)


@settings(max_examples=examples(200))
@given(st.data(), keys, keys)
def test_the_kernels_secrets(data: st.DataObject, private: bytes, preshared: bytes) -> None:
    answer = data.draw(kernel_answers(private, preshared))
    text = shown(lambda: kernel.parse(INDEX, "wg0", answer, LIMITS, scope))
    assert_no_secret(text, private, preshared)


@settings(max_examples=examples(200))
@given(st.data(), keys, keys)
def test_a_userspace_devices_secrets(data: st.DataObject, private: bytes, preshared: bytes) -> None:
    answer = data.draw(userspace_answers(private, preshared))
    assert_no_secret(shown(lambda: userspace.parse("wg0", answer, LIMITS, scope)), private, preshared)


@settings(max_examples=examples(200))
@given(st.data(), keys, keys)
def test_the_secrets_of_a_dump(data: st.DataObject, private: bytes, preshared: bytes) -> None:
    lines = data.draw(dumps(private, preshared)).split(b"\n")[:-1]
    assert_no_secret(shown(lambda: wg_dump.parse(lines, LIMITS, scope)["wg0"]), private, preshared)


@settings(max_examples=examples(200))
@given(st.data(), keys, keys)
def test_the_secrets_in_a_helpers_answer_that_it_did_not_blank(
    data: st.DataObject, private: bytes, preshared: bytes
) -> None:
    body = data.draw(dumps(private, preshared))
    end = b"end " + hashlib.sha256(body).hexdigest().encode() + b"\n"
    answer = b"kattila-wireguard 1\n" + body + end
    assert_no_secret(shown(lambda: helper.parse(answer, LIMITS, scope)[0]["wg0"]), private, preshared)


@settings(max_examples=examples(200))
@given(st.data(), keys, keys)
def test_the_helper_blanks_or_refuses(data: st.DataObject, private: bytes, preshared: bytes) -> None:
    out = []
    for line in data.draw(dumps(private, preshared)).split(b"\n"):
        try:
            out.append(wireguard_helper.blanked(line).decode("latin-1"))
        except wireguard_helper.FailedError as error:
            out += [repr(error), *traceback.format_exception(error)]
    assert_no_secret("\n".join(out), private, preshared)


@given(private=keys, preshared=keys, at=st.integers(0, 400), junk=st.binary(max_size=4), drawn=st.data())
@settings(max_examples=examples(300))
def test_a_shifted_answer_does_not_even_show_a_length(
    private: bytes, preshared: bytes, at: int, junk: bytes, drawn: st.DataObject
) -> None:
    """If bytes are missing or added, a part of a key may be read as a length."""
    (whole,) = drawn.draw(kernel_answers(private, preshared))
    shifted = whole[:at] + junk + whole[at + drawn.draw(st.integers(0, 4)) :]
    try:
        kernel.parse(INDEX, "wg0", [shifted], LIMITS, scope)
    except ValueError as error:
        assert not any(character.isdigit() for character in str(error).replace("65535", ""))
