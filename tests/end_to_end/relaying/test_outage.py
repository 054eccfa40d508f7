"""The manager becomes silent, dies, and returns with a full disk: no report is lost, and none loops.

Four nodes form a ring of tunnels. The outage happens once, with two agents killed during it, and the tests check its
results. The last tests attack a node of the ring after the outage.
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
# Samples of each agent while the manager is silent, and while it is dead; together as many as in ten minutes.
SILENT, DEAD = 4, 16
# Enough for the database and the journal that SQLite keeps before it, however long the outage takes.
DISK_KILOBYTES = 65536
ATTEMPTS_PER_INTERVAL = 3
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Counts:
    """The last sample of each node, and the number of POST requests to its agent since the start of the outage."""

    samples: dict[str, int]
    posts: dict[str, int]


@dataclass(frozen=True)
class Outage:
    """The counts at the start, at the end of the silence, and before the manager returned.

    `full` is an answer of the manager with a full disk, `logs` are the logs of the agents that were not killed.
    """

    mesh: Mesh
    began: Counts
    silent: Counts
    ended: Counts
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
        yield run_outage(mesh, disk)


def run_outage(mesh: Mesh, disk: Path) -> Outage:
    """Run the outage; B is killed while the manager is dead, and C while it delivers its spool."""
    began = current_counts(mesh)
    for each in mesh.nodes.values():
        each.drop()
    silent = after_samples(mesh, began, SILENT)
    mesh.manager.kill()
    for each in mesh.nodes.values():
        each.stop_dropping()
    after_samples(mesh, silent, DEAD // 2)
    restart(mesh["b"])
    ended = after_samples(mesh, silent, DEAD)
    full = restart_with_full_disk(mesh, disk)
    mesh.wait_until(lambda: len(mesh["c"].waiting) < DEAD / 2)
    restart(mesh["c"])
    for each in mesh.nodes.values():
        mesh.wait_until(lambda each=each: not each.waiting)
    for name in "ad":
        mesh.wait_until(lambda name=name: "no sample waits on disk" in mesh[name].log)
    return Outage(mesh, began, silent, ended, full, {name: mesh[name].log for name in "ad"})


def current_counts(mesh: Mesh) -> Counts:
    nodes = mesh.nodes.items()
    return Counts({name: each.last_sample for name, each in nodes}, {name: each.posts() for name, each in nodes})


def after_samples(mesh: Mesh, start: Counts, count: int) -> Counts:
    """Wait until each node has measured `count` more samples."""
    for name, each in mesh.nodes.items():
        wanted = start.samples[name] + count
        mesh.wait_until(lambda each=each, wanted=wanted: each.last_sample >= wanted)
    return current_counts(mesh)


def restart_with_full_disk(mesh: Mesh, disk: Path) -> Reply:
    """Start the manager with a full disk, wait until it has refused all agents, and return its answer to a report."""
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
def test_every_history_is_complete_and_marks_late_samples(outage: Outage, name: str) -> None:
    first, last = outage.began.samples[name] + 1, outage.ended.samples[name]
    assert last - first >= SILENT + DEAD - 1
    outage.mesh.has_all(name, last)
    late = outage.mesh.late(name)
    # The first may have arrived in time, and the last may have been the newest.
    assert [sample for sample in range(first + 1, last) if not late[sample]] == []


@pytest.mark.parametrize("name", "abcd")
def test_the_history_shows_a_cut_off_period_and_no_missing_sample(outage: Outage, name: str) -> None:
    spans = json.loads(outage.mesh.manager.command("history", outage.mesh[name].agent_id, "--json").stdout)["spans"]
    assert [span for span in spans if span["kind"] == "missing"] == []
    cut_off = [span["samples"] for span in spans if span["kind"] == "cut_off"]
    assert sum(cut_off) >= SILENT + DEAD - 2


@pytest.mark.parametrize("name", "abcd")
def test_no_sample_was_dropped(outage: Outage, name: str) -> None:
    [(waiting, dropped)] = outage.mesh.manager.rows(
        "SELECT waiting, dropped FROM agents WHERE agent_id = ?", outage.mesh[name].agent_id
    )
    assert (waiting < SILENT + DEAD, dropped) == (True, 0)


def test_no_message_loops_in_the_ring(outage: Outage) -> None:
    measured = {name: outage.silent.samples[name] - sample for name, sample in outage.began.samples.items()}
    # At first each node tries its neighbours once. No node forwards the reports of others.
    assert 0 < sum(outage.silent.posts.values()) <= ATTEMPTS_PER_INTERVAL * sum(measured.values())
    # Then all nodes know that none reaches the manager, and stop trying. Only B, after its restart, has to try.
    later = {name: count - outage.silent.posts[name] for name, count in outage.ended.posts.items()}
    assert sum(later.values()) <= len(later)


def test_a_manager_with_a_full_disk_sends_retry_after(outage: Outage) -> None:
    assert (outage.full.status, outage.full.kind) == (503, "overloaded")
    assert int(outage.full.headers["retry-after"]) > 0
    assert outage.full.verdict(nonce_of(node(9), 1, 1)).outcome == "overloaded"


@pytest.mark.parametrize("name", "ad")
def test_each_change_is_logged_once(outage: Outage, name: str) -> None:
    lines = [re.sub(r"^\S+ \S+ ", "", line) for line in outage.logs[name].splitlines()]
    # The relays that failed are listed after the reason.
    assert [line.partition(";")[0] for line in lines if "the manager" in line] == [
        "INFO the manager takes the reports",
        "WARNING the manager cannot be reached: it does not answer in time",
        "WARNING the manager cannot be reached: connection refused",
        "WARNING the manager refuses the reports (overloaded): the report could not be stored",
        "INFO the manager takes the reports",
    ]
    assert [line for line in lines if "on disk" in line] == [
        "WARNING undelivered samples wait on disk (1 sample)",
        "INFO no sample waits on disk any more",
    ]


# Returns an envelope that B sends to A over their tunnel; takes its pretended origin and the id of A.
Forged = Callable[[Node, str], Envelope]


def signed(sender: Node, *path: str, key: Key = KEY) -> Envelope:
    return forwarded(report(sender, 1, now_ms()), *path, key=key)


def looped(sender: Node, a: str) -> Envelope:
    """Return a report to A that A has already relayed; no honest agent signs this."""
    parts = signed(sender, a, FAR[1])
    path = (a, FAR[1])
    return replace(parts, relay_path=path, hop_mac=KEY.sign(Purpose.HOP, envelope.hop_message(parts.mac, path, a)))


# Agents outside of this mesh.
FAR = [node(100 + number).agent_id for number in range(4)]
BAD_SIGNATURE, RELAY_LOOP, TOO_MANY_HOPS = (403, "bad_signature"), (409, "relay_loop"), (409, "too_many_hops")
FORGED: dict[str, tuple[Forged, tuple[int, str]]] = {
    "signed without the PSK": (lambda me, a: signed(me, a, key=FOREIGN_KEY), BAD_SIGNATURE),
    "addressed to the manager": (lambda me, a: signed(me, MANAGER), BAD_SIGNATURE),
    "addressed to another": (lambda me, a: signed(me, FAR[1]), BAD_SIGNATURE),
    "with an unsigned path": (lambda me, a: replace(signed(me, a), relay_path=(FAR[1],)), BAD_SIGNATURE),
    "with a shortened path": (lambda me, a: replace(signed(me, FAR[1], a), relay_path=()), BAD_SIGNATURE),
    "with a replaced relay": (lambda me, a: replace(signed(me, FAR[1], a), relay_path=(FAR[2],)), BAD_SIGNATURE),
    "with a hop signed without the PSK": (
        lambda me, a: replace(signed(me, a), hop_mac=signed(me, a, key=FOREIGN_KEY).hop_mac),
        BAD_SIGNATURE,
    ),
    "without the MAC of its last hop": (lambda me, a: replace(signed(me, a, FAR[1]), relay_path=(a,)), BAD_SIGNATURE),
    "that already passed A": (looped, RELAY_LOOP),
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
def test_a_forged_report_is_refused(outage: Outage, number: int) -> None:
    forged, refusal = [*FORGED.values()][number]
    a, sender = outage.mesh["a"], node(10 + number)
    reply = posted(outage, forged(sender, a.agent_id), a.overlay)
    assert (reply.status, reply.kind) == refusal
    assert not reply.is_signed
    assert stored(outage, sender) == 0


def test_a_report_from_outside_the_tunnels_is_refused(outage: Outage) -> None:
    a, sender = outage.mesh["a"], node(30)
    reply = posted(outage, signed(sender, a.agent_id), a.underlay)
    assert (reply.status, reply.kind) == (403, "foreign_source")
    assert stored(outage, sender) == 0


def test_an_honest_report_is_relayed_once_and_its_verdict_cached(outage: Outage) -> None:
    a, sender = outage.mesh["a"], node(31)
    body = signed(sender, a.agent_id)
    first, second = (posted(outage, body, a.overlay) for _ in range(2))
    assert first.verdict(nonce_of(sender, 1, 1)).outcome == "accepted"
    assert (second.status, second.body) == (first.status, first.body)
    assert stored(outage, sender) == 1
