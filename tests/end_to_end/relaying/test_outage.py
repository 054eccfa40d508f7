"""The manager falls silent, dies, and comes back with a full disk: nothing is lost, and nothing goes round in circles.

Four nodes in a ring of tunnels. The outage happens once, with an agent killed in two of its parts, and the tests say
what was to hold of it. Those behind them attack a node of the ring when all is well again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kattila_protocol import envelope
from kattila_protocol.envelope import Envelope
from kattila_protocol.names import MANAGER
from kattila_protocol.signing import Key, Purpose
from support.manager import UPDATES, Reply, exchange, now_ms
from support.mesh import INTERVAL_SECONDS, MANAGER_ADDRESS, MANAGER_PORT, Mesh, MeshNode, new_mesh
from support.reports import FOREIGN_KEY, KEY, Node, forwarded, node, nonce_of, report, sealed
from support.small_disk import fill, small_disk

RING = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]
# Samples of each agent while the manager is silent, and from its death to its return; together those of ten minutes.
SILENT, DEAD = 4, 16
DISK_KILOBYTES = 4096
ATTEMPTS_PER_INTERVAL = 3
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Moment:
    """Of each node by its name: the last sample, and how many POSTs have come to its agent since the outage began."""

    samples: dict[str, int]
    posts: dict[str, int]


@dataclass(frozen=True)
class Outage:
    """What was seen: as it began, when the manager had been silent for a while, and before it came back.

    `full` is what the manager answered while its disk was full, `logs` what those agents said that nobody killed.
    """

    mesh: Mesh
    began: Moment
    silent: Moment
    ended: Moment
    full: Reply
    logs: dict[str, str]


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    folder = tmp_path_factory.mktemp("outage")
    with (
        small_disk(folder / "disk", DISK_KILOBYTES) as disk,
        new_mesh(folder, "abcd", RING, disk, REPORT_INTERVAL=str(INTERVAL_SECONDS)) as mesh,
    ):
        mesh.start()
        for name in mesh.nodes:
            mesh.wait_until(lambda name=name: mesh.reports_directly(name, since=5))
        for each in mesh.nodes.values():
            each.count_posts()
        yield suffered(mesh, disk)


def suffered(mesh: Mesh, disk: Path) -> Outage:
    """Take the manager away and bring it back; B is killed while it is away, C while it sends what waited."""
    began = now_of(mesh)
    for each in mesh.nodes.values():
        each.drop()
    silent = after_samples(mesh, began, SILENT)
    mesh.manager.kill()
    for each in mesh.nodes.values():
        each.stop_dropping()
    after_samples(mesh, silent, DEAD // 2)
    restart(mesh["b"])
    ended = after_samples(mesh, silent, DEAD)
    full = back_with_a_full_disk(mesh, disk)
    mesh.wait_until(lambda: len(mesh["c"].waiting) < DEAD / 2)
    restart(mesh["c"])
    for each in mesh.nodes.values():
        mesh.wait_until(lambda each=each: not each.waiting)
    for name in "ad":
        mesh.wait_until(lambda name=name: "no sample waits on disk" in mesh[name].log)
    return Outage(mesh, began, silent, ended, full, {name: mesh[name].log for name in "ad"})


def now_of(mesh: Mesh) -> Moment:
    nodes = mesh.nodes.items()
    return Moment({name: each.last_sample for name, each in nodes}, {name: each.posts() for name, each in nodes})


def after_samples(mesh: Mesh, start: Moment, count: int) -> Moment:
    """Wait until each node has measured so many more."""
    for name, each in mesh.nodes.items():
        wanted = start.samples[name] + count
        mesh.wait_until(lambda each=each, wanted=wanted: each.last_sample >= wanted)
    return now_of(mesh)


def back_with_a_full_disk(mesh: Mesh, disk: Path) -> Reply:
    """Start the manager where it can store nothing, until all agents were told so, and return what it answers."""
    fill(disk / "ballast")
    mesh.manager.start()
    for each in mesh.nodes.values():
        mesh.wait_until(lambda each=each: "(overloaded)" in each.log)
    with closing(mesh["a"].connect(MANAGER_ADDRESS, MANAGER_PORT)) as connection:
        full = exchange(connection, "POST", UPDATES, sealed(report(node(9), 1, now_ms())), JSON)
    (disk / "ballast").unlink()
    return full


def restart(each: MeshNode) -> None:
    each.stop()
    each.start()


@pytest.mark.parametrize("name", "abcd")
def test_every_history_is_complete_and_tells_what_came_late(outage: Outage, name: str) -> None:
    first, last = outage.began.samples[name] + 1, outage.ended.samples[name]
    assert last - first >= SILENT + DEAD - 1
    outage.mesh.has_all(name, last)
    late = outage.mesh.late(name)
    # The first may just have arrived, the last may have been the newest.
    assert [sample for sample in range(first + 1, last) if not late[sample]] == []


@pytest.mark.parametrize("name", "abcd")
def test_the_manager_tells_that_it_was_cut_off_and_alive_and_misses_nothing(outage: Outage, name: str) -> None:
    spans = json.loads(outage.mesh.manager.command("history", outage.mesh[name].agent_id, "--json").stdout)["spans"]
    assert [span for span in spans if span["kind"] == "missing"] == []
    cut_off = [span["samples"] for span in spans if span["kind"] == "cut_off"]
    assert sum(cut_off) >= SILENT + DEAD - 2


@pytest.mark.parametrize("name", "abcd")
def test_nothing_was_given_up(outage: Outage, name: str) -> None:
    [(waiting, dropped)] = outage.mesh.manager.rows(
        "SELECT waiting, dropped FROM agents WHERE agent_id = ?", outage.mesh[name].agent_id
    )
    assert (waiting < SILENT + DEAD, dropped) == (True, 0)


def test_no_message_goes_round_the_ring(outage: Outage) -> None:
    made = {name: outage.silent.samples[name] - sample for name, sample in outage.began.samples.items()}
    # Whoever has not heard of it yet asks its neighbours, once; nobody asks on behalf of others.
    assert 0 < sum(outage.silent.posts.values()) <= ATTEMPTS_PER_INTERVAL * sum(made.values())
    # Then all know that nobody has a way, and do not ask at all; B was started anew and had to ask.
    later = {name: count - outage.silent.posts[name] for name, count in outage.ended.posts.items()}
    assert sum(later.values()) <= len(later)


def test_the_manager_says_when_it_can_take_more(outage: Outage) -> None:
    assert (outage.full.status, outage.full.kind) == (503, "overloaded")
    assert int(outage.full.headers["retry-after"]) > 0
    assert outage.full.verdict(nonce_of(node(9), 1, 1)).outcome == "overloaded"


@pytest.mark.parametrize("name", "ad")
def test_the_journal_says_each_change_once(outage: Outage, name: str) -> None:
    said = [re.sub(r"^\S+ \S+ ", "", line) for line in outage.logs[name].splitlines()]
    # The relays that failed are listed after the reason.
    assert [line.partition(";")[0] for line in said if "the manager" in line] == [
        "INFO the manager takes the reports",
        "WARNING the manager cannot be reached: it does not answer in time",
        "WARNING the manager cannot be reached: connection refused",
        "WARNING the manager refuses the reports (overloaded): the report could not be stored",
        "INFO the manager takes the reports",
    ]
    assert [line for line in said if "on disk" in line] == [
        "WARNING undelivered samples wait on disk (1 sample)",
        "INFO no sample waits on disk any more",
    ]


# What B sends to A over their tunnel, of whose sample that is said to be.
Forged = Callable[[Node, str], Envelope]


def signed(sender: Node, *way: str, key: Key = KEY) -> Envelope:
    return forwarded(report(sender, 1, now_ms()), *way, key=key)


def looped(sender: Node, a: str) -> Envelope:
    """Return a report that has passed A and another, and is sent to A: no honest agent signs that."""
    parts = signed(sender, a, FAR[1])
    path = (a, FAR[1])
    return replace(parts, relay_path=path, hop_mac=KEY.sign(Purpose.HOP, envelope.hop_message(parts.mac, path, a)))


# Agents that are not here.
FAR = [node(100 + number).agent_id for number in range(4)]
BAD_SIGNATURE, RELAY_LOOP, TOO_MANY_HOPS = (403, "bad_signature"), (409, "relay_loop"), (409, "too_many_hops")
FORGED: dict[str, tuple[Forged, tuple[int, str]]] = {
    "by who has no PSK": (lambda me, a: signed(me, a, key=FOREIGN_KEY), BAD_SIGNATURE),
    "addressed to the manager": (lambda me, a: signed(me, MANAGER), BAD_SIGNATURE),
    "addressed to another": (lambda me, a: signed(me, FAR[1]), BAD_SIGNATURE),
    "with a path that nobody signed": (lambda me, a: replace(signed(me, a), relay_path=(FAR[1],)), BAD_SIGNATURE),
    "with a path cut short": (lambda me, a: replace(signed(me, FAR[1], a), relay_path=()), BAD_SIGNATURE),
    "with a relay exchanged": (lambda me, a: replace(signed(me, FAR[1], a), relay_path=(FAR[2],)), BAD_SIGNATURE),
    "with a hop signed by who has no PSK": (
        lambda me, a: replace(signed(me, a), hop_mac=signed(me, a, key=FOREIGN_KEY).hop_mac),
        BAD_SIGNATURE,
    ),
    "without the MAC of its last hop": (lambda me, a: replace(signed(me, a, FAR[1]), relay_path=(a,)), BAD_SIGNATURE),
    "that was here": (looped, RELAY_LOOP),
    "with three hops": (lambda me, a: signed(me, *FAR[:3], a), TOO_MANY_HOPS),
}


def posted(outage: Outage, body: Envelope, to: str) -> Reply:
    with closing(outage.mesh["b"].connect(to)) as connection:
        return exchange(connection, "POST", "/status/relay", body.to_bytes(), JSON)


def stored(outage: Outage, sender: Node) -> int:
    query = "SELECT count(*) FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ?"
    [(count,)] = outage.mesh.manager.rows(query, sender.agent_id)
    return int(count)


@pytest.mark.parametrize("number", range(len(FORGED)), ids=FORGED)
def test_a_report_is_refused(outage: Outage, number: int) -> None:
    forged, refusal = [*FORGED.values()][number]
    a, sender = outage.mesh["a"], node(10 + number)
    reply = posted(outage, forged(sender, a.agent_id), a.overlay)
    assert (reply.status, reply.kind) == refusal
    assert not reply.is_signed
    assert stored(outage, sender) == 0


def test_the_same_from_a_source_that_is_not_behind_the_tunnels_is_refused_unseen(outage: Outage) -> None:
    a, sender = outage.mesh["a"], node(30)
    reply = posted(outage, signed(sender, a.agent_id), a.underlay)
    assert (reply.status, reply.kind) == (403, "foreign_source")
    assert stored(outage, sender) == 0


def test_an_honest_one_is_passed_on_once_and_its_verdict_remembered(outage: Outage) -> None:
    a, sender = outage.mesh["a"], node(31)
    body = signed(sender, a.agent_id)
    first, second = (posted(outage, body, a.overlay) for _ in range(2))
    assert first.verdict(nonce_of(sender, 1, 1)).outcome == "accepted"
    assert (second.status, second.body) == (first.status, first.body)
    assert stored(outage, sender) == 1
