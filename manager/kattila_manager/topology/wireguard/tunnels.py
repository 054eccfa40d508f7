"""All tunnels of the fleet: takes the facts of reports, and judges the pairs of keys that they make due.

The state after any sequence of updates equals the state judged from scratch on the same evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import NamedTuple

from kattila_manager.topology.facts import Facts
from kattila_manager.topology.wireguard.ends import Claim, End, Standing
from kattila_manager.topology.wireguard.owners import Owners, Pair
from kattila_manager.topology.wireguard.states import Verdict
from kattila_manager.topology.wireguard.verdicts import judge, judge_external
from kattila_manager.topology.wireguard.views import AgentViews, InterfaceViews


class JudgedTunnel(NamedTuple):
    """A tunnel with its verdict.

    `identity` is the pair of keys, with the name of the interface if an agent has its key on several ones. There is one
    end if the other key is not an agent's; `outside` is that key, and otherwise empty. `is_standby` says that another
    agent has one of the keys on an interface that is down.
    """

    identity: str
    ends: tuple[End, ...]
    verdict: Verdict
    outside: str = ""
    is_standby: bool = False


class _Owner(NamedTuple):
    """The agent whose views count for a key, and the interfaces that have the key."""

    agent: AgentViews
    interfaces: tuple[str, ...]
    claim: Claim


class Tunnels:
    """The evidence of all agents, and the newest verdict on each tunnel."""

    def __init__(self) -> None:
        """Start without any report."""
        self._agents: dict[str, AgentViews] = {}
        self._owners = Owners()
        self._judged: dict[Pair, tuple[JudgedTunnel, ...]] = {}

    @property
    def owners(self) -> Owners:
        """The index of keys."""
        return self._owners

    def judged(self) -> Mapping[Pair, tuple[JudgedTunnel, ...]]:
        """Return the newest verdicts by pair of keys."""
        return self._judged

    def put(self, facts: Facts) -> set[Pair]:
        """Take the facts of a report; return the pairs that are due. A report that is not newer changes nothing."""
        agent = self._agents.get(facts.agent_id)
        if agent is None:
            agent = self._agents[facts.agent_id] = AgentViews(facts.agent_id)
        elif facts.sample <= agent.sample:
            return set()
        agent.put(facts)
        return self._owners.put(agent.agent_id, agent.keys(), frozenset(agent.pairs()), facts.at)

    def set_presence(self, agent_id: str, presence: Standing) -> set[Pair]:
        """Set whether an agent is fresh, silent or unheard; return the pairs that are due."""
        agent = self._agents.get(agent_id)
        if agent is None or agent.presence is presence:
            return set()
        agent.presence = presence
        return self._owners.pairs_of(agent_id)

    def remove(self, agent_id: str) -> set[Pair]:
        """Forget an agent; return the pairs that are due."""
        self._agents.pop(agent_id, None)
        return self._owners.remove(agent_id)

    def settle(self, due: Iterable[Pair]) -> None:
        """Judge the pairs that are due."""
        for pair in due:
            if judged := tuple(self.judge(pair)):
                self._judged[pair] = judged
            else:
                self._judged.pop(pair, None)

    def judge(self, pair: Pair) -> Iterator[JudgedTunnel]:
        """Yield the tunnels of a pair of keys with their verdicts; none if no owner of a key lists the other key."""
        one, other = (self._owner(key) for key in pair)
        if one is not None and other is not None:
            yield from self._between(pair, one, other)
        elif one is not None:
            yield from self._towards(pair[1], one, pair)
        elif other is not None:
            yield from self._towards(pair[0], other, pair)

    def _owner(self, key: str) -> _Owner | None:
        """Return the owner of a key.

        An agent whose interface is down does not claim a key that another one has up. Nor does an agent that is not
        fresh: its machine may have a new agent.
        """
        holders = self._owners.holders(key)
        if not holders:
            return None
        if len(holders) == 1:
            [(agent_id, interfaces)] = holders.items()
            return _Owner(self._agents[agent_id], interfaces, Claim.SOLE)
        claims = sorted(holders, key=lambda agent_id: self._rank(agent_id, holders[agent_id]))
        best, second = claims[0], claims[1]
        owner, rival = self._agents[best], self._agents[second]
        claim = Claim.SOLE if rival.is_up(holders[second]) else Claim.STANDBY
        if self._rank(best, holders[best])[:2] == self._rank(second, holders[second])[:2] == (False, False):
            is_same = owner.boot_id == rival.boot_id and bool(owner.hardware & rival.hardware)
            claim = Claim.SAME_MACHINE if is_same else Claim.CONTESTED
        return _Owner(owner, holders[best], claim)

    def _rank(self, agent_id: str, interfaces: tuple[str, ...]) -> tuple[bool, bool, str]:
        agent = self._agents[agent_id]
        return not agent.is_up(interfaces), agent.presence is not Standing.FRESH, agent_id

    def _between(self, pair: Pair, one: _Owner, other: _Owner) -> Iterator[JudgedTunnel]:
        ones, others = _listing(one, pair[1]), _listing(other, pair[0])
        if not ones and not others:
            return
        for name, other_name in product(ones or one.interfaces[:1], others or other.interfaces[:1]):
            ends = (
                self._end(one, one.agent.interfaces[name], pair[1], other),
                self._end(other, other.agent.interfaces[other_name], pair[0], one),
            )
            identity = " ".join((*pair, *_named(one, name), *_named(other, other_name)))
            is_standby = Claim.STANDBY in (one.claim, other.claim)
            yield JudgedTunnel(identity, ends, judge(*ends), is_standby=is_standby)

    def _towards(self, key: str, own: _Owner, pair: Pair) -> Iterator[JudgedTunnel]:
        """Yield the tunnels to a key that no agent has."""
        former = self._former_end(key)
        for name in _listing(own, key):
            interface = own.agent.interfaces[name]
            identity = " ".join((*pair, *_named(own, name)))
            end = _end_of(own, interface, key)
            if former is None:
                is_standby = own.claim is Claim.STANDBY
                yield JudgedTunnel(identity, (end,), judge_external(end), outside=key, is_standby=is_standby)
            elif not self._is_superseded(interface, former):
                ends = (end, former) if pair[1] == key else (former, end)
                yield JudgedTunnel(identity, ends, judge(*ends))

    def _end(self, owner: _Owner, interface: InterfaceViews, key: str, other: _Owner) -> End:
        end = _end_of(owner, interface, key)
        if end.view is not None:
            return end
        former = self._owners.former_keys(other.agent.agent_id)
        ended = [value.ended_at for used, value in former.items() if used in interface.views]
        return end._replace(
            is_first_absence=interface.first_at == interface.at or key in interface.just_removed,
            former_key_ended_at=max(ended, default=None),
        )

    def _former_end(self, key: str) -> End | None:
        """Return the end of the agent that had a key last, None if no agent ever had it."""
        holders = self._owners.former_holders(key)
        if not holders:
            return None
        agent_id = max(holders, key=lambda each: (holders[each].ended_at, each))
        agent, former = self._agents[agent_id], holders[agent_id]
        interface = agent.interfaces.get(former.interface)
        return End(
            agent_id,
            former.interface,
            None,
            agent.standing(interface),
            at=agent.at,
            is_first_absence=agent.at <= former.ended_at,
            key_ended_at=former.ended_at,
            current_key="" if interface is None else interface.key,
        )

    def _is_superseded(self, interface: InterfaceViews, former: End) -> bool:
        """Return whether the pair with the current key shows the same mistake, so that one cause has one tunnel."""
        current = self._agents[former.agent_id].interfaces.get(former.interface)
        if current is None or current.key in interface.views:
            return False
        is_owner = former.agent_id in self._owners.holders(current.key)
        return is_owner and interface.key in current.views


def _listing(owner: _Owner, key: str) -> tuple[str, ...]:
    """Return the owner's interfaces that list a key."""
    return tuple(name for name in owner.interfaces if key in owner.agent.interfaces[name].views)


def _named(owner: _Owner, name: str) -> tuple[str, ...]:
    return (name,) if len(owner.interfaces) > 1 else ()


def _end_of(owner: _Owner, interface: InterfaceViews, key: str) -> End:
    agent = owner.agent
    return End(
        agent.agent_id,
        interface.name,
        interface.views.get(key),
        agent.standing(interface),
        interface.is_up,
        interface.fwmark,
        at=interface.at,
        current_key=interface.key,
        claim=owner.claim,
    )
