"""A chain of tunnels from the manager: reports arrive over three relays, but not over four."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from support import agent_with_clock
from support.agent_with_clock import set_clock
from support.manager import exchange, now_ms
from support.mesh import Mesh, new_mesh
from support.reports import node, report, sealed

CHAIN = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]


@dataclass(frozen=True)
class Chain:
    """The observations: E's samples from 1970, its last sample before it reached the manager, and when it did.

    `paths` are the relay paths of all reports until then (see Mesh.paths), `posts_at_d` counts the POST requests to D,
    and `refused` is the kind of D's refusal of a report from E.
    """

    mesh: Mesh
    paths: dict[str, dict[int, list[str]]]
    in_1970: list[int]
    last_isolated: int
    began_at: int
    connected_at: int
    posts_at_d: int
    refused: str


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """E boots with a clock of 1970, then gets the right time, and finally a route to the manager."""
    folder, began_at = tmp_path_factory.mktemp("chain"), now_ms()
    clock = folder / "clock"
    with new_mesh(folder, "abcde", CHAIN) as mesh:
        for name in "bcde":
            mesh[name].block()
        mesh["d"].count_posts()
        set_clock(clock, 5000 - began_at)
        mesh.manager.start()
        for name in "abcd":
            mesh[name].start()
        mesh["e"].start([sys.executable, agent_with_clock.__file__, str(clock)])
        mesh.arrives("d", ["c", "b", "a"])
        mesh.wait_until(lambda: len(mesh["e"].waiting) > 2)
        set_clock(clock, 0)
        in_1970 = mesh["e"].waiting
        mesh.wait_until(lambda: len(mesh["e"].waiting) > len(in_1970) + 4)
        refused, posts_at_d = refusal_of_e_by_d(mesh), mesh["d"].posts() - 1
        paths = {name: mesh.paths(name) for name in mesh.nodes}
        last_isolated, connected_at = mesh["e"].last_sample, now_ms()
        mesh["e"].unblock()
        mesh.has_all("e", last_isolated)
        yield Chain(mesh, paths, in_1970, last_isolated, began_at, connected_at, posts_at_d, refused)


def refusal_of_e_by_d(mesh: Mesh) -> str:
    """Send D a report over the tunnel as E would, and return the kind of its refusal."""
    with closing(mesh["e"].connect(mesh["d"].overlay)) as connection:
        content = sealed(report(node(5), 1, now_ms()), recipient=mesh["d"].agent_id)
        return exchange(connection, "POST", "/status/relay", content, {"Content-Type": "application/json"}).kind


@pytest.mark.parametrize(("name", "path"), [("a", []), ("b", ["a"]), ("c", ["b", "a"]), ("d", ["c", "b", "a"])])
def test_each_of_four_nodes_reports_through_those_before_it_and_loses_nothing(
    chain: Chain, name: str, path: list[str]
) -> None:
    paths = chain.paths[name]
    assert {tuple(used) for used in paths.values()} == {tuple(path)}
    chain.mesh.has_all(name, max(paths))


def test_a_node_that_needs_four_relays_uses_none_and_would_be_refused(chain: Chain) -> None:
    assert chain.paths["e"] == {}
    assert chain.posts_at_d == 0
    assert chain.refused == "too_many_hops"


def test_spooled_samples_arrive_without_gap_and_are_marked_late(chain: Chain) -> None:
    late = chain.mesh.late("e")
    assert [sample for sample in late if sample <= chain.last_isolated] == list(range(1, chain.last_isolated + 1))
    # The last one may have been in transit when the node got its route.
    assert all(late[sample] for sample in range(1, chain.last_isolated))
    assert {tuple(path) for path in chain.mesh.paths("e").values()} == {()}


def test_samples_with_a_clock_of_1970_are_filed_under_their_true_time(chain: Chain) -> None:
    times = chain.mesh.sampled_at("e")
    spooled = [times[sample] or 0 for sample in range(1, chain.last_isolated)]
    assert len(chain.in_1970) > 2
    assert spooled == sorted(spooled)
    assert chain.began_at < spooled[0]
    assert spooled[-1] < chain.connected_at + 1000
