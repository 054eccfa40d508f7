"""The content of the pages, which shows hostile text as text.

To accept new golden pages: ACCEPT=1 make test ARGS=tests/manager/pages/test_pages.py
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_manager.pages.index_page import build, index
from kattila_manager.publishing.website import Website
from kattila_manager.records import Alarm, Snapshot
from kattila_manager.store.read.snapshots import summary_of
from kattila_protocol.report import System
from support.counts import examples
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND
from support.reports import node, report
from support.snapshots import PREVIOUS, agent, alarm, seen, snapshot

GOLD = Path(__file__).with_name("gold")
WEBSITE = Website(Path("never-written"))
ONE, TWO = agent(1), agent(2)
SILENT = agent(3, last_seen_at=NOON - 5 * MINUTE)
RELAYED = agent(4, relay_path=(ONE.agent_id,))
NEVER_LISTENED = snapshot(ONE, listening=None)
AWAY = snapshot(ONE, SILENT, listening=(NOON - DAY, NOON - 5 * MINUTE))
JUST_BACK = snapshot(ONE, SILENT, listening=(NOON - 10 * SECOND, NOON))


def html(shown: Snapshot) -> str:
    return WEBSITE.render(build(seen(shown))).files["index.html"].decode()


def bad_signature(**changes: object) -> Alarm:
    return alarm("bad_signature", None, **changes)


# --- The verdict


@pytest.mark.parametrize(
    ("shown", "verdict", "level"),
    [
        (snapshot(), "No agent has reported yet.", "unknown"),
        (snapshot(ONE), "The only agent reports.", "good"),
        (snapshot(ONE, TWO), "All 2 agents report.", "good"),
        (snapshot(SILENT), "1 of 1 agent is silent.", "bad"),
        (snapshot(ONE, SILENT), "1 of 2 agents is silent.", "bad"),
        (snapshot(ONE, SILENT, replace(SILENT, ref=4, agent_id=node(4).agent_id)), "2 of 3 agents are silent.", "bad"),
        (
            snapshot(ONE, SILENT, open_alarms=(alarm("agent_silent", SILENT.agent_id), bad_signature())),
            "1 of 2 agents is silent, 1 other alarm is open.",
            "bad",
        ),
        (snapshot(ONE, open_alarms=(bad_signature(), alarm("replay", None))), "2 alarms are open.", "bad"),
        (snapshot(ONE, RELAYED), "1 of 2 agents reports only through relays.", "impaired"),
        (
            snapshot(ONE, RELAYED, agent(5, relay_path=(ONE.agent_id,))),
            "2 of 3 agents report only through relays.",
            "impaired",
        ),
        (
            snapshot(ONE, RELAYED, SILENT),
            "1 of 3 agents is silent, 1 of 3 agents reports only through relays.",
            "bad",
        ),
        (
            replace(JUST_BACK, agents=(*JUST_BACK.agents, RELAYED)),
            "1 of 3 agents has not reported since the manager's server (serve) started, "
            "1 of 3 agents reports only through relays.",
            "unknown",
        ),
        (
            replace(AWAY, agents=(ONE, RELAYED)),
            "The manager's server (serve) is not running, its last heartbeat was 5 min ago.",
            "bad",
        ),
        (NEVER_LISTENED, "The manager's server (serve) has never run.", "bad"),
        (AWAY, "The manager's server (serve) is not running, its last heartbeat was 5 min ago.", "bad"),
        (JUST_BACK, "1 of 2 agents has not reported since the manager's server (serve) started.", "unknown"),
    ],
)
def test_the_verdict(shown: Snapshot, verdict: str, level: str) -> None:
    view = index(seen(shown))
    assert (view.verdict, view.level) == (verdict, level)


def test_problems_come_first_then_names() -> None:
    old = agent(5, last_seen_at=NOON - HOUR, hostname="a.example.net")
    fleet = snapshot(agent(1, hostname="c.example.net"), agent(2, hostname="b.example.net"), SILENT, old)
    fleet = replace(fleet, agents=(*fleet.agents, RELAYED))
    states = [(row.state, row.name) for row in index(seen(fleet)).agents]
    assert states == [
        ("silent", "a.example.net"),
        ("silent", SILENT.hostname),
        ("relayed", RELAYED.hostname),
        ("reporting", "b.example.net"),
        ("reporting", "c.example.net"),
    ]


def test_counts_are_those_of_the_rows() -> None:
    fleet = snapshot(ONE, TWO, RELAYED, SILENT, agent(5, last_seen_at=NOON - HOUR, relay_path=(ONE.agent_id,)))
    counts = index(seen(replace(fleet, open_alarms=(bad_signature(),)))).counts
    assert counts == (("5", "agents"), ("2", "reporting"), ("1", "relayed"), ("2", "silent"), ("1", "open alarm"))


def test_a_row_shows_the_path_and_the_key() -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    late = agent(2, relay_path=(ONE.agent_id, unknown), fingerprint=PREVIOUS.fingerprint, clock_offset=-75_400)
    relayed, direct = index(seen(snapshot(ONE, late))).agents
    assert (direct.arrives, direct.fingerprint, direct.key_is, direct.clock_offset) == (
        "direct",
        "eb97b356",
        "current",
        "+0.1 s",
    )
    assert (relayed.arrives, relayed.fingerprint, relayed.key_is, relayed.clock_offset) == (
        f"via {ONE.hostname}, then {unknown}",
        "3954075d",
        "previous",
        "-75.4 s",
    )


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({}, ""),
        ({"waiting": 0, "dropped": 0}, ""),
        ({"waiting": 1234, "dropped": 0}, "1,234 waiting"),
        ({"waiting": 0, "dropped": 5}, "5 dropped"),
        ({"waiting": 12, "dropped": 5}, "12 waiting, 5 dropped"),
    ],
)
def test_a_spool_is_shown_unless_it_is_empty(told: dict[str, int], shown: str) -> None:
    fleet = snapshot(agent(1, **told))
    [row] = index(seen(fleet)).agents
    assert row.spool == shown
    assert ('class="spool"' in html(fleet)) is bool(shown)


def test_an_agent_without_a_name_or_a_report_still_has_a_row() -> None:
    bare = agent(1, hostname="", agent_version="", fingerprint="", latest_report_id=None)
    [row] = index(seen(snapshot(bare))).agents
    assert (row.name, row.labels, row.key_is) == (bare.agent_id, (), "")
    assert "none yet" in html(snapshot(bare))


def test_an_unreadable_report_is_noted() -> None:
    view = index(seen(snapshot(ONE, reports={}, damaged=(1,))))
    assert view.notes == ("The newest report of 1 agent cannot be read: run 'kattila-manager check'.",)


def test_without_a_ring_the_page_notes_it_and_judges_no_keys() -> None:
    view = index(replace(seen(snapshot(ONE)), keys=None))
    assert view.agents[0].key_is == ""
    assert "The key ring cannot be read" in view.notes[0]


def test_equal_input_gives_equal_bytes() -> None:
    fleet = snapshot(ONE, TWO, SILENT)
    assert html(fleet) == html(replace(fleet, reports=dict(sorted(fleet.reports.items(), reverse=True))))


def test_agents_and_alarms_that_are_not_listed_are_counted() -> None:
    new = [agent(100 + each, first_seen_at=NOON - MINUTE) for each in range(60)]
    quiet = [replace(each, ref=500 + each.ref, agent_id=node(500 + each.ref).agent_id) for each in new]
    fleet = snapshot(ONE, TWO, *new, *(replace(each, last_seen_at=NOON - 5 * MINUTE) for each in quiet))
    view = index(seen(replace(fleet, open_alarms=tuple(bad_signature() for _ in range(150)))))
    assert len(view.agents) == 30
    assert view.more_agents.startswith("Not listed: 92 new agents (")
    assert len(view.open_alarms) == 100
    assert view.more_alarms == "Not listed: 50 older alarms. 'kattila-manager alarms' lists all."
    assert "Not listed: 92 new agents (60 silent, 32 reporting)." in html(fleet)
    assert "Not listed" not in html(snapshot(ONE, TWO))


# --- The page as a whole


def _example() -> Snapshot:
    relayed = agent(2, relay_path=(ONE.agent_id,), fingerprint=PREVIOUS.fingerprint, waiting=20, dropped=3)
    opened = (
        alarm("agent_silent", SILENT.agent_id, detail="no report since 11:55"),
        bad_signature(alarm_id=2, count=1234, counter=1234),
        alarm("identity_conflict", "00000000-0000-4000-8000-000000000000", alarm_id=3, detail="<b>two</b>"),
    )
    closed = (alarm("clock_skew", ONE.agent_id, alarm_id=4, closed_at=NOON - HOUR),)
    return snapshot(ONE, relayed, SILENT, open_alarms=opened, closed_alarms=closed)


@pytest.mark.parametrize("name", ["trouble", "empty"])
def test_the_page_equals_the_golden_one(name: str) -> None:
    page = html(_example() if name == "trouble" else snapshot())
    gold = GOLD / f"{name}.html"
    if os.environ.get("ACCEPT"):
        gold.write_text(page)
    assert page == gold.read_text(), f"differs from {gold}; if that is right: ACCEPT=1 make test ARGS={__file__}"


def test_the_page_loads_no_resources_and_runs_no_scripts() -> None:
    page = html(_example())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    found = _elements(page)
    assert not {"script", "iframe", "object", "embed", "img", "form", "base"} & {name for name, _ in found}
    addresses = [value for _, attributes in found for name, value in attributes if name in ("src", "href", "action")]
    assert addresses
    assert all(address.startswith(("#", "data:image/svg+xml,")) for address in addresses if address is not None)
    assert "url(" not in page
    assert "@import" not in page


def test_every_time_is_machine_readable_and_in_utc() -> None:
    found = _elements(html(_example()))
    moments = [dict(attributes)["datetime"] for name, attributes in found if name == "time"]
    assert len(moments) > 10
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment or "") for moment in moments)


def test_states_have_a_word_and_links_resolve() -> None:
    page = html(_example())
    for word in ("silent", "relayed", "reporting", "previous", "current"):
        assert f">{word}</span>" in page
    found = _elements(page)
    ids = [value for _, attributes in found for name, value in attributes if name == "id"]
    links = {value for _, attributes in found for name, value in attributes if name == "href"}
    assert len(ids) == len(set(ids))
    assert {link for link in links if link and link.startswith("#")} <= {f"#{name}" for name in ids}


# --- Hostile text


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _parsed(page: str) -> _Elements:
    parser = _Elements()
    parser.feed(page)
    parser.close()
    return parser


def _elements(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    return _parsed(page).found


def _saying(text: str) -> Snapshot:
    """Return a fleet of one agent that reports this text in every text field."""
    told = report(node(1), 100, NOON)
    assert told.telemetry.system is not None
    system: System = replace(told.telemetry.system, hostname=text, agent_version=text, labels={text: text})
    told = replace(told, telemetry=replace(told.telemetry, system=system))
    # Silent, so that its row stays first under any name.
    hostile = agent(1, hostname=text, agent_version=text, last_seen_at=NOON - HOUR)
    relayed = agent(2, relay_path=(hostile.agent_id,))
    opened = (
        alarm("replay", hostile.agent_id, detail=text),
        bad_signature(alarm_id=2, detail=text),
        alarm("clock_skew", text, alarm_id=3),
        alarm(text, None, alarm_id=4),
    )
    return replace(snapshot(hostile, relayed, open_alarms=opened), reports={1: summary_of(told)})


HOSTILE = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ page.source }}{% raw %}",
    "&lt;script&gt;",
    "]]><!--",
    "\u202egnp.exe\u202c \u2066\u200f\u061c",
    "\x00\x07\x1b[31m\r\n",
    "\ud800 \ufffe \U000e0041",
    "n" * 10_000,
    "\u0301" * 500,
    "",
    " ",
]


def _check_harmless(text: str) -> None:
    page = html(_saying(text))
    harmless = _elements(html(_saying("a" if text else "")))
    found = _elements(page)
    # The elements and attributes are the same, so no text became markup.
    assert [(name, [key for key, _ in attributes]) for name, attributes in found] == [
        (name, [key for key, _ in attributes]) for name, attributes in harmless
    ]
    assert not [c for c in page if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") and c != "\n"]
    assert len(page) < len(html(_saying("a"))) + 20_000


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_text(text: str) -> None:
    _check_harmless(text)


@settings(max_examples=examples(60))
@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=80))
def test_any_text_of_a_node_stays_text(text: str) -> None:
    _check_harmless(text)


def test_hostile_text_stays_readable() -> None:
    text = "".join(_parsed(html(_saying('<b>"x" & \u202ey</b>'))).text)
    assert '<b>"x" & \\u202ey</b>' in text
