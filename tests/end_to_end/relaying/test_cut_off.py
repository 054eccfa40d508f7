"""One of two nodes loses its route to the manager: its reports go through the other until the route is back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from kattila_keys.ring_file import RingFile, StoredRing
from kattila_protocol.signing import Key
from support.manager import now_ms
from support.mesh import Mesh, MeshNode, new_mesh
from support.reports import KEY

NEW_PSK = b"the psk after the rotation, protects nothing"
# The limit. The first of them is measured during the cut, or sent over a connection that is already dead.
LATE_SAMPLES = 2


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run A and B with a tunnel between them; before and after each test both reach the manager."""
    with new_mesh(tmp_path_factory.mktemp("cut_off"), ["a", "b"], [("a", "b")]) as made:
        made.start()
        for name in made.nodes:
            made.wait_until(lambda name=name: made.reports_directly(name, since=2))
        yield made


@dataclass
class CutOff:
    """B's last samples when it was cut off, and when its path was restored."""

    began: int
    ended: int = 0


@contextmanager
def cut_off(mesh: Mesh, cut: Callable[[MeshNode], None], restore: Callable[[MeshNode], None]) -> Iterator[CutOff]:
    """Cut B off; then restore its path and wait for a direct report."""
    cut(mesh["b"])
    samples = CutOff(mesh["b"].last_sample)
    try:
        yield samples
    finally:
        restore(mesh["b"])
        samples.ended = mesh["b"].last_sample
        mesh.wait_until(lambda: mesh.reports_directly("b", samples.ended))


def since(mesh: Mesh, sample: int) -> dict[int, list[str]]:
    """Return the relay paths of B's reports after a sample."""
    return {number: path for number, path in mesh.paths("b").items() if number > sample}


@pytest.mark.parametrize(
    ("cut", "restore", "reason"),
    [
        (MeshNode.block, MeshNode.unblock, "invalid argument"),
        (MeshNode.drop, MeshNode.stop_dropping, "it does not answer in time"),
    ],
    ids=["blackhole route", "firewall that drops"],
)
def test_reports_change_their_path_within_two_intervals(
    mesh: Mesh, cut: Callable[[MeshNode], None], restore: Callable[[MeshNode], None], reason: str
) -> None:
    log_before = len(mesh["b"].log)
    with cut_off(mesh, cut, restore) as samples:
        mesh.wait_until(lambda: since(mesh, samples.began).get(samples.began + LATE_SAMPLES) == ["a"])
        mesh.wait_until(lambda: len(since(mesh, samples.began)) > LATE_SAMPLES)
        assert shown(mesh, "b") == ("relayed", ["a"])
    directly = [sample for sample, path in since(mesh, samples.ended).items() if not path]
    assert directly[0] <= samples.ended + LATE_SAMPLES
    assert shown(mesh, "b") == ("reporting", [])
    assert "reported via a" in mesh.manager.command("history", mesh["b"].agent_id).stdout
    mesh.has_all("b", directly[0])
    lines = delivery_lines(mesh["b"].log[log_before:])
    assert sorted(lines) == sorted(set(lines))
    # The first report may come before it knows that A reaches the manager.
    assert [line for line in lines if "no relay is known" not in line and "on disk" not in line] == [
        f"the manager cannot be reached: {reason}; reports go through a at 203.0.113.11",
        "the manager takes the reports",
    ]


def test_a_node_that_missed_a_rotation_reports_through_its_neighbour_under_the_old_key(mesh: Mesh) -> None:
    with cut_off(mesh, MeshNode.block, MeshNode.unblock) as samples:
        rotate(mesh.manager.ring_file)
        rotate(RingFile(mesh["a"].folder / "ring.json"))
        mesh.wait_until(lambda: list(since(mesh, samples.began).values()).count(["a"]) > 2)
        assert fingerprint(mesh, "a") == Key.from_psk(NEW_PSK).fingerprint
        assert fingerprint(mesh, "b") == KEY.fingerprint
        rotate(RingFile(mesh["b"].folder / "ring.json"))
        mesh.wait_until(lambda: fingerprint(mesh, "b") == Key.from_psk(NEW_PSK).fingerprint)
        mesh.has_all("b", max(since(mesh, samples.began)))
        assert set(map(tuple, since(mesh, samples.began + LATE_SAMPLES).values())) == {("a",)}


def rotate(ring_file: RingFile) -> None:
    """Store the new PSK as if DNS had returned it."""
    now = now_ms()
    ring_file.update(lambda stored: StoredRing(stored.ring.with_current(NEW_PSK, now), asked_at=now, answered_at=now))


def shown(mesh: Mesh, name: str) -> tuple[str, list[str]]:
    """Return the state and the relay names that `kattila-manager agents` shows for a node."""
    listed = json.loads(mesh.manager.command("agents", "--json").stdout)["agents"]
    [agent] = [agent for agent in listed if agent["agent_id"] == mesh[name].agent_id]
    return agent["state"], [relay["hostname"] for relay in agent["path"]]


def fingerprint(mesh: Mesh, name: str) -> str:
    """Return the fingerprint of the key of a node's newest report."""
    [(found,)] = mesh.manager.rows("SELECT fingerprint FROM agents WHERE agent_id = ?", mesh[name].agent_id)
    return str(found)


def delivery_lines(log: str) -> list[str]:
    """Return the lines of a log about deliveries, without time and level."""
    lines = (re.split(r" (?:INFO|WARNING|ERROR) ", line, maxsplit=1)[-1] for line in log.splitlines())
    return [line for line in lines if "manager" in line or "reports" in line or "on disk" in line]
