"""Who has which public key now and who had it before, and in which pairs each key occurs; updated one agent at a time.

An update returns the pairs that it makes due: all pairs in which the agent's present, previous or former keys occur.
Pairs of other agents are among them, because the owner of a key decides the state of every pair in which it occurs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

# Two public keys, the smaller one first.
Pair = tuple[str, str]
# A node whose key changes all the time must not fill the memory.
_MOST_FORMER_KEYS = 16


_Value = TypeVar("_Value")


class Former(NamedTuple):
    """A key that an agent's interface no longer has, since `ended_at` (ms UTC, manager's clock)."""

    interface: str
    ended_at: int


class _Known(NamedTuple):
    """What the index holds of one agent."""

    keys: Mapping[str, tuple[str, ...]]
    pairs: frozenset[Pair]
    former: dict[str, Former]


def pair_of(key: str, other_key: str) -> Pair:
    """Return two keys as a pair."""
    return (key, other_key) if key < other_key else (other_key, key)


class Owners:
    """The index of keys."""

    def __init__(self) -> None:
        """Create an empty index."""
        self._known: dict[str, _Known] = {}
        self._holders: defaultdict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
        self._former: defaultdict[str, dict[str, Former]] = defaultdict(dict)
        self._pairs: defaultdict[str, set[Pair]] = defaultdict(set)
        self._listed: defaultdict[Pair, int] = defaultdict(int)

    def holders(self, key: str) -> Mapping[str, tuple[str, ...]]:
        """Return the interfaces that have a key, by agent id."""
        return self._holders.get(key, {})

    def former_holders(self, key: str) -> Mapping[str, Former]:
        """Return who had a key before, by agent id."""
        return self._former.get(key, {})

    def former_keys(self, agent_id: str) -> Mapping[str, Former]:
        """Return the keys that an agent had before."""
        known = self._known.get(agent_id)
        return {} if known is None else known.former

    def pairs(self) -> Iterable[Pair]:
        """Return all pairs that any agent lists."""
        return self._listed.keys()

    def pairs_of(self, agent_id: str) -> set[Pair]:
        """Return all pairs in which a present or former key of an agent occurs."""
        known = self._known.get(agent_id)
        return set() if known is None else self._with((*known.keys, *known.former))

    def put(self, agent_id: str, keys: Mapping[str, tuple[str, ...]], pairs: frozenset[Pair], at: int) -> set[Pair]:
        """Replace an agent's keys (with their interfaces) and the pairs that it lists; return the pairs that are due.

        `at` (ms UTC) is when keys ended that it no longer has.
        """
        known = self._known.get(agent_id) or _Known({}, frozenset(), {})
        touched = {*known.keys, *known.former, *keys}
        due = self._with(touched)
        former = self._ended(agent_id, known, keys, at)
        for key in known.keys.keys() - keys.keys():
            self._discard(self._holders, key, agent_id)
        for key, interfaces in keys.items():
            self._holders[key][agent_id] = interfaces
        self._list(pairs - known.pairs, known.pairs - pairs)
        self._known[agent_id] = _Known(keys, pairs, former)
        return due | self._with(touched)

    def remove(self, agent_id: str) -> set[Pair]:
        """Forget an agent, as if it had never reported; return the pairs that are due."""
        known = self._known.pop(agent_id, None)
        if known is None:
            return set()
        due = self._with((*known.keys, *known.former))
        for key in known.keys:
            self._discard(self._holders, key, agent_id)
        for key in known.former:
            self._discard(self._former, key, agent_id)
        self._list((), known.pairs)
        return due

    def _ended(self, agent_id: str, known: _Known, keys: Mapping[str, tuple[str, ...]], at: int) -> dict[str, Former]:
        """Return the agent's former keys after the update, the newest ones last."""
        ended = {key: Former(known.keys[key][0], at) for key in sorted(known.keys.keys() - keys.keys())}
        former = {key: value for key, value in known.former.items() if key not in keys} | ended
        kept = dict(list(former.items())[-_MOST_FORMER_KEYS:])
        for key in known.former.keys() - kept.keys():
            self._discard(self._former, key, agent_id)
        for key, value in kept.items():
            self._former[key][agent_id] = value
        return kept

    def _list(self, added: Iterable[Pair], removed: Iterable[Pair]) -> None:
        for pair in added:
            self._listed[pair] += 1
            for key in pair:
                self._pairs[key].add(pair)
        for pair in removed:
            self._listed[pair] -= 1
            if not self._listed[pair]:
                del self._listed[pair]
                for key in pair:
                    self._pairs[key].discard(pair)
                    if not self._pairs[key]:
                        del self._pairs[key]

    def _with(self, keys: Iterable[str]) -> set[Pair]:
        return set().union(*(self._pairs[key] for key in keys if key in self._pairs))

    @staticmethod
    def _discard(index: defaultdict[str, dict[str, _Value]], key: str, agent_id: str) -> None:
        index[key].pop(agent_id, None)
        if not index[key]:
            del index[key]
