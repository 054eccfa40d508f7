"""No report is lost: real agents behind real tunnels, whose way to the real manager is cut in several ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.mesh import Mesh, MeshNode, new_mesh

# Of the node's own interval; a machine that is busy with other tests may take longer for anything.
PATIENCE_SECONDS = 30


def start_and_wait(mesh: Mesh, **more: str) -> None:
    """Start all, and wait until each node has reported and been asked by its neighbours."""
    mesh.start(**more)
    for name in mesh.nodes:
        mesh.wait_until(lambda name=name: len(mesh.paths(name)) > 1, PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("cut", "mend"),
    [(MeshNode.block, MeshNode.unblock), (MeshNode.drop, MeshNode.stop_dropping)],
    ids=["route", "drop"],
)
def test_a_node_that_is_cut_off_reports_through_a_neighbour_and_directly_again(
    cut: Callable[[MeshNode], None], mend: Callable[[MeshNode], None], tmp_path: Path
) -> None:
    with new_mesh(tmp_path, ["a", "b"], [("a", "b")]) as mesh:
        start_and_wait(mesh)
        cut(mesh["b"])
        through = mesh.arrives("b", ["a"], PATIENCE_SECONDS)
        mend(mesh["b"])
        direct = mesh.arrives("b", [], PATIENCE_SECONDS)
        assert direct > through
        mesh.has_all("b", direct, PATIENCE_SECONDS)
        assert "reports go through a at 203.0.113.11" in mesh["b"].log


def test_a_chain_of_four_reports_and_a_fifth_keeps_what_it_measures(tmp_path: Path) -> None:
    tunnels = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]
    with new_mesh(tmp_path, "abcde", tunnels) as mesh:
        for name in "bcde":
            mesh[name].block()
        mesh.start()
        mesh.arrives("b", ["a"], 4 * PATIENCE_SECONDS)
        mesh.arrives("c", ["b", "a"], 4 * PATIENCE_SECONDS)
        mesh.arrives("d", ["c", "b", "a"], 4 * PATIENCE_SECONDS)
        mesh.wait_until(lambda: len(mesh["e"].waiting) > 3, PATIENCE_SECONDS)
        assert mesh.paths("e") == {}
        waiting = max(mesh["e"].waiting)
        mesh["e"].unblock()
        mesh.has_all("e", waiting, PATIENCE_SECONDS)
        assert all(late for sample, late in mesh.late("e").items() if sample <= waiting)
        for name in "bcd":
            mesh.has_all(name, max(mesh.paths(name)), PATIENCE_SECONDS)
