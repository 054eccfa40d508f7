"""The state of a tunnel and why it is in it: the result of a verdict."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from kattila_manager.topology.wireguard.reasons import Reason


class TunnelState(StrEnum):
    """The states of a tunnel. UNCHANGED means that the evidence decides nothing, so the last state stays."""

    UP = "up"
    IDLE = "idle"
    SUSPECT = "suspect"
    DOWN = "down"
    ONE_WAY = "one_way"
    REFUSED = "refused"
    NEVER = "never"
    ONE_SIDED = "one_sided"
    UNKNOWN = "unknown"
    UNCHANGED = "unchanged"


class Verdict(NamedTuple):
    """The state of a tunnel, and why.

    `first` is the number of the end that the reason's text calls A; the other one is B. `fix` holds the numbers of the
    ends to fix. The text's values: `handshake_at` and `moment` (ms UTC), `span_ms`, `key`. `keepalive` is in seconds,
    0 if no keepalive keeps the tunnel up. An external tunnel has one end only. `is_certain` means that an alarm need
    not wait for a second sample.
    """

    state: TunnelState
    reason: Reason
    first: int = 0
    fix: tuple[int, ...] = ()
    handshake_at: int | None = None
    moment: int | None = None
    span_ms: int = 0
    key: str = ""
    keepalive: int = 0
    is_external: bool = False
    is_certain: bool = False


_TUNNEL_DOWN = frozenset((TunnelState.DOWN, TunnelState.ONE_WAY, TunnelState.REFUSED))
_HAS_TRIED = frozenset((Reason.NEVER_ARRIVED, Reason.NEVER_ANSWERED))


def alarm_kind(verdict: Verdict) -> str | None:
    """Return the kind of the alarm that a verdict calls for if it lasts, None for no alarm."""
    if verdict.is_external:
        # Any other external peer may be a phone that is switched off.
        return "external_down" if verdict.state in _TUNNEL_DOWN and verdict.keepalive else None
    if verdict.state in _TUNNEL_DOWN:
        return "tunnel_down"
    if verdict.state is TunnelState.ONE_SIDED:
        return "tunnel_one_sided"
    if verdict.state is TunnelState.NEVER and verdict.reason in _HAS_TRIED:
        return "tunnel_never"
    return "key_claimed_twice" if verdict.reason is Reason.KEY_CLAIMED_TWICE else None
