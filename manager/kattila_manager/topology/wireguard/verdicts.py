"""The verdict on a WireGuard tunnel from the evidence of its ends: the first rule that applies decides.

A verdict is a function of evidence and never of the time now, so no tunnel has to be judged again because time passed.
The rules and the reasons for them are in docs/decisions/0022-tunnel-verdicts.md.
"""

from __future__ import annotations

from kattila_manager.topology.presence import MISSED_REPORTS
from kattila_manager.topology.wireguard.directions import BOTH, does_not_send, down
from kattila_manager.topology.wireguard.ends import UP_MS, Claim, End, Measures, Side, Standing, measure, side
from kattila_manager.topology.wireguard.evidence import AHEAD_MS, received, tried
from kattila_manager.topology.wireguard.reasons import Reason
from kattila_manager.topology.wireguard.states import TunnelState, Verdict

_DELIVERY_MS = 5000
# The initiator renews a session when it sends after 120 s, or once when it receives after 165 s.
_SENDER_RENEWS_MS = 120_000
_RECEIVER_RENEWS_MS = 165_000
_TRIES = 4


def judge(a: End, b: End) -> Verdict:
    """Return the verdict on a tunnel between two agents, of which at least one lists the other.

    Raises:
        ValueError: neither end lists the other one.
    """
    if Claim.CONTESTED in (a.claim, b.claim):
        return Verdict(TunnelState.UNKNOWN, Reason.KEY_CLAIMED_TWICE, int(a.claim is not Claim.CONTESTED), BOTH)
    if Claim.SAME_MACHINE in (a.claim, b.claim):
        return Verdict(TunnelState.UNKNOWN, Reason.TWO_AGENTS, int(a.claim is not Claim.SAME_MACHINE))
    if a.view is None:
        return _listed_by_one(side(1, b), a)
    if b.view is None:
        return _listed_by_one(side(0, a), b)
    sides = (side(0, a), side(1, b))
    fresh = tuple(each for each in sides if each.end.is_fresh)
    if not fresh:
        return _unknown(sides)
    measures = measure(fresh, sides)
    verdict = _judge_one(measures, sides) if len(fresh) == 1 else _judge_both(measures)
    return _held(verdict, measures)


def judge_external(a: End) -> Verdict:
    """Return the verdict on a tunnel to a key that is not an agent's.

    Raises:
        ValueError: the end lists no peer.
    """
    own = side(0, a)
    if not a.is_fresh:
        reason = Reason.UNREADABLE if a.standing is Standing.UNREADABLE else Reason.EXTERNAL_UNKNOWN
        fix = (0,) if a.standing is Standing.UNREADABLE else ()
        return Verdict(TunnelState.UNKNOWN, reason, fix=fix, moment=own.evidence.at, is_external=True)
    measures = measure((own,), (own,))
    return _held(_external(own, measures), measures)._replace(is_external=True)


def _held(verdict: Verdict, measures: Measures) -> Verdict:
    """Return the verdict, without its state if the run is too short for any state but up."""
    if measures.is_short and verdict.state is not TunnelState.UP:
        verdict = Verdict(TunnelState.UNCHANGED, Reason.SHORT_RUN)
    return verdict._replace(handshake_at=measures.handshake_at, keepalive=measures.keepalive_ms // 1000)


# --- One side lists the other, or neither is fresh


def _listed_by_one(own: Side, other: End) -> Verdict:
    verdict = _one_sided(own, other)
    return verdict._replace(handshake_at=own.evidence.handshake_at)


def _one_sided(own: Side, other: End) -> Verdict:
    number, their = own.number, 1 - own.number
    if not (own.end.is_fresh and other.is_fresh):
        return _stale(own, other)
    # A rollout changes both ends at different times, so the second sample without the peer decides.
    if other.is_first_absence or other.at <= own.view.listed_at:
        return Verdict(TunnelState.UNCHANGED, Reason.ABSENT_ONCE, number)
    if other.key_ended_at is not None and not other.current_key:
        return Verdict(TunnelState.ONE_SIDED, Reason.INTERFACE_GONE, number, (their,), moment=other.key_ended_at)
    if other.key_ended_at is not None:
        return _former_key(number, other.key_ended_at, other.current_key)
    if other.former_key_ended_at is not None:
        return _former_key(their, other.former_key_ended_at, own.end.current_key)
    handshake_at = own.evidence.handshake_at
    is_young = handshake_at is not None and own.evidence.at - handshake_at <= UP_MS
    reason = Reason.REMOVED if is_young else Reason.NOT_LISTED
    return Verdict(TunnelState.ONE_SIDED, reason, number, (their,))


def _former_key(user: int, moment: int, key: str) -> Verdict:
    return Verdict(TunnelState.ONE_SIDED, Reason.FORMER_KEY, user, (user,), moment=moment, key=key)


def _stale(own: Side, other: End) -> Verdict:
    number, their = own.number, 1 - own.number
    standings = ((number, own.end.standing), (their, other.standing))
    failing = tuple(end for end, standing in standings if standing is Standing.UNREADABLE)
    if failing:
        return Verdict(TunnelState.UNKNOWN, Reason.UNREADABLE, failing[0], failing)
    reason = Reason.STALE_ABSENCE if own.end.is_fresh else Reason.STALE_LISTING
    return Verdict(TunnelState.UNKNOWN, reason, number)


def _unknown(sides: tuple[Side, Side]) -> Verdict:
    newest = max(each.evidence.at for each in sides)
    handshake_at = max(each.evidence.handshake_at or 0 for each in sides) or None
    failing = tuple(each.number for each in sides if each.end.standing is Standing.UNREADABLE)
    if failing:
        return Verdict(TunnelState.UNKNOWN, Reason.UNREADABLE, failing[0], failing, handshake_at, newest)
    return Verdict(TunnelState.UNKNOWN, Reason.NOBODY_REPORTS, 0, (), handshake_at, newest)


# --- One side is fresh: its word alone decides. In the texts A is the other side.


def _judge_one(measures: Measures, sides: tuple[Side, Side]) -> Verdict:
    own = measures.sides[0]
    absent = 1 - own.number
    if not own.end.is_up:
        return _interface_down(measures)
    if measures.age_ms is None:
        return Verdict(TunnelState.NEVER, Reason.NEVER_BY_ONE, absent)
    if measures.age_ms <= UP_MS:
        return Verdict(TunnelState.UP, Reason.UP_BY_ONE, absent)
    tries = tried(own.evidence)
    if _has_failed_alone(measures, tries):
        return Verdict(TunnelState.DOWN, Reason.DOWN_BY_ONE, absent)
    if measures.keepalive_ms:
        return _due(measures)
    return Verdict(TunnelState.SUSPECT, Reason.TRYING, own.number) if tries else _idle(sides)


def _has_failed_alone(measures: Measures, tries: int) -> bool:
    if not measures.keepalive_ms:
        return tries >= 3
    return (measures.age_ms or 0) > measures.limit_ms or (tries >= 2 and _is_silent(measures))


def _external(own: Side, measures: Measures) -> Verdict:
    if not own.end.is_up:
        return _interface_down(measures)
    if measures.age_ms is None:
        return Verdict(TunnelState.NEVER, Reason.EXTERNAL_NEVER)
    if measures.age_ms <= UP_MS:
        return Verdict(TunnelState.UP, Reason.EXTERNAL_UP)
    if not measures.keepalive_ms:
        return Verdict(TunnelState.IDLE, Reason.EXTERNAL_IDLE)
    is_late, is_mute = measures.age_ms > measures.limit_ms, does_not_send(own, measures)
    if is_late and (is_mute or tried(own.evidence) >= 2):
        return Verdict(TunnelState.DOWN, Reason.NOT_SENDING if is_mute else Reason.EXTERNAL_DOWN, fix=(0,))
    return _due(measures)


# --- Both sides are fresh


def _judge_both(measures: Measures) -> Verdict:
    if not (measures.sides[0].end.is_up and measures.sides[1].end.is_up):
        return _interface_down(measures)
    if measures.age_ms is None:
        return _never(measures)
    losses = measures.losses()
    if measures.age_ms > UP_MS:
        return _old(measures, losses)
    most = max(losses)
    return _up(measures) if most < 2 else _suspect(losses) if most < 3 else down(measures, losses, 3)


def _old(measures: Measures, losses: tuple[int, int]) -> Verdict:
    """Return the verdict if the newest session can no longer carry packets."""
    handshake_at = measures.handshake_at or 0
    if all(received(each.evidence, handshake_at) >= 2 for each in measures.sides):
        return Verdict(TunnelState.REFUSED, Reason.NOTHING_COMPLETES, fix=BOTH)
    if not measures.keepalive_ms:
        return _without_keepalive(measures, losses)
    is_late, most = (measures.age_ms or 0) > measures.limit_ms, max(losses)
    if is_late or most >= 3 or (most >= 2 and _is_silent(measures)):
        return _restarted(measures, down(measures, losses, 2))
    return _due(measures)


def _interface_down(measures: Measures) -> Verdict:
    down = tuple(each.number for each in measures.sides if not each.end.is_up)
    state = TunnelState.NEVER if measures.handshake_at is None else TunnelState.DOWN
    return Verdict(state, Reason.INTERFACE_DOWN, down[0], down)


def _never(measures: Measures) -> Verdict:
    since = max(each.evidence.run_at for each in measures.sides)
    gets = [received(each.evidence, since) for each in measures.sides]
    if min(gets) >= 2:
        return Verdict(TunnelState.REFUSED, Reason.NOTHING_COMPLETES, fix=BOTH)
    deaf = next((each for each in measures.sides if not each.evidence.rx_grew), None)
    if deaf is not None and gets[1 - deaf.number] >= 2 and measures.do_preshared_keys_differ():
        return Verdict(TunnelState.REFUSED, Reason.KEY_ON_ONE_SIDE, deaf.number, BOTH)
    if deaf is not None and gets[1 - deaf.number] >= _TRIES:
        return Verdict(TunnelState.NEVER, Reason.NEVER_ANSWERED, deaf.number, (deaf.number,))
    if all(each.view.endpoint is None for each in measures.sides):
        return Verdict(TunnelState.NEVER, Reason.NO_ENDPOINTS, fix=BOTH)
    return _never_tried(measures)


def _never_tried(measures: Measures) -> Verdict:
    losses = measures.losses()
    sender = int(losses[1] > losses[0])
    if losses[sender] >= _TRIES:
        span_ms = _TRIES * measures.sides[sender].evidence.reading.interval_ms
        return Verdict(TunnelState.NEVER, Reason.NEVER_ARRIVED, sender, span_ms=span_ms)
    senders = [each.number for each in measures.sides if each.evidence.tx_grew]
    if not senders:
        return Verdict(TunnelState.NEVER, Reason.NEVER_TRIED)
    return Verdict(TunnelState.NEVER, Reason.NEVER_YET, sender if sender in senders else senders[0])


def _up(measures: Measures) -> Verdict:
    handshake_at = measures.handshake_at or 0
    for each in measures.sides:
        evidence = each.evidence
        shift_ms = evidence.clock_shift_ms
        if shift_ms > AHEAD_MS:
            return Verdict(TunnelState.UP, Reason.CLOCK_JUMPED, each.number)
        if shift_ms < -AHEAD_MS:
            return Verdict(TunnelState.UP, Reason.CLOCK_WENT_BACK, each.number)
        if evidence.restarted_at > handshake_at:
            return Verdict(TunnelState.UP, _RESTARTS.get(evidence.restart or "", Reason.HANDSHAKE), each.number)
    age_ms, keepers = measures.age_ms or 0, [each.number for each in measures.sides if each.has_to_send]
    if age_ms <= _SENDER_RENEWS_MS:
        return Verdict(TunnelState.UP, Reason.HANDSHAKE)
    if age_ms <= _RECEIVER_RENEWS_MS or len(keepers) != 1:
        return Verdict(TunnelState.UP, Reason.RENEWED_BY_SENDER)
    return Verdict(TunnelState.UP, Reason.RENEWED_BY_RECEIVER, 1 - keepers[0])


_RESTARTS = {"reboot": Reason.REBOOTED, "recreated": Reason.RECREATED}


def _suspect(losses: tuple[int, int]) -> Verdict:
    sender = int(losses[1] > losses[0])
    return Verdict(TunnelState.SUSPECT, Reason.TWO_LOST, sender, (1 - sender,))


def _without_keepalive(measures: Measures, losses: tuple[int, int]) -> Verdict:
    if max(losses) >= 3:
        return _restarted(measures, down(measures, losses, 3))
    if max(losses) >= 1:
        return Verdict(TunnelState.SUSPECT, Reason.TRYING, int(losses[1] > losses[0]))
    return _restarted(measures, _idle(measures.sides))


def _restarted(measures: Measures, verdict: Verdict) -> Verdict:
    """Return the verdict, with another reason if the counters of both sides restarted since the last handshake."""
    handshake_at = measures.handshake_at or 0
    if any(each.evidence.restarted_at <= handshake_at for each in measures.sides):
        return verdict
    if verdict.state not in (TunnelState.DOWN, TunnelState.IDLE):
        return verdict
    return verdict._replace(reason=Reason.BOTH_RESTARTED, moment=handshake_at)


def _idle(sides: tuple[Side, ...]) -> Verdict:
    for each in sides:
        if each.view.keepalive > 0 and each.view.endpoint is None:
            return Verdict(TunnelState.IDLE, Reason.NO_ENDPOINT, each.number)
    return Verdict(TunnelState.IDLE, Reason.IDLE)


def _due(measures: Measures) -> Verdict:
    """Return the verdict on a session that is due for renewal, but not late."""
    newest = max(each.evidence.at for each in measures.sides)
    oldest = min(measures.sides, key=lambda each: each.evidence.at)
    if newest - (measures.handshake_at or 0) > measures.limit_ms:
        span_ms = MISSED_REPORTS * oldest.evidence.reading.interval_ms
        return Verdict(TunnelState.SUSPECT, Reason.OVERDUE_BY_ONE, oldest.number, span_ms=span_ms)
    if measures.silence_ms > measures.keepalive_ms:
        return Verdict(TunnelState.SUSPECT, Reason.QUIET, span_ms=measures.silence_ms)
    return Verdict(TunnelState.SUSPECT, Reason.RENEWAL_DUE, span_ms=measures.limit_ms)


def _is_silent(measures: Measures) -> bool:
    return measures.silence_ms >= measures.keepalive_ms + measures.step_ms + _DELIVERY_MS
