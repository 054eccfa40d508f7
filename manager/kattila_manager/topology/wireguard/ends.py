"""The two ends of a pair of public keys, as a verdict reads them, and what only both together show."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from kattila_manager.topology.wireguard.evidence import Evidence, lost

UP_MS = 180_000
# Three initiations may be lost before a renewal is late.
_LATE_MS = 15_000
_STEPS_OF_A_RUN = 3


class Standing(StrEnum):
    """Whether an end's newest sample counts as evidence: only if it is fresh.

    The agent is silent; the manager was not listening; the newest sample came late from the agent's spool; or the
    agent could not read its WireGuard interfaces or reported an incomplete list of peers.
    """

    FRESH = "fresh"
    SILENT = "silent"
    UNHEARD = "unheard"
    LATE = "late"
    UNREADABLE = "unreadable"


class Claim(StrEnum):
    """Whether an agent is the only one with its key.

    Another agent has it on an interface that is down; another has it on one that is up; or that other agent runs on
    the same machine.
    """

    SOLE = "sole"
    STANDBY = "standby"
    CONTESTED = "contested"
    SAME_MACHINE = "same_machine"


class View(NamedTuple):
    """One agent's row for the other end's key, with the evidence of its samples.

    `keepalive` is in seconds, 0 for off. `listed_at` is when the peer was first reported (ms UTC, manager's clock).
    """

    keepalive: int
    endpoint: str | None
    has_preshared_key: bool
    listed_at: int
    evidence: Evidence


class End(NamedTuple):
    """One end of a pair: an agent's interface with one of the two keys, and its view of the other key.

    `view` is None if the interface does not list the other key. Then `at` is its newest complete sample,
    `is_first_absence` says that no earlier sample lacked the key, and `former_key_ended_at` is set if it lists a former
    key of the other end: the time when that key ended. `key_ended_at` is when the agent stopped using the pair's key,
    None if it has it; `current_key` is the key that it uses now. Times are ms UTC by the manager's clock.
    """

    agent_id: str
    interface: str
    view: View | None
    standing: Standing = Standing.FRESH
    is_up: bool = True
    fwmark: int = 0
    at: int = 0
    is_first_absence: bool = False
    former_key_ended_at: int | None = None
    key_ended_at: int | None = None
    current_key: str = ""
    claim: Claim = Claim.SOLE

    @property
    def is_fresh(self) -> bool:
        """Whether the newest sample of this end counts as evidence."""
        return self.standing is Standing.FRESH


class Side(NamedTuple):
    """An end that lists the other one; `number` is 0 or 1."""

    number: int
    end: End
    view: View
    evidence: Evidence

    @property
    def has_to_send(self) -> bool:
        """Whether a keepalive makes this side send: it is above 0, the interface is up, and it knows an endpoint."""
        return self.view.keepalive > 0 and self.end.is_up and self.view.endpoint is not None


def side(number: int, end: End) -> Side:
    """Return an end that lists the other one.

    Raises:
        ValueError: it does not list the other end.
    """
    if end.view is None:
        raise ValueError("the end has no view: judge it as an end that does not list the other one")
    return Side(number, end, end.view, end.view.evidence)


class Measures(NamedTuple):
    """What both sides together show. Durations are in ms, times ms UTC; `keepalive_ms` is 0 without a keepalive.

    `age_ms` is the time from the newest handshake to the older sample, None if no handshake is known. `silence_ms` is
    how long neither side has received anything. `losses` is in how many intervals a side's packets were lost, for
    both sides.
    """

    sides: tuple[Side, ...]
    handshake_at: int | None
    age_ms: int | None
    keepalive_ms: int
    step_ms: int
    is_short: bool

    @property
    def limit_ms(self) -> int:
        """The age from which a renewal is late."""
        return UP_MS + self.keepalive_ms + _LATE_MS

    @property
    def silence_ms(self) -> int:
        """How long no side has received anything."""
        return min(each.evidence.at - each.evidence.received_at for each in self.sides)

    def do_preshared_keys_differ(self) -> bool:
        """Return whether one side has a preshared key and the other has none."""
        return self.sides[0].view.has_preshared_key != self.sides[1].view.has_preshared_key

    def losses(self) -> tuple[int, int]:
        """Return in how many intervals packets of the first and of the second side were lost."""
        one, other = self.sides[0].evidence, self.sides[1].evidence
        losses = lost(one, other, self._counts_from(other)), lost(other, one, self._counts_from(one))
        if (self.age_ms or 0) > UP_MS:
            return losses
        # The kernel does not count data from a source outside AllowedIPs, but handshakes succeed, so nothing is lost.
        return 0 if _discards(other) else losses[0], 0 if _discards(one) else losses[1]

    def _counts_from(self, receiver: Evidence) -> int:
        """Return from when packets that do not reach a receiver count as lost (ms UTC).

        A handshake proves both directions, even if one side has not reported since. A receiver that restarted discards
        packets of the session that it lost. The sender notices nothing, because keepalives are never answered, and
        renews the session after 180 s.
        """
        if self.handshake_at is None:
            return 0
        is_lost = receiver.handshake_at is None or receiver.restarted_at > self.handshake_at
        return self.handshake_at + UP_MS if is_lost else self.handshake_at


def _discards(receiver: Evidence) -> bool:
    """Return whether the interface discarded packets since this peer's rx last grew."""
    return receiver.discarded_at > receiver.received_at


def measure(judged: tuple[Side, ...], known: tuple[Side, ...]) -> Measures:
    """Return the measures of the sides whose evidence counts; handshakes and keepalives count of all known sides."""
    handshake_at, keepalive = None, 0
    for each in known:
        at = each.evidence.handshake_at
        if at is not None and (handshake_at is None or at > handshake_at):
            handshake_at = at
        if each.has_to_send and (keepalive == 0 or each.view.keepalive < keepalive):
            keepalive = each.view.keepalive
    # Plain loops: a publisher judges thousands of tunnels in one cycle.
    older, step_ms, youngest_ms = judged[0].evidence.at, 0, judged[0].evidence.run_ms
    for each in judged:
        evidence = each.evidence
        older, step_ms = min(older, evidence.at), max(step_ms, evidence.step_ms)
        youngest_ms = min(youngest_ms, evidence.run_ms)
    return Measures(
        judged,
        handshake_at,
        None if handshake_at is None else max(0, older - handshake_at),
        keepalive * 1000,
        step_ms,
        youngest_ms < keepalive * 1000 + _STEPS_OF_A_RUN * step_ms,
    )
