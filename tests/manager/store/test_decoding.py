"""The manager's fast decoder accepts the same DATA as the strict parser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_manager.ingest.responses import Response
from kattila_manager.store.decoding import decode
from kattila_protocol import canonical
from kattila_protocol.errors import Malformed, Refusal
from kattila_protocol.members import build
from kattila_protocol.report import Report
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key
from protocol.samples import REPORT
from support.updates import read_update
from vectors import bounds

VECTORS = Path(__file__).parents[2] / "vectors"
# Escaped text, and a nonce with 19 digits in a row, take the slow path.
SYSTEM = replace(REPORT.telemetry.system or pytest.fail("no system"), hostname="a.example.org")
PLAIN = replace(REPORT, nonce="a0" * 16, telemetry=replace(REPORT.telemetry, system=SYSTEM))
DATA = canonical.encode(PLAIN, omit_defaults=True)
MEMBERS: dict[str, Any] = json.loads(DATA)


def strict(data: bytes) -> Report:
    """Read DATA as strictly as an agent does."""
    return build(Report, canonical.parse_object(data)).check()


def outcome(reader: Callable[[bytes], Report], data: bytes) -> Report | None:
    try:
        return reader(data)
    except Malformed:
        return None


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*path, name)
        yield from places(item, (*path, name))


PLACES = list(places(MEMBERS))


def changed(path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> bytes:
    """Return DATA after `change(container, name)` at a place."""
    members = deepcopy(MEMBERS)
    container: Any = members
    for name in path[:-1]:
        container = container[name]
    change(container, path[-1])
    return canonical.encode(members)


def put(value: Any) -> Callable[[Any, Any], None]:
    return lambda container, name: container.__setitem__(name, value)


VALUES: list[Any] = [None, True, 0, -1, 2**53, 2**63, "", "x", [], {}, [[]], [1, 2, 3], {"a": 1}]
CHANGES: dict[str, Callable[[Any, Any], None]] = {
    **{json.dumps(value): put(value) for value in VALUES},
    "left out": lambda container, name: container.__delitem__(name),
    "twice": lambda container, name: container.append(container[name]) if isinstance(container, list) else None,
    "one more": lambda container, name: container[name].append(0) if isinstance(container[name], list) else None,
    "a member more": lambda container, name: (
        container[name].update(of=0) if isinstance(container[name], dict) else None
    ),
}


@pytest.mark.parametrize("report", [REPORT, PLAIN])
def test_report_is_read_back(report: Report) -> None:
    data = canonical.encode(report)
    assert decode(data) == strict(data) == report


# Otherwise the tests below would compare the strict parser with itself.
def test_a_plain_report_is_read_once() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canonical, "parse_object", lambda _: pytest.fail("read again"))
        assert decode(DATA) == PLAIN


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_both_readers_accept_and_refuse_the_same(change: Callable[[Any, Any], None]) -> None:
    read = [changed(path, change) for path in PLACES]
    assert [outcome(decode, data) for data in read] == [outcome(strict, data) for data in read]


def test_the_changes_reach_both_outcomes() -> None:
    outcomes = [outcome(decode, changed(path, change)) for path in PLACES for change in CHANGES.values()]
    assert 0.2 < outcomes.count(None) / len(outcomes) < 0.9


@given(st.integers(0, len(DATA)), st.integers(0, 12), st.binary(max_size=12) | st.sampled_from([b"null", b'"', b"\\"]))
def test_both_readers_agree_on_any_bytes(start: int, length: int, middle: bytes) -> None:
    data = DATA[:start] + middle + DATA[start + length :]
    assert outcome(decode, data) == outcome(strict, data)


@pytest.mark.parametrize(
    "new",
    [
        *(b'"sample":41,"sample":41', b'"sample":41,"\\u0073ample":41', b'"sample":42,"sample":41'),
        *(b'"sample":41.0', b'"sample":4.1e1', b'"sample":41,"of":1.5', b'"sample":41,"of":NaN'),
        *(b'"sample":41,"of":{"a":1,"a":1}', b'"sample":41,"of":"\\ud800"', b'"sample":41,"of":9223372036854775808'),
        *(b'"sample":041', b'"sample":"41"', b'"sample":41,', b'"sample":+41'),
    ],
)
def test_both_readers_refuse_ambiguous_json(new: bytes) -> None:
    data = DATA.replace(b'"sample":41', new)
    assert outcome(strict, data) is None
    assert outcome(decode, data) is None


ROWS: dict[str, tuple[Any, ...]] = {
    "route": ("telemetry", "routes", 0),
    "neighbour": ("telemetry", "neighbours", 0),
    "peer": ("telemetry", "wireguard", 0, "peers", 0),
}


@pytest.mark.parametrize("path", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize(
    "change",
    [
        lambda rows, number: rows[number].append(None),
        lambda rows, number: rows[number].append("of the future"),
        lambda rows, number: rows[number].pop(),
        lambda rows, number: rows[number].clear(),
        put({"destination": "0.0.0.0/0"}),
        put("0.0.0.0/0"),
        put(None),
    ],
    ids=["one more, null", "one more", "one less", "none", "by names", "text", "null"],
)
def test_a_row_has_exactly_its_columns(path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> None:
    with pytest.raises(Malformed):
        decode(changed(path, change))


# New data about a peer or route is in members outside of the rows.
@pytest.mark.parametrize("path", [("telemetry",), ("telemetry", "wireguard", 0)])
def test_an_unknown_member_is_skipped(path: tuple[Any, ...]) -> None:
    assert decode(changed(path, lambda container, name: container[name].update(peer_notes=[["a"]]))) == PLAIN


@pytest.mark.parametrize("text", ["k\u00e4si", "\u4e2d", "\U0001f600"])
def test_text_must_be_escaped(text: str) -> None:
    members = deepcopy(MEMBERS)
    members["telemetry"]["system"]["hostname"] = text
    raw = json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(Malformed, match="is not ASCII"):
        decode(raw)
    system = decode(canonical.encode(members)).telemetry.system
    assert system is not None
    assert system.hostname == text


def test_text_must_be_escaped_in_unknown_members_too() -> None:
    for raw in ('"of":"k\u00e4si"', '"k\u00e4si":0'):
        with pytest.raises(Malformed, match="is not ASCII"):
            decode(DATA[:-1] + b"," + raw.encode() + b"}")


# --- Test vectors


def vectors(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    return cases


def answer_to(case: dict[str, Any], psks: list[str], now: int) -> str:
    """Return the kind of refusal of a report, or "accepted" if the manager would file it."""
    ring = Ring(tuple(RingEntry(Key.from_psk(psk.encode()), 0) for psk in psks))
    try:
        read = read_update(case["body"].encode("latin-1"), ring, now)
    except Refusal as refusal:
        return refusal.kind
    if isinstance(read, Response):
        kind: str = json.loads(read.body)["type"]
        return kind.removeprefix("urn:kattila:problem:")
    return "accepted"


REFUSED = [case for case in vectors("refused") if case["what"] == "report"]


@pytest.mark.parametrize("case", REFUSED, ids=[case["name"] for case in REFUSED])
def test_refused_vectors_are_refused(case: dict[str, Any]) -> None:
    assert answer_to(case, case["ring"], case["now"]) == case["kind"]


@pytest.mark.parametrize("result", ["well-formed", "malformed"])
def test_bounds_are_those_of_the_vectors(result: str) -> None:
    cases = [case for case in vectors("bounds") if (case["message"], case["result"]) == ("report", result)]
    assert len(cases) > 100
    for case in cases:
        assert (outcome(decode, canonical.encode(bounds.changed(case))) is None) == (result == "malformed"), case


def test_good_vectors_are_accepted() -> None:
    cases = [case for case in vectors("report") if case["recipient"] == "manager" and '"tick":7' not in case["data"]]
    assert len(cases) == 5
    for case in cases:
        assert answer_to(case, [case["psk"]], json.loads(case["data"])["timestamp"]) == "accepted"
