"""docs/PROTOCOL.md agrees with the code: its tables and examples are compared with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from kattila_agent.outbound.discovery import addresses, directory, queries
from kattila_agent.outbound.http import clients
from kattila_agent.peer_api import seen_nonces
from kattila_agent.peer_api.app import ForeignSource
from kattila_agent.peer_api.server import LIMITS
from kattila_manager.alarms.alarm_rules import AlarmKind, Opened
from kattila_manager.api import fleet_json
from kattila_manager.api.access import LoopbackOnly, MethodNotAllowed, NotFound, Unauthorized, UnknownAgent
from kattila_manager.ingest.request_bodies import BODY_SECONDS
from kattila_manager.records import Agent, Alarm
from kattila_manager.store.ingest import registry
from kattila_manager.store.ingest.writer import COMMIT_SECONDS
from kattila_manager.store.publish import alarm_log
from kattila_manager.store.store import Store
from kattila_manager.topology.presence import Presence
from kattila_protocol import (
    canonical,
    envelope,
    foreign_text,
    freshness,
    message,
    names,
    peer,
    registration,
    report,
    request_head,
    ring,
    txt,
    verdict,
)
from kattila_protocol.bounds import MAX_ENTRIES, member_types
from kattila_protocol.errors import PROBLEM_PREFIX, BodyTimeout, Overloaded, Refusal
from kattila_protocol.names import MANAGER
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.registration import Registration
from kattila_protocol.reset import Reset, ResetAnswer
from kattila_protocol.signing import Purpose
from kattila_protocol.verdict import Disposition, Verdict
from protocol.samples import KEY, KINDS, NONCE, NOW, PSK, REPORT, RING
from support.reports import RING as STORE_RING
from support.reports import node, registering
from support.store import new_database
from vectors import generate

DOCUMENT = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text()
Row = list[str]


def section(title: str) -> str:
    """Return the text under a heading, up to the next one of the same or a higher level."""
    start = re.search(rf"^(#+) {re.escape(title)}$", DOCUMENT, re.MULTILINE)
    assert start, f"PROTOCOL.md has no heading {title!r}"
    rest = DOCUMENT[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def tables(title: str, first: str) -> list[list[Row]]:
    """Return the rows of each table under a heading whose first column is called `first`."""
    found = re.findall(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", section(title), re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in rows.splitlines()] for rows in found]


def code(cell: str) -> str:
    assert re.fullmatch(r"`[^`]+`", cell), cell
    return cell.strip("`")


def example(name: str) -> str:
    """Return an example with its broken lines joined."""
    found = re.search(rf"<!-- example: {name} -->\n\n((?: {{4}}.*\n)+)", DOCUMENT)
    assert found, f"PROTOCOL.md has no example {name!r}"
    lines = [line[4:] for line in found[1].splitlines()]
    return re.sub(r"/\n", "", "\n".join(lines))


# --- Members

PLAIN: dict[Any, str] = {str: "string", int: "integer", bool: "true or false", dict[str, str]: "object of strings"}


def is_row(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple)


def type_shown(hint: Any) -> str:
    """Return the name that PROTOCOL.md uses for the JSON of a type."""
    if hint in PLAIN:
        return PLAIN[hint]
    if is_row(hint) or is_dataclass(hint):
        return str(hint.__name__)
    if NoneType in get_args(hint):
        (inner,) = (part for part in get_args(hint) if part is not NoneType)
        return f"{type_shown(inner)} or null"
    assert get_origin(hint) is tuple
    inner, *more = get_args(hint)
    if more != [Ellipsis]:
        return f"list of {1 + len(more)} {type_shown(inner)}s"
    return f"list of {type_shown(inner)}" + ("s" if inner in PLAIN else "")


def bound_shown(hint: Any) -> str:
    """Return how PROTOCOL.md shows the bounds of a type: of a list, and then of its entries."""
    if NoneType in get_args(hint):
        return bound_shown(get_args(hint)[0])
    if get_origin(hint) is Annotated:
        inner, bound = get_args(hint)
        own = f"{number(bound.least)} to {number(bound.greatest)}" if inner is int else str(bound.greatest)
        return ", each ".join(filter(None, (own, bound_shown(inner))))
    if get_origin(hint) is tuple:
        return bound_shown(get_args(hint)[0])
    return "name {}, each value {}".format(*map(bound_shown, get_args(hint))) if get_origin(hint) is dict else ""


MINUS = "\N{MINUS SIGN}"
POWERS = {2**31: "2³¹", 2**32: "2³²", 2**53: "2⁵³", 2**63: "2⁶³"}


def number(value: int) -> str:
    """Return an integer as text, the large ones as powers of two."""
    if value < 0:
        return f"{MINUS}({number(-value)})" if -value not in POWERS else f"{MINUS}{POWERS[-value]}"
    return POWERS.get(value) or (f"{POWERS[value + 1]} {MINUS} 1" if value + 1 in POWERS else str(value))


# Python has a default for the sender, but the member is mandatory on the wire.
ALWAYS_SENT = {(Registration, "to")}


def default_shown(shape: type, field: Field[Any]) -> str:
    return "" if field.default is MISSING or (shape, field.name) in ALWAYS_SENT else f"`{json.dumps(field.default)}`"


def data_classes() -> Iterator[type]:
    """Yield the dataclasses that make up a report."""
    for value in vars(report).values():
        if isinstance(value, type) and is_dataclass(value):
            yield value


ROWS: list[Any] = [value for value in vars(report).values() if is_row(value)]
TABLES: list[tuple[str, int, type]] = [
    *((shape.__name__, 0, shape) for shape in data_classes()),
    ("Verdicts", 0, Verdict),
    ("Registration", 0, Registration),
    ("Peer query", 0, PeerAnswer),
    ("Reset", 0, Reset),
    ("Reset", 1, ResetAnswer),
]


@pytest.mark.parametrize(("title", "at", "shape"), TABLES, ids=[shape.__name__ for _, _, shape in TABLES])
def test_the_tables_of_members_match(title: str, at: int, shape: type) -> None:
    assert is_dataclass(shape)
    hints = get_type_hints(shape)
    bounds = {name: bound_shown(hint) for name, hint in member_types(shape).items()}
    defined = [
        (field.name, type_shown(hints[field.name]), bounds[field.name], default_shown(shape, field))
        for field in fields(shape)
    ]
    shown = [(code(name), *columns[:-1]) for name, *columns in tables(title, "member")[at]]
    assert shown == defined


@pytest.mark.parametrize("row", ROWS)
def test_the_tables_of_columns_match(row: Any) -> None:
    hints, bounds = get_type_hints(row), member_types(row)
    shown = [(code(name), kind, bound) for name, kind, bound, _ in tables(row.__name__, "column")[0]]
    assert shown == [(name, type_shown(hints[name]), bound_shown(bounds[name])) for name in row._fields]
    assert not row._field_defaults, "a row has exactly its columns"


def test_every_type_of_data_has_a_table() -> None:
    shapes = {shape.__name__ for shape in (*data_classes(), *ROWS)}
    assert set(re.findall(r"^### (.+)$", section("DATA"), re.MULTILINE)) == shapes


def test_the_parameters_of_a_query_match() -> None:
    shown = [code(row[0]) for row in tables("Peer query", "parameter")[0]]
    assert shown == list(generate.peers()[0]["parameters"])


def test_the_tables_of_the_read_api_match(tmp_path: Path) -> None:
    store = Store(new_database(tmp_path))
    request, _ = registration.unseal(registering(node(1), NOW), STORE_RING)
    opened = Opened((AlarmKind.AGENT_SILENT, request.agent_id), NOW, NOW, 1, None, "")
    with closing(store):
        store.write(lambda connection: registry.register(connection, request, NOW))
        store.write(lambda connection: alarm_log.record(connection, [opened]))
        fleet, alarms = fleet_json.agents(store, 30_000, NOW), fleet_json.alarms(store)
    agents_shown, alarms_shown = tables("Read API", "member")
    for shown, shape, (members,) in ((agents_shown, Agent, fleet["agents"]), (alarms_shown, Alarm, alarms["open"])):
        hints = get_type_hints(shape)
        types = {
            name: type_shown(hints[name]) if name in hints else json_type(value) for name, value in members.items()
        }
        assert [(code(name), kind) for name, kind, _ in shown] == list(types.items())
    text = section("Read API")
    for outer in (fleet, alarms):
        assert re.search("".join(rf'[{{,]"{name}":[^,]+' for name in outer), text), list(outer)


def json_type(value: object) -> str:
    if isinstance(value, list):
        return "list of objects"
    return "string" if isinstance(value, str) else PLAIN[type(value)]


def test_the_kinds_and_states_of_the_read_api_match() -> None:
    rows = {code(name): meaning for table in tables("Read API", "member") for name, _, meaning in table}
    assert re.findall("`(.+?)`", rows["kind"]) == list(AlarmKind)
    assert re.findall("`(.+?)`", rows["state"]) == list(Presence)


# --- Names, numbers, refusals


def test_the_refusals_of_the_protocol_match() -> None:
    shown = [(code(kind), status, title) for kind, status, title, _, _ in tables("Refusals", "kind")[0]]
    assert shown == [(kind.kind, str(kind.status), kind.title) for kind in KINDS]
    assert f"`{PROBLEM_PREFIX}KIND`" in section("Refusals")


def test_the_refusals_of_clients_match() -> None:
    shown = [(code(kind), status, title) for kind, status, title, _ in tables("Refusals", "kind")[1]]
    kinds: list[type[Refusal]] = [ForeignSource, Unauthorized, LoopbackOnly, NotFound, MethodNotAllowed, UnknownAgent]
    assert shown == [(kind.kind, str(kind.status), kind.title) for kind in kinds]


def test_the_dispositions_of_a_sample_match() -> None:
    delivered, dropped, *_ = tables("Verdicts", "verdict")[0]
    named = dict.fromkeys(re.findall("`(.+?)`", delivered[0]), Disposition.DELIVERED)
    named |= dict.fromkeys(re.findall("`(.+?)`", dropped[0]), Disposition.DROPPED)
    for outcome in ("accepted", "duplicate", *(kind.kind for kind in KINDS)):
        disposition = Verdict(outcome, "", NONCE, NOW, 0).disposition
        assert disposition is named.get(outcome, Disposition.KEPT)


def test_the_purposes_match() -> None:
    assert [code(row[0]) for row in tables("Keys and MACs", "purpose")[0]] == list(Purpose)


def test_the_limits_match() -> None:
    assert [value for _, value in tables("Limits", "limit")[0]] == [
        f"{envelope.MAX_BODY_BYTES} bytes",
        f"{message.MAX_MESSAGE_BYTES} bytes",
        f"{verdict.MAX_VERDICT_BYTES} bytes; its reader accepts as much as for any answer",
        f"{foreign_text.DETAIL_LENGTH} characters",
        str(envelope.MAX_HOPS),
        str(freshness.WINDOW_SIZE),
        f"{freshness.MAX_SKEW_MS} ms",
        str(freshness.FIRST_DATE),
        str(freshness.LEAST_LIMIT),
        str(freshness.MAX_JUMP),
        f"{ring.RING_SIZE}, and one on trial",
        f"{txt.MIN_PSK_BYTES} bytes",
        str(registration.MAX_HARDWARE_ADDRESSES),
        f"{peer.MAX_LISTED} each",
        str(MAX_ENTRIES),
        f"{clients.ANSWER_SECONDS:g} s",
        f"{addresses.MAX_SUBNET_ADDRESSES}, in all {addresses.MAX_GUESSES}",
        f"{BODY_SECONDS:.0f} s, then `{BodyTimeout.kind}`",
        f"{COMMIT_SECONDS:.0f} s, then `{Overloaded.kind}`",
        f"{request_head.MAX_HEAD_BYTES} bytes, {request_head.MAX_FIELDS} fields",
        f"{LIMITS.head_seconds:g} s, then the connection is closed",
        f"{LIMITS.request_seconds:g} s, then the connection is closed",
        f"{LIMITS.total}, of these {LIMITS.per_source} from one address, "
        f"{LIMITS.foreign} from sources that are not allowed",
        f"{seen_nonces.MAX_NONCES}, of these {seen_nonces.MAX_OF_ONE_SOURCE} from one source",
        str(canonical.MAX_INTEGER),
        str(names.MAX_COUNTER),
    ]


def test_the_times_of_keys_match() -> None:
    text = " ".join(section("The key ring").split())
    assert ring.TRIAL_MS == 60_000
    assert "until a second answer, at least a minute after the first," in text
    least, most = f"{ring.LEAST_KEPT_MS // 3_600_000} hour", f"{ring.MOST_KEPT_MS // 86_400_000} days"
    assert [row[1] for row in tables("The key ring", "key")[0]] == [
        "not at all",
        f"as long as DNS had named it, at least {least} and at most {most}",
        f"{most}; {ring.UNPROVEN_KEPT_MS // 3_600_000} hours if only one answer named it",
    ]


def test_the_intervals_of_peer_queries_match() -> None:
    with_way, wayless, silent = tables("Peer query", "the last query was")[0]
    assert {with_way[1], wayless[1]} == {f"{directory.REFRESH_SECONDS:g} s"}
    calm, hurried = directory.CALM, directory.HURRIED
    assert silent[1] == f"from {calm.first_seconds:g} s, doubling, to {calm.last_seconds:g} s"
    assert silent[2] == f"from `min({hurried.first_seconds:g} s, interval)`, doubling, to {hurried.last_seconds:g} s"
    text = " ".join(section("Peer query").split())
    assert f"begin {queries.PACE_SECONDS * 1000:g} to {queries.PACE_SECONDS * 1500:g} ms apart" in text
    assert f"up to {queries.THREADS} are under way" in text
    assert f"within the last {directory.MAX_AGE_SECONDS:g} seconds" in text


def test_the_list_of_vector_files_matches() -> None:
    assert [code(row[0]) for row in tables("Test vectors", "file")[0]] == list(generate.GENERATORS)


# --- Examples


def test_the_example_of_keys_matches() -> None:
    shown = {line[:23].strip(): line[23:] for line in example("keys").splitlines()}
    derived = {f"purpose key, {purpose}": key.hex() for purpose, key in KEY.purpose_keys.items()}
    assert shown == {"fingerprint": KEY.fingerprint, **derived}
    assert f"the PSK `{PSK.decode()}` ({len(PSK)} bytes)" in DOCUMENT


def test_the_example_of_a_report_matches() -> None:
    body = example("report")
    assert body in [case["body"] for case in generate.reports()]
    envelope.verify(envelope.parse(body.encode()), RING, MANAGER)


def test_the_example_of_a_row_matches() -> None:
    assert example("row").encode() == canonical.encode(REPORT.telemetry.routes[0])


def test_the_example_of_a_verdict_matches() -> None:
    assert example("verdict") == generate.verdicts()[0]["body"]


def test_the_example_of_a_query_matches() -> None:
    assert example("peer") == "/status/peer?" + generate.peers()[0]["query_string"]
