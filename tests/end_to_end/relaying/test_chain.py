"""A chain of tunnels of which only the first node reaches the manager: three hops arrive, what needs four waits."""

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
    """What was seen of it: of E the numbers of its samples in 1970, the last one before it was let through, and when.

    Until then reports came by `paths` (see Mesh.paths), and `posts_at_d` were posted to D; `refused` is what D said to
    a report that would be E's.
    """

    mesh: Mesh
    paths: dict[str, dict[int, list[str]]]
    in_1970: list[int]
    last_alone: int
    began_at: int
    let_through_at: int
    posts_at_d: int
    refused: str


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """E boots in 1970, gets the time, and a way to the manager last of all."""
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
        refused, posts_at_d = as_e_to_d(mesh), mesh["d"].posts() - 1
        paths = {name: mesh.paths(name) for name in mesh.nodes}
        last_alone, let_through_at = mesh["e"].last_sample, now_ms()
        mesh["e"].unblock()
        mesh.has_all("e", last_alone)
        yield Chain(mesh, paths, in_1970, last_alone, began_at, let_through_at, posts_at_d, refused)


def as_e_to_d(mesh: Mesh) -> str:
    """Hand D a report over the tunnel as E would, and return the kind of its refusal."""
    with closing(mesh["e"].connect(mesh["d"].overlay)) as connection:
        said = sealed(report(node(5), 1, now_ms()), recipient=mesh["d"].agent_id)
        return exchange(connection, "POST", "/status/relay", said, {"Content-Type": "application/json"}).kind


@pytest.mark.parametrize(("name", "path"), [("a", []), ("b", ["a"]), ("c", ["b", "a"]), ("d", ["c", "b", "a"])])
def test_each_of_four_reports_through_those_before_it_and_loses_nothing(
    chain: Chain, name: str, path: list[str]
) -> None:
    ways = chain.paths[name]
    assert {tuple(way) for way in ways.values()} == {tuple(path)}
    chain.mesh.has_all(name, max(ways))


def test_whoever_would_need_four_relays_asks_nobody_and_would_be_refused(chain: Chain) -> None:
    assert chain.paths["e"] == {}
    assert chain.posts_at_d == 0
    assert chain.refused == "too_many_hops"


def test_what_waited_arrives_without_a_gap_once_there_is_a_way_and_is_marked_late(chain: Chain) -> None:
    late = chain.mesh.late("e")
    assert [sample for sample in late if sample <= chain.last_alone] == list(range(1, chain.last_alone + 1))
    # The last one may have been under way just when there was a way again.
    assert all(late[sample] for sample in range(1, chain.last_alone))
    assert {tuple(way) for way in chain.mesh.paths("e").values()} == {()}


def test_what_was_measured_in_1970_is_filed_under_its_true_moment(chain: Chain) -> None:
    moments = chain.mesh.sampled_at("e")
    waited = [moments[sample] or 0 for sample in range(1, chain.last_alone)]
    assert len(chain.in_1970) > 2
    assert waited == sorted(waited)
    assert chain.began_at < waited[0]
    assert waited[-1] < chain.let_through_at + 1000
