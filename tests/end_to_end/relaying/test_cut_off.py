"""One of two nodes loses the manager, in several ways: its reports go through the other, and directly again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kattila_keys.ring_file import RingFile, StoredRing
from kattila_protocol.signing import Key
from support.manager import now_ms
from support.mesh import Mesh, MeshNode, new_mesh
from support.reports import KEY

NEW_PSK = b"the psk after the rotation, protects nothing"
# What is promised; the first of them is measured while the cut is made, or meets a connection that is dead by then.
LATE_SAMPLES = 2


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A and B, a tunnel between them, and both reach the manager. So do they after each test."""
    with new_mesh(tmp_path_factory.mktemp("cut_off"), ["a", "b"], [("a", "b")]) as made:
        made.start()
        for name in made.nodes:
            made.wait_until(lambda name=name: made.reports_directly(name, since=2))
        yield made


@contextmanager
def cut_off(mesh: Mesh, cut: Callable[[MeshNode], None], mend: Callable[[MeshNode], None]) -> Iterator[int]:
    """Cut B off, and yield the last sample that may have gone directly; then mend it, and wait until one does."""
    cut(mesh["b"])
    try:
        yield mesh["b"].last_sample
    finally:
        mend(mesh["b"])
        mended_after = mesh["b"].last_sample
        mesh.wait_until(lambda: mesh.reports_directly("b", mended_after))


def since(mesh: Mesh, sample: int) -> dict[int, list[str]]:
    """Return the ways of the reports of B after a sample."""
    return {number: path for number, path in mesh.paths("b").items() if number > sample}


@pytest.mark.parametrize(
    ("cut", "mend", "why"),
    [
        (MeshNode.block, MeshNode.unblock, "invalid argument"),
        (MeshNode.drop, MeshNode.stop_dropping, "it does not answer in time"),
    ],
    ids=["blackhole route", "firewall that drops"],
)
def test_within_two_intervals_reports_go_through_the_neighbour_and_mended_directly_again(
    mesh: Mesh, cut: Callable[[MeshNode], None], mend: Callable[[MeshNode], None], why: str
) -> None:
    said_before = len(mesh["b"].log)
    with cut_off(mesh, cut, mend) as last_before:
        mesh.wait_until(lambda: ["a"] in since(mesh, last_before).values())
        mesh.wait_until(lambda: len(since(mesh, last_before)) > LATE_SAMPLES)
        through = [sample for sample, path in since(mesh, last_before).items() if path == ["a"]]
        assert through[0] <= last_before + LATE_SAMPLES
        assert shown(mesh, "b") == ("relayed", ["a"])
        last_cut = mesh["b"].last_sample
    directly = [sample for sample, path in since(mesh, last_cut).items() if not path]
    assert directly[0] <= last_cut + LATE_SAMPLES
    assert shown(mesh, "b") == ("reporting", [])
    assert "reported via a" in mesh.manager.command("history", mesh["b"].agent_id).stdout
    mesh.has_all("b", directly[0])
    said = said_of_delivery(mesh["b"].log[said_before:])
    assert sorted(said) == sorted(set(said))
    # In the first report it may still have to find out that A has a way to the manager by now.
    assert [line for line in said if "no relay is known" not in line and "on disk" not in line] == [
        f"the manager cannot be reached: {why}; reports go through a at 203.0.113.11",
        "the manager takes the reports",
    ]


def test_who_missed_a_rotation_while_cut_off_reports_through_a_neighbour_under_the_old_key(mesh: Mesh) -> None:
    with cut_off(mesh, MeshNode.block, MeshNode.unblock) as last_before:
        rotate(mesh.manager.ring_file)
        rotate(RingFile(mesh["a"].folder / "ring.json"))
        mesh.wait_until(lambda: list(since(mesh, last_before).values()).count(["a"]) > 2)
        assert fingerprint(mesh, "a") == Key.from_psk(NEW_PSK).fingerprint
        assert fingerprint(mesh, "b") == KEY.fingerprint
        rotate(RingFile(mesh["b"].folder / "ring.json"))
        mesh.wait_until(lambda: fingerprint(mesh, "b") == Key.from_psk(NEW_PSK).fingerprint)
        mesh.has_all("b", max(since(mesh, last_before)))
        assert set(map(tuple, since(mesh, last_before + LATE_SAMPLES).values())) == {("a",)}


def rotate(ring_file: RingFile) -> None:
    """Let DNS have answered with the new PSK."""
    now = now_ms()
    ring_file.update(lambda stored: StoredRing(stored.ring.with_current(NEW_PSK, now), asked_at=now, answered_at=now))


def shown(mesh: Mesh, name: str) -> tuple[str, list[str]]:
    """Return what `kattila-manager agents` tells of a node: its state, and the names of the relays that it needs."""
    listed = json.loads(mesh.manager.command("agents", "--json").stdout)["agents"]
    [agent] = [agent for agent in listed if agent["agent_id"] == mesh[name].agent_id]
    return agent["state"], [relay["hostname"] for relay in agent["path"]]


def fingerprint(mesh: Mesh, name: str) -> str:
    """Return that of the key under which the newest message of a node came."""
    [(found,)] = mesh.manager.rows("SELECT fingerprint FROM agents WHERE agent_id = ?", mesh[name].agent_id)
    return str(found)


def said_of_delivery(log: str) -> list[str]:
    """Return the lines of a log that say how reports fare, without their time and level."""
    lines = (re.split(r" (?:INFO|WARNING|ERROR) ", line, maxsplit=1)[-1] for line in log.splitlines())
    return [line for line in lines if "manager" in line or "reports" in line or "on disk" in line]
