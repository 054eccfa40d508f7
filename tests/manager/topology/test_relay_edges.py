"""Which edges a snapshot shows, and how known edges change."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_manager.records import Agent, Edge, Snapshot
from kattila_manager.topology.relay_edges import EdgeKind, EdgeState, InferredEdge, InferredEdges, Pair, compare, infer
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND
from support.reports import node
from support.snapshots import agent, snapshot, watch

STRANGER = "00000000-0000-4000-8000-000000000000"
FORGET = NOON - 30 * DAY


def via(number: int, *relays: int | str, **changes: int) -> Agent:
    """Return an agent whose reports come through these relays, the nearest first."""
    path = tuple(relay if isinstance(relay, str) else node(relay).agent_id for relay in relays)
    return agent(number, relay_path=path, **changes)


def look(*agents: Agent, now: int = NOON) -> InferredEdges:
    shown = snapshot(*agents)
    return infer(shown, watch(shown, now))


def pairs(links: InferredEdges) -> list[Pair]:
    return [link.pair for link in links.found]


def edge(a: int, b: int, **changes: object) -> Edge:
    members = {"edge_id": 1, "kind": "relay", "state": "up", "evidence": "{}", "first_seen_at": NOON - DAY}
    return Edge(**{**members, "a_ref": a, "b_ref": b, "last_seen_at": NOON - HOUR, **changes})  # type: ignore[arg-type] # of any member


# --- Inferred edges


def test_a_direct_report_shows_no_edge() -> None:
    assert look(agent(1), agent(2)) == InferredEdges((), frozenset())


def test_a_path_shows_an_edge_for_each_hop() -> None:
    links = look(agent(1), via(2, 1), via(3, 2, 1), via(4, 3, 2, 1))
    assert pairs(links) == [(1, 2), (2, 3), (3, 4)]


def test_the_evidence_of_an_edge_names_its_reports_newest_first() -> None:
    links = look(agent(1), via(2, 1), via(3, 2, 1, last_seen_at=NOON - 2 * SECOND, highest_sample=7))
    [one, two] = links.found
    assert json.loads(one.evidence) == {
        "count": 2,
        "reports": [
            {"agent_id": node(3).agent_id, "sample": 7},
            {"agent_id": node(2).agent_id, "sample": 100},
        ],
    }
    assert (one.seen_at, two.seen_at) == (NOON - 2 * SECOND, NOON - 2 * SECOND)


def test_the_evidence_of_a_busy_edge_is_bounded() -> None:
    links = look(agent(1), agent(2), *(via(number, 2, 1) for number in range(3, 60)))
    [busy] = [link for link in links.found if link.pair == (1, 2)]
    told = json.loads(busy.evidence)
    assert (told["count"], len(told["reports"])) == (57, 10)


def test_a_relay_that_never_reported_has_no_edge() -> None:
    assert pairs(look(agent(1), via(2, STRANGER, 1), via(3, 2, STRANGER))) == [(2, 3)]


def test_a_silent_agent_shows_no_edge() -> None:
    assert look(agent(1), via(2, 1, last_seen_at=NOON - 5 * MINUTE)) == InferredEdges((), frozenset())


def test_the_edges_of_an_unheard_agent_are_unknown() -> None:
    shown: Snapshot = snapshot(agent(1), via(2, 1), listening=(NOON - DAY, NOON - MINUTE))
    assert infer(shown, watch(shown)) == InferredEdges((), frozenset({("relay", (1, 2))}))


# --- Changes to known edges


def shown(a: int, b: int, evidence: str = "{}", seen_at: int = NOON) -> InferredEdges:
    return InferredEdges((InferredEdge(EdgeKind.RELAY, (a, b), evidence, seen_at),), frozenset())


NONE = InferredEdges((), frozenset())


def test_a_new_edge_is_added() -> None:
    changes = compare([edge(1, 3)], shown(1, 2), FORGET)
    assert changes.added == shown(1, 2).found


def test_an_edge_shown_again_is_up_and_keeps_its_first_seen_time() -> None:
    [changed] = compare([edge(1, 2, state="unused")], shown(1, 2, "new"), FORGET).changed
    assert changed == edge(1, 2, evidence="new", last_seen_at=NOON)


def test_an_edge_no_longer_shown_is_unused() -> None:
    [changed] = compare([edge(1, 2)], NONE, FORGET).changed
    assert changed == edge(1, 2, state="unused")
    assert not compare([changed], NONE, FORGET)


@pytest.mark.parametrize(("seen_at", "is_forgotten"), [(FORGET, False), (FORGET - 1, True)])
def test_an_unused_edge_is_forgotten_after_the_retention(seen_at: int, is_forgotten: bool) -> None:
    old = edge(1, 2, state="unused", last_seen_at=seen_at)
    assert compare([old], NONE, FORGET).forgotten == ((old,) if is_forgotten else ())


def test_an_unknown_edge_does_not_change() -> None:
    unknown = InferredEdges((), frozenset({("relay", (1, 2))}))
    assert not compare([edge(1, 2)], unknown, FORGET)
    assert not compare([edge(1, 2, state="unused", last_seen_at=0)], unknown, FORGET)


def test_an_edge_of_another_kind_does_not_change() -> None:
    assert not compare([edge(1, 2, kind="wireguard", last_seen_at=0)], NONE, FORGET)


_PATHS = st.lists(st.lists(st.integers(1, 6), max_size=3, unique=True), min_size=6, max_size=6)


@given(_PATHS, _PATHS)
def test_comparing_again_after_writing_changes_nothing(before: list[list[int]], after: list[list[int]]) -> None:
    known: list[Edge] = []
    for paths in (before, after):
        links = look(*(via(number, *path) for number, path in enumerate(paths, 1)))
        changes = compare(known, links, FORGET)
        known = [edge for edge in known if edge not in changes.forgotten]
        known = [next((new for new in changes.changed if new.edge_id == old.edge_id), old) for old in known]
        for link in changes.added:
            known.append(
                Edge(len(known) + 1, link.kind, *link.pair, EdgeState.UP, link.evidence, link.seen_at, link.seen_at)
            )
        assert not compare(known, links, FORGET)
        assert {(edge.a_ref, edge.b_ref) for edge in known if edge.state == "up"} == set(pairs(links))
        assert all(edge.a_ref < edge.b_ref for edge in known)
