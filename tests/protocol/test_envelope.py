"""The envelope of a report: only one form of a body is accepted, and both MACs protect every part of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kattila_protocol import canonical, envelope
from kattila_protocol.envelope import MAX_BODY_BYTES, MAX_HOPS, Envelope
from kattila_protocol.errors import BadSignature, Malformed, NoKey, Refusal, RelayLoop, TooLarge, TooManyHops
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Purpose
from protocol.samples import (
    AGENT,
    FOREIGN_KEY,
    KEY,
    OLDEST_KEY,
    OTHER_AGENT,
    PREVIOUS_KEY,
    RELAYS,
    REPORT,
    RING,
)

DATA = canonical.encode(REPORT)
A, B = "a" * 64, "b" * 64


def sealed(data: bytes = DATA) -> Envelope:
    return envelope.seal(data, KEY)


def relayed(hops: int) -> Envelope:
    """Return a report that `hops` relays forwarded to the manager."""
    report = envelope.seal(DATA, KEY, recipient=(*RELAYS[:hops], MANAGER)[0])
    for number in range(hops):
        report = envelope.forward(report, RELAYS[number], KEY, (*RELAYS[:hops], MANAGER)[number + 1])
    return report


def opened(body: bytes, recipient: str = MANAGER) -> Envelope:
    report = envelope.parse(body)
    envelope.verify(report, RING, recipient)
    return report


WIRE: list[tuple[Envelope, bytes]] = [
    (
        Envelope(b"{}", A, B),
        b'{"data":{},"hmac":"%s","hop_hmac":"%s","relay_path":[],"version":1}' % (A.encode(), B.encode()),
    ),
    (
        Envelope(b'{"a":[{}]}', A, B, (AGENT,)),
        b'{"data":{"a":[{}]},"hmac":"%s","hop_hmac":"%s","relay_path":["%s"],"version":1}'
        % (A.encode(), B.encode(), AGENT.encode()),
    ),
    (
        Envelope(b'{"a":1}', A, B, RELAYS[:3]),
        b'{"data":{"a":1},"hmac":"%s","hop_hmac":"%s","relay_path":["%s","%s","%s"],"version":1}'
        % (A.encode(), B.encode(), *(relay.encode() for relay in RELAYS[:3])),
    ),
]


@pytest.mark.parametrize(("parts", "body"), WIRE, ids=["no relay", "one relay", "three relays"])
def test_to_bytes_and_parse_are_inverse(parts: Envelope, body: bytes) -> None:
    assert parts.to_bytes() == body
    assert envelope.parse(body) == parts


@pytest.mark.parametrize("body", [body for _, body in WIRE])
def test_a_truncated_body_is_refused(body: bytes) -> None:
    for length in range(len(body)):
        with pytest.raises(Malformed):
            envelope.parse(body[:length])


@pytest.mark.parametrize("rest", [b" ", b"\n", b"\r\n", b"\x00", b"}", b"{}", b"x", b"," + sealed().to_bytes()])
def test_trailing_data_is_refused(rest: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        opened(sealed().to_bytes() + rest)
    assert isinstance(refusal.value, Malformed | BadSignature)


def test_data_stays_as_it_was_signed() -> None:
    data = b'{"b": 1,\t"a":1e400, "a":"\xff"}'
    assert opened(sealed(data).to_bytes()).data == data


# DATA from a newer agent may contain any member, even those of the envelope.
@pytest.mark.parametrize(
    "data",
    [
        WIRE[2][1],
        b'{"x":"' + WIRE[2][1].replace(b'"', b'\\"') + b'"}',
        b'{"x":[],"hmac":"%s","hop_hmac":"%s","relay_path":[],"version":1}' % (A.encode(), B.encode()),
        b'{"x":{"data":{},"hmac":"%s"}}' % A.encode(),
    ],
    ids=["a report", "a report as text", "the same members", "a message"],
)
def test_data_that_looks_like_a_body_is_parsed_whole(data: bytes) -> None:
    assert opened(sealed(data).to_bytes()).data == data


SHAPES: list[tuple[str, bytes, bytes]] = [
    ("leading white space", b'{"data":', b' {"data":'),
    ("leading line feed", b'{"data":', b'\n{"data":'),
    ("byte order mark", b'{"data":', b'\xef\xbb\xbf{"data":'),
    ("white space before the first member", b'{"data":', b'{ "data":'),
    ("white space before DATA", b'{"data":', b'{"data": '),
    ("white space after DATA", b',"hmac"', b' ,"hmac"'),
    ("white space before hmac", b',"hmac"', b', "hmac"'),
    ("white space before the MAC", b'"hmac":', b'"hmac": '),
    ("white space before hop_hmac", b',"hop_hmac"', b', "hop_hmac"'),
    ("white space before relay_path", b',"relay_path"', b',\t"relay_path"'),
    ("white space before version", b',"version"', b',\n"version"'),
    ("white space before the end", b'"version":1}', b'"version":1 }'),
    ("white space in the empty path", b"[]", b"[ ]"),
    ("no path", b"[]", b"null"),
    ("path of a number", b"[]", b"[1]"),
    ("path of null", b"[]", b"[null]"),
    ("path of an object", b"[]", b'[{"a":1}]'),
    ("path of a list", b"[]", b"[[]]"),
    ("path of the manager", b"[]", b'["manager"]'),
    ("path with an id in capitals", b"[]", b'["' + AGENT.upper().encode() + b'"]'),
    ("path with white space", b"[]", b'["%s", "%s"]' % (RELAYS[0].encode(), RELAYS[1].encode())),
    ("path with an escape", b"[]", b'["\\u0030' + RELAYS[0][1:].encode() + b'"]'),
    ("path with a trailing comma", b"[]", b'["' + AGENT.encode() + b'",]'),
    ("path that does not end", b"[]", b'["' + AGENT.encode() + b'"'),
    ("path of 10,000 brackets", b"[]", b"[" * 10_000 + b"]" * 10_000),
    ("path of seven", b"[]", b"[" + b",".join(b'"' + relay.encode() + b'"' for relay in RELAYS[:7]) + b"]"),
    ("path that is not ASCII", b"[]", b'["\xff"]'),
    ("version 0", b'"version":1}', b'"version":0}'),
    ("version 2", b'"version":1}', b'"version":2}'),
    ("version 01", b'"version":1}', b'"version":01}'),
    ("version 1.0", b'"version":1}', b'"version":1.0}'),
    ("version as text", b'"version":1}', b'"version":"1"}'),
    ("version of 1,000 digits", b'"version":1}', b'"version":' + b"1" * 1000 + b"}"),
    ("no version", b',"version":1}', b"}"),
    ("one member more", b'"version":1}', b'"version":1,"x":1}'),
    ("one member more at the start", b'{"data":', b'{"x":1,"data":'),
    ("a member twice", b'"version":1}', b'"version":1,"version":1}'),
    ("DATA is a list", b'{"data":{', b'{"data":[{'),
    ("DATA ends in a bracket", b'},"hmac"', b'}],"hmac"'),
    ("MAC in capitals", A.encode(), A.upper().encode()),
    ("MAC of 63 digits", A.encode(), A[1:].encode()),
    ("MAC of 65 digits", A.encode(), A.encode() + b"a"),
    ("MAC of other letters", A.encode(), b"g" * 64),
    ("hop MAC in capitals", B.encode(), B.upper().encode()),
]


@pytest.mark.parametrize(("old", "new"), [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_any_other_shape_is_refused(old: bytes, new: bytes) -> None:
    body = Envelope(b'{"a":1}', A, B).to_bytes()
    assert body.count(old) == 1
    with pytest.raises(Malformed):
        envelope.parse(body.replace(old, new))


@pytest.mark.parametrize(
    "body",
    [
        b'{"hmac":"%s","data":{},"hop_hmac":"%s","relay_path":[],"version":1}',
        b'{"data":{},"hop_hmac":"%s","hmac":"%s","relay_path":[],"version":1}',
        b'{"data":{},"hmac":"%s","hop_hmac":"%s","version":1,"relay_path":[]}',
        b'{"version":1,"data":{},"hmac":"%s","hop_hmac":"%s","relay_path":[]}',
    ],
)
def test_members_in_another_order_are_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="members in this order"):
        envelope.parse(body % (A.encode(), B.encode()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"}",
        b"{}",
        b"null",
        b"\x00" * 1000,
        b"[" * 100_000,
        b'{"data":' * 100_000,
        b'{"data":{' + b"}" * 100_000,
        sealed().to_bytes().decode().encode("utf-16"),
        sealed().to_bytes().decode().encode("utf-16-le"),
        sealed().to_bytes().decode().encode("utf-32"),
        b"\x1f\x8b\x08" + b"\x00" * 100,
        b"data=%7B%7D&hmac=" + A.encode(),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        envelope.parse(body)


def test_the_limit_is_one_mebibyte() -> None:
    fixed = len(sealed(b'{"a":""}').to_bytes())
    largest = sealed(b'{"a":"' + b"x" * (MAX_BODY_BYTES - fixed) + b'"}').to_bytes()
    assert len(largest) == 1024 * 1024
    assert opened(largest).to_bytes() == largest
    with pytest.raises(TooLarge, match="1048577 bytes; the limit is 1048576"):
        envelope.parse(largest + b" ")


# --- Signatures


def test_a_sealed_report_verifies() -> None:
    assert envelope.verify(sealed(), RING, MANAGER) == KEY


@pytest.mark.parametrize("key", [PREVIOUS_KEY, OLDEST_KEY], ids=["previous", "oldest"])
def test_a_report_under_a_previous_key_verifies(key: object) -> None:
    assert isinstance(key, type(KEY))
    assert envelope.verify(envelope.seal(DATA, key), RING, MANAGER) == key


# During a rotation a relay may have the new key before the origin.
def test_hop_and_data_may_be_signed_with_different_keys() -> None:
    report = envelope.seal(DATA, PREVIOUS_KEY, RELAYS[0])
    assert envelope.verify(envelope.forward(report, RELAYS[0], KEY, MANAGER), RING, MANAGER) == PREVIOUS_KEY


def test_a_report_under_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        envelope.verify(envelope.seal(DATA, FOREIGN_KEY), RING, MANAGER)


def test_a_hop_under_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature, match="'hop'"):
        envelope.verify(envelope.forward(sealed(), RELAYS[0], FOREIGN_KEY, MANAGER), RING, MANAGER)


def test_an_empty_ring_verifies_no_report() -> None:
    with pytest.raises(NoKey):
        envelope.verify(sealed(), Ring(), MANAGER)


@pytest.mark.parametrize("bit", range(8))
def test_a_change_of_any_bit_of_data_is_refused(bit: int) -> None:
    body = relayed(2).to_bytes()
    for place in range(len(b'{"data":{'), len(b'{"data":') + len(DATA) - 1):
        changed = bytearray(body)
        changed[place] ^= 1 << bit
        with pytest.raises(BadSignature):
            opened(bytes(changed))


@pytest.mark.parametrize("bit", range(8))
def test_a_change_of_any_bit_of_the_body_is_refused(bit: int) -> None:
    body = relayed(2).to_bytes()
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= 1 << bit
        with pytest.raises(Refusal) as refusal:
            opened(bytes(changed))
        assert isinstance(refusal.value, Malformed | BadSignature)


@pytest.mark.parametrize("signed", ["mac", "hop_mac"])
def test_a_change_of_any_digit_of_a_mac_is_refused(signed: str) -> None:
    report = relayed(1)
    mac = getattr(report, signed)
    for place in range(64):
        for digit in set("0123456789abcdef") - {mac[place]}:
            with pytest.raises(BadSignature):
                envelope.verify(replace(report, **{signed: mac[:place] + digit + mac[place + 1 :]}), RING, MANAGER)


def test_a_change_of_any_digit_of_the_path_is_refused() -> None:
    report = relayed(2)
    for number, relay in enumerate(report.relay_path):
        for place in (place for place, digit in enumerate(relay) if digit != "-"):
            path = list(report.relay_path)
            path[number] = relay[:place] + "f" + relay[place + 1 :]
            with pytest.raises(BadSignature, match="'hop'"):
                opened(replace(report, relay_path=tuple(path)).to_bytes())


@pytest.mark.parametrize(
    "path",
    [
        (),
        RELAYS[:1],
        RELAYS[1:2],
        (RELAYS[1], RELAYS[0]),
        (RELAYS[0], RELAYS[1], RELAYS[2]),
        (RELAYS[2], RELAYS[0], RELAYS[1]),
    ],
    ids=["emptied", "last removed", "first removed", "swapped", "appended", "prepended"],
)
def test_a_rewritten_path_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(BadSignature, match="'hop'"):
        opened(replace(relayed(2), relay_path=path).to_bytes())


@pytest.mark.parametrize("recipient", [RELAYS[0], RELAYS[1], AGENT, "", "manager\n" + RELAYS[0], "Manager"])
def test_another_recipient_refuses_a_report_to_the_manager(recipient: str) -> None:
    with pytest.raises(BadSignature, match="'hop'"):
        opened(sealed().to_bytes(), recipient)


def test_the_manager_refuses_a_report_to_a_relay() -> None:
    report = envelope.seal(DATA, KEY, RELAYS[0])
    assert opened(report.to_bytes(), RELAYS[0]) == report
    with pytest.raises(BadSignature, match="'hop'"):
        opened(report.to_bytes(), MANAGER)


# A hop signs the recipient and the path in adjacent lines.
def test_the_recipient_cannot_be_moved_into_the_path() -> None:
    report = envelope.forward(sealed(), RELAYS[0], KEY, RELAYS[1])
    with pytest.raises(BadSignature, match="'hop'"):
        envelope.verify(replace(report, relay_path=(RELAYS[1],)), RING, RELAYS[0])


def test_the_hop_mac_of_another_report_is_refused() -> None:
    other = envelope.seal(canonical.encode(replace(REPORT, tick=REPORT.tick + 1)), KEY)
    with pytest.raises(BadSignature, match="'hop'"):
        envelope.verify(replace(other, hop_mac=sealed().hop_mac), RING, MANAGER)


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.REPORT])
def test_a_mac_for_another_purpose_is_refused(purpose: Purpose) -> None:
    mac = KEY.sign(purpose, DATA)
    report = Envelope(DATA, mac, KEY.sign(Purpose.HOP, envelope.hop_message(mac, (), MANAGER)))
    with pytest.raises(BadSignature, match="'report'"):
        opened(report.to_bytes())


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.HOP])
def test_a_hop_mac_for_another_purpose_is_refused(purpose: Purpose) -> None:
    report = sealed()
    hop_mac = KEY.sign(purpose, envelope.hop_message(report.mac, (), MANAGER))
    with pytest.raises(BadSignature, match="'hop'"):
        opened(replace(report, hop_mac=hop_mac).to_bytes())


# --- Hops


def test_the_path_lists_relays_oldest_first() -> None:
    report = opened(relayed(3).to_bytes())
    assert report.relay_path == RELAYS[:3]
    assert (report.data, report.mac) == (sealed().data, sealed().mac)


def test_a_forwarded_report_is_valid_only_for_the_next_recipient() -> None:
    report = envelope.forward(envelope.seal(DATA, KEY, RELAYS[0]), RELAYS[0], KEY, RELAYS[1])
    assert envelope.verify(report, RING, RELAYS[1]) == KEY
    for other in (MANAGER, RELAYS[0], RELAYS[2]):
        with pytest.raises(BadSignature, match="'hop'"):
            envelope.verify(report, RING, other)


def test_a_report_that_returns_to_a_relay_is_a_loop() -> None:
    with pytest.raises(RelayLoop, match=RELAYS[0]):
        envelope.forward(relayed(2), RELAYS[0], KEY, MANAGER)


# The loop is the more useful diagnosis than the length.
def test_a_loop_takes_precedence_over_the_length() -> None:
    with pytest.raises(RelayLoop):
        envelope.forward(relayed(3), RELAYS[2], KEY, MANAGER)


def test_a_fourth_hop_is_not_added() -> None:
    with pytest.raises(TooManyHops, match="3 relays; the limit is 3"):
        envelope.forward(relayed(MAX_HOPS), RELAYS[3], KEY, MANAGER)


def test_a_report_with_four_hops_is_refused() -> None:
    path = RELAYS[:4]
    mac = KEY.sign(Purpose.REPORT, DATA)
    report = Envelope(DATA, mac, KEY.sign(Purpose.HOP, envelope.hop_message(mac, path, MANAGER)), path)
    with pytest.raises(TooManyHops, match="4 relays; the limit is 3"):
        envelope.parse(report.to_bytes())


def test_a_path_with_a_relay_twice_is_refused() -> None:
    path = (RELAYS[0], RELAYS[1], RELAYS[0])
    mac = KEY.sign(Purpose.REPORT, DATA)
    report = Envelope(DATA, mac, KEY.sign(Purpose.HOP, envelope.hop_message(mac, path, MANAGER)), path)
    with pytest.raises(Malformed, match="contains a relay twice"):
        envelope.parse(report.to_bytes())


# A relay forwards DATA that it cannot parse.
def test_a_report_from_a_newer_agent_is_forwarded() -> None:
    data = b'{"agent_id":"%s","shape":"of the future"}' % OTHER_AGENT.encode()
    report = envelope.forward(envelope.seal(data, KEY, RELAYS[0]), RELAYS[0], KEY, MANAGER)
    assert opened(report.to_bytes()).data == data
