"""All tunnels of a fleet: which pairs are judged, with which ends, and when they are due."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_manager.topology.facts import Facts
from kattila_manager.topology.wireguard.ends import Standing
from kattila_manager.topology.wireguard.explanations import explain
from kattila_manager.topology.wireguard.reasons import Reason
from kattila_manager.topology.wireguard.states import TunnelState, alarm_kind
from kattila_manager.topology.wireguard.tunnels import JudgedTunnel, Tunnels
from support.counts import examples
from support.fleet import NOON, SECOND
from support.tunnel_fleet import STEP, FleetNode, Link, exchange, healthy_pair


class Watched:
    """A fleet whose nodes report every 30 s, the second one 10 s after the first one, and so on."""

    def __init__(self, *nodes: FleetNode) -> None:
        """Watch these nodes."""
        self.nodes = {node.agent_id: node for node in nodes}
        self.tunnels = Tunnels()
        self.now = NOON

    def run(self, rounds: int = 1, *, silent: str = "", is_healthy: bool = True) -> None:
        """Let all nodes but the silent ones report."""
        for _ in range(rounds):
            self.now += STEP
            if is_healthy:
                exchange((link for node in self.nodes.values() for link in node.links.values()), self.now)
            for number, node in enumerate(self.nodes.values()):
                if node.agent_id not in silent:
                    self.tunnels.settle(self.tunnels.put(node.report(self.now + number * 10 * SECOND)))

    def found(self) -> dict[str, JudgedTunnel]:
        """Return all tunnels by identity."""
        return {each.identity: each for judged in self.tunnels.judged().values() for each in judged}

    def only(self) -> JudgedTunnel:
        [tunnel] = self.found().values()
        return tunnel

    def text(self) -> str:
        tunnel = self.only()
        return explain(tunnel.verdict, tunnel.ends, [end.agent_id.upper() for end in tunnel.ends], self.now)


def watched_pair() -> Watched:
    fleet = Watched(*healthy_pair())
    fleet.run(10)
    return fleet


def test_a_healthy_pair_is_one_tunnel_with_two_ends() -> None:
    tunnel = watched_pair().only()
    assert tunnel.identity == "ka kb"
    assert [end.agent_id for end in tunnel.ends] == ["a", "b"]
    assert tunnel.verdict.state is TunnelState.UP


# --- Presence and collectors


def test_a_silent_end_and_an_unreadable_one_are_judged_by_the_other() -> None:
    fleet = watched_pair()
    fleet.tunnels.settle(fleet.tunnels.set_presence("a", Standing.SILENT))
    assert fleet.text().startswith("A is silent. B reports a handshake")
    fleet.tunnels.settle(fleet.tunnels.set_presence("a", Standing.FRESH))
    fleet.nodes["a"].is_unreadable = True
    fleet.run()
    assert fleet.text().startswith("A's WireGuard data could not be read or is incomplete. B reports")
    fleet.nodes["a"].is_unreadable = False
    fleet.run()
    assert fleet.only().verdict.reason is Reason.HANDSHAKE


def test_presence_makes_only_the_agents_own_pairs_due() -> None:
    fleet = watched_pair()
    assert fleet.tunnels.set_presence("a", Standing.FRESH) == set()
    assert fleet.tunnels.set_presence("stranger", Standing.SILENT) == set()
    assert fleet.tunnels.set_presence("a", Standing.SILENT) == {("ka", "kb")}


def test_a_late_sample_is_no_evidence_until_a_report_arrives_in_order() -> None:
    fleet = watched_pair()
    fleet.tunnels.settle(fleet.tunnels.put(fleet.nodes["a"].report(fleet.now + STEP, is_late=True)))
    assert fleet.text().startswith("A counts as silent until a report arrives in order.")
    fleet.run()
    assert fleet.only().verdict.reason is Reason.HANDSHAKE


def test_a_peer_that_an_incomplete_list_lacks_is_unknown_not_absent() -> None:
    fleet = watched_pair()
    link = fleet.nodes["b"].links["wg0"]
    link.peers = {"kc": [0, 0, 0], **link.peers}
    link.is_cut = True
    fleet.run(2)
    tunnel = fleet.found()["ka kb"]
    assert (tunnel.verdict.state, tunnel.ends[1].standing) == (TunnelState.UP, Standing.UNREADABLE)


# --- One side


def test_a_removed_peer_is_one_sided_from_the_second_sample_on() -> None:
    fleet = watched_pair()
    del fleet.nodes["b"].links["wg0"].peers["ka"]
    fleet.run()
    assert fleet.only().verdict.state is TunnelState.UNCHANGED
    fleet.run()
    verdict = fleet.only().verdict
    assert (verdict.state, verdict.fix) == (TunnelState.ONE_SIDED, (1,))
    fleet.nodes["b"].links["wg0"].peers["ka"] = [0, 0, 0]
    fleet.run()
    assert fleet.only().verdict.state is TunnelState.UP


def test_a_peer_that_one_side_adds_is_one_sided_after_the_others_next_sample() -> None:
    one, other = healthy_pair()
    peers, other.links["wg0"].peers, one.links["wg0"].peers = one.links["wg0"].peers, {}, {}
    fleet = Watched(one, other)
    fleet.run(5)
    assert fleet.found() == {}
    # A reports before B, whose sample of the round before lacks A as well: the first such sample.
    one.links["wg0"].peers = peers
    fleet.now += STEP
    fleet.tunnels.settle(fleet.tunnels.put(one.report(fleet.now)))
    assert fleet.only().verdict.state is TunnelState.UNCHANGED
    fleet.tunnels.settle(fleet.tunnels.put(other.report(fleet.now + 10 * SECOND)))
    assert fleet.only().verdict.state is TunnelState.ONE_SIDED


def test_a_pair_that_nobody_lists_any_more_is_no_tunnel() -> None:
    fleet = watched_pair()
    fleet.nodes["a"].links["wg0"].peers = {}
    fleet.nodes["b"].links["wg0"].peers = {}
    fleet.run()
    assert fleet.found() == {}
    assert fleet.tunnels.owners.pairs_of("a") == set()


# --- Keys


def test_a_changed_key_is_one_tunnel_that_names_the_side_with_the_former_key() -> None:
    fleet = watched_pair()
    fleet.nodes["b"].links["wg0"] = Link("kb2", {"ka": [0, 0, 0]})
    fleet.run(is_healthy=False)
    assert {tunnel.verdict.state for tunnel in fleet.found().values()} == {TunnelState.UNCHANGED}
    changed_at = "2026-01-31 12:05:40 UTC"
    fleet.run(is_healthy=False)
    assert fleet.only().verdict.fix == (0,)
    assert fleet.text() == f"A uses B's former key, which changed at {changed_at}. B's key is now kb2."
    fleet.nodes["a"].links["wg0"].peers = {"kb2": [0, 0, 0]}
    fleet.run()
    assert fleet.only().identity == "ka kb2"
    assert fleet.only().verdict.state is not TunnelState.ONE_SIDED


def test_a_former_key_is_named_although_its_owner_lists_nobody() -> None:
    fleet = watched_pair()
    fleet.nodes["b"].links["wg0"] = Link("kb2")
    fleet.run(2, is_healthy=False)
    assert fleet.only().identity == "ka kb"
    assert fleet.text().endswith("B's key is now kb2.")


def test_an_interface_that_no_longer_exists_is_named() -> None:
    fleet = watched_pair()
    del fleet.nodes["b"].links["wg0"]
    fleet.run(2, is_healthy=False)
    assert fleet.only().verdict.fix == (1,)
    assert fleet.text() == (
        "A has B as a peer, but B's interface wg0 does not exist since 2026-01-31 12:05:40 UTC. "
        "Start it on B, or remove B on A."
    )


def test_a_key_that_two_agents_have_up_is_not_judged() -> None:
    fleet = watched_pair()
    fleet.nodes["c"] = FleetNode("c", {"wg0": Link("kb", {"ka": [0, 0, 0]})})
    fleet.run()
    assert (fleet.only().verdict.reason, alarm_kind(fleet.only().verdict)) == (
        Reason.KEY_CLAIMED_TWICE,
        "key_claimed_twice",
    )
    # Row 61: a standby, whose interface is down.
    fleet.nodes["c"].links["wg0"].is_up = False
    fleet.run()
    assert (fleet.only().verdict.state, fleet.only().is_standby) == (TunnelState.UP, True)


def test_an_agent_that_was_replaced_on_its_machine_does_not_claim_the_key() -> None:
    fleet = watched_pair()
    fleet.nodes["c"] = FleetNode("c", {"wg0": Link("kb", {"ka": [0, 0, NOON // SECOND]})})
    fleet.run()
    fleet.tunnels.settle(fleet.tunnels.set_presence("b", Standing.SILENT))
    fleet.run(silent="b")
    tunnel = fleet.only()
    assert (tunnel.verdict.state, tunnel.ends[1].agent_id) == (TunnelState.UP, "c")


def test_two_agents_on_one_machine_are_not_a_cloned_machine() -> None:
    fleet = watched_pair()
    link = fleet.nodes["b"].links["wg0"]
    fleet.nodes["c"] = FleetNode("c", {"wg0": Link("kb", dict(link.peers))})
    for name in "bc":
        fleet.nodes[name].hardware, fleet.nodes[name].boot_id = frozenset(("00:00:5e:00:53:01",)), "same"
    fleet.run(2)
    assert fleet.only().verdict.reason is Reason.TWO_AGENTS


def test_row_63_a_key_on_two_interfaces_of_one_agent_has_a_tunnel_for_each() -> None:
    one, other = healthy_pair()
    one.links["wg1"] = Link("ka", {"kb": [0, 0, NOON // SECOND]})
    fleet = Watched(one, other)
    fleet.run(3)
    assert {identity: tunnel.verdict.state for identity, tunnel in fleet.found().items()} == {
        "ka kb wg0": TunnelState.UP,
        "ka kb wg1": TunnelState.UP,
    }


def test_rows_67_to_69_a_peer_without_an_agent_is_external_until_it_reports() -> None:
    one, other = healthy_pair()
    fleet = Watched(one)
    fleet.run(5)
    assert (fleet.only().outside, fleet.only().verdict.reason) == ("kb", Reason.EXTERNAL_UP)
    fleet.nodes["b"] = other
    fleet.run()
    assert (fleet.only().outside, fleet.only().verdict.state) == ("", TunnelState.UP)
    fleet.tunnels.settle(fleet.tunnels.remove("b"))
    assert (fleet.only().outside, fleet.only().verdict.reason) == ("kb", Reason.EXTERNAL_UP)
    assert fleet.tunnels.remove("b") == set()


def test_a_report_applied_twice_or_too_late_changes_nothing() -> None:
    fleet = watched_pair()
    facts = fleet.nodes["a"].report(fleet.now + STEP)
    assert fleet.tunnels.put(facts) == {("ka", "kb")}
    [before] = fleet.tunnels.judge(("ka", "kb"))
    assert fleet.tunnels.put(facts) == set()
    assert fleet.tunnels.put(facts._replace(sample=1, wireguard=())) == set()
    assert list(fleet.tunnels.judge(("ka", "kb"))) == [before]


# --- Any sequence of changes

# Few keys and few agents, so that keys move between agents, are claimed twice, and come back.
_AGENTS, _KEYS, _LINKS = "abcd", [f"k{number}" for number in range(7)], ("wg0", "wg1")


class Changing:
    """A fleet that changes at random, and the tunnels that are kept up to date from what is due."""

    def __init__(self, random: Random) -> None:
        """Start with nodes without interfaces."""
        self.random = random
        self.now = NOON
        self.nodes = {name: FleetNode(name, boot_id=f"boot {name}") for name in _AGENTS}
        self.events: list[Facts | tuple[str, Standing] | str] = []

    def change(self) -> Facts | tuple[str, Standing] | str:
        """Return the next event: a report, a presence, or an agent to remove."""
        name, draw = self.random.choice(_AGENTS), self.random.random()
        if draw < 0.03:
            return name
        if draw < 0.15:
            return name, self.random.choice((Standing.FRESH, Standing.SILENT, Standing.UNHEARD))
        self.now += self.random.choice((1, 5, 10, 40)) * SECOND
        node = self.nodes[name]
        self.edit(node)
        return node.report(self.now, is_late=self.random.random() < 0.05)

    def edit(self, node: FleetNode) -> None:
        random, name = self.random, self.random.choice(_LINKS)
        link = node.links.get(name)
        draw = random.random()
        if link is None or draw < 0.08:
            node.links[name] = Link(random.choice(_KEYS), {key: [0, 0, 0] for key in random.sample(_KEYS, 3)})
        elif draw < 0.12:
            del node.links[name]
        elif draw < 0.3:
            link.peers.pop(random.choice(_KEYS), None)
            link.peers.setdefault(random.choice(_KEYS), [0, 0, 0])
        elif draw < 0.4:
            link.is_up, link.is_cut = random.random() < 0.6, random.random() < 0.3
        elif draw < 0.5:
            node.is_unreadable = not node.is_unreadable
        for each in node.links.values():
            for counters in each.peers.values():
                counters[0] += random.choice((0, 148))
                counters[1] += random.choice((0, 148))
                counters[2] = random.choice((counters[2], self.now // SECOND - 30))

    def apply(self, tunnels: Tunnels, event: Facts | tuple[str, Standing] | str) -> set[tuple[str, str]]:
        if isinstance(event, Facts):
            return tunnels.put(event)
        return tunnels.remove(event) if isinstance(event, str) else tunnels.set_presence(*event)


def judged_from_scratch(tunnels: Tunnels) -> dict[tuple[str, str], tuple[JudgedTunnel, ...]]:
    judged = {pair: tuple(tunnels.judge(pair)) for pair in tunnels.owners.pairs()}
    return {pair: found for pair, found in judged.items() if found}


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(0, 2**32))
def test_judging_what_is_due_equals_judging_everything(seed: int) -> None:
    changing, tunnels, again = Changing(Random(seed)), Tunnels(), Tunnels()
    for _ in range(60):
        event = changing.change()
        tunnels.settle(changing.apply(tunnels, event))
        assert tunnels.judged() == judged_from_scratch(tunnels)
        changing.apply(again, event)
    again.settle(again.owners.pairs())
    assert again.judged() == tunnels.judged()


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_agents_changes_nothing(seed: int) -> None:
    random = Random(seed)
    changing = Changing(random)
    reports = [event for event in (changing.change() for _ in range(60)) if isinstance(event, Facts)]
    in_order, by_agent = Tunnels(), Tunnels()
    for facts in reports:
        in_order.put(facts)
    for agent_id in random.sample(_AGENTS, len(_AGENTS)):
        for facts in reports:
            if facts.agent_id == agent_id:
                by_agent.put(facts)
    assert judged_from_scratch(by_agent) == judged_from_scratch(in_order)


def _shuffled(facts: Facts, random: Random) -> Facts:
    links = [link._replace(peers=tuple(random.sample(link.peers, len(link.peers)))) for link in facts.wireguard]
    return facts._replace(wireguard=tuple(random.sample(links, len(links))))


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_in_a_report_and_repetitions_change_nothing(seed: int) -> None:
    random = Random(seed)
    changing = Changing(random)
    plain, shuffled = Tunnels(), Tunnels()
    for _ in range(60):
        event = changing.change()
        changing.apply(plain, event)
        changing.apply(shuffled, _shuffled(event, random) if isinstance(event, Facts) else event)
        if isinstance(event, Facts):
            assert shuffled.put(event) == set()
    assert judged_from_scratch(shuffled) == judged_from_scratch(plain)


def _states(tunnels: Tunnels) -> Iterator[tuple[str, str]]:
    for judged in tunnels.judged().values():
        for tunnel in judged:
            yield tunnel.identity, tunnel.verdict.state


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_reach_all_kinds_of_states(seed: int) -> None:
    changing, tunnels = Changing(Random(seed)), Tunnels()
    seen: set[str] = set()
    for _ in range(3000):
        tunnels.settle(changing.apply(tunnels, changing.change()))
        seen |= {state for _, state in _states(tunnels)}
    assert {"up", "unchanged", "one_sided", "unknown"} <= seen
