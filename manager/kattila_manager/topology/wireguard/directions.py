"""Which direction of a tunnel is dead, and which side to fix, if packets are lost or no handshake completes."""

from __future__ import annotations

from kattila_manager.topology.wireguard.ends import UP_MS, Measures, Side
from kattila_manager.topology.wireguard.evidence import received, tried
from kattila_manager.topology.wireguard.reasons import Reason
from kattila_manager.topology.wireguard.states import TunnelState, Verdict

BOTH = (0, 1)
# Samples arrive in steps, so "within 3 steps" covers the last two complete ones.
_RECENT_STEPS = 3
_UNSENT_STEPS = 2


def does_not_send(own: Side, measures: Measures) -> bool:
    """Return whether a side has sent nothing for longer than its keepalive allows."""
    unsent_ms = own.evidence.at - own.evidence.sent_at
    return own.has_to_send and unsent_ms >= measures.keepalive_ms + _UNSENT_STEPS * measures.step_ms


def down(measures: Measures, losses: tuple[int, int], count: int) -> Verdict:
    """Return the verdict on a tunnel that is down; a direction is dead if it lost packets in `count` intervals.

    It is certain if two kinds of evidence agree: the session is late or over, and packets are lost.
    """
    age_ms, most = measures.age_ms or 0, max(losses)
    is_late = measures.keepalive_ms > 0 and age_ms > measures.limit_ms
    is_certain = (is_late and most >= 2) or (age_ms > UP_MS and most >= 3)
    return _directions(measures, losses, count)._replace(is_certain=is_certain)


def _directions(measures: Measures, losses: tuple[int, int], count: int) -> Verdict:
    is_young = (measures.age_ms or 0) <= UP_MS
    if max(losses) < count:
        return _not_renewed(measures)
    if min(losses) >= count:
        return Verdict(TunnelState.DOWN, Reason.NEITHER_RECEIVES if is_young else Reason.NOTHING_ARRIVES)
    sender = int(losses[1] >= count)
    own, deaf = measures.sides[sender].evidence, measures.sides[1 - sender].evidence
    is_late = (measures.age_ms or 0) > measures.limit_ms
    if is_late and does_not_send(measures.sides[1 - sender], measures):
        return Verdict(TunnelState.DOWN, Reason.NOT_SENDING, 1 - sender, (1 - sender,))
    if not tried(deaf):
        return _untried(measures, sender, is_young)
    is_recent = bool(own.rx_grew) and own.at - own.received_at <= _RECENT_STEPS * measures.step_ms
    if losses[1 - sender] and not is_recent:
        return Verdict(TunnelState.DOWN, Reason.NEITHER_RECEIVES if is_young else Reason.NOTHING_ARRIVES)
    # The deaf side may pause between its attempts, of which the last one arrived.
    has_arrived = is_recent or received(own, measures.handshake_at or 0)
    return _one_way(measures, sender, is_young) if has_arrived else _untried(measures, sender, is_young)


def _one_way(measures: Measures, sender: int, is_young: bool) -> Verdict:
    """Return the verdict if only the packets of `sender` are lost."""
    deaf = 1 - sender
    if is_young:
        return Verdict(TunnelState.ONE_WAY, Reason.THREE_LOST, sender, (deaf,))
    if measures.do_preshared_keys_differ():
        return Verdict(TunnelState.REFUSED, Reason.KEY_ON_ONE_SIDE, deaf, BOTH)
    if measures.sides[0].view.has_preshared_key:
        return Verdict(TunnelState.ONE_WAY, Reason.ANSWER_OR_KEYS, deaf, (deaf,))
    return Verdict(TunnelState.ONE_WAY, Reason.ANSWER_LOST, sender, (deaf,))


def _untried(measures: Measures, sender: int, is_young: bool) -> Verdict:
    """Return the verdict if the packets of `sender` are lost, and the other side sends nothing."""
    own = measures.sides[sender]
    if own.evidence.is_clock_behind:
        return Verdict(TunnelState.DOWN, Reason.CLOCK_BEHIND, sender, (sender,))
    if is_young:
        return Verdict(TunnelState.DOWN, Reason.THREE_LOST, sender)
    if not measures.keepalive_ms:
        has_stopped = own.evidence.at - own.evidence.sent_at > _RECENT_STEPS * measures.step_ms
        return Verdict(TunnelState.DOWN, Reason.TRIED if has_stopped else Reason.NOT_ARRIVED, sender)
    reason = Reason.OTHER_NOT_TRIED if own.has_to_send else Reason.NOTHING_TO_SEND
    return Verdict(TunnelState.DOWN, reason, sender)


def _not_renewed(measures: Measures) -> Verdict:
    """Return the verdict on a session that is late, although no direction is known to lose packets.

    With a keepalive above 180 s, both ends begin a handshake at the same moment, because the session is over for both.
    Each then discards the other's answer, and both may wait for their next keepalive.
    """
    mute = tuple(each.number for each in measures.sides if does_not_send(each, measures))
    if mute:
        return Verdict(TunnelState.DOWN, Reason.NOT_SENDING, mute[0], mute)
    late_ms = measures.limit_ms + (measures.keepalive_ms if measures.keepalive_ms > UP_MS else 0)
    if (measures.age_ms or 0) <= late_ms:
        return Verdict(TunnelState.SUSPECT, Reason.LATE, span_ms=measures.limit_ms)
    return Verdict(TunnelState.DOWN, Reason.NOT_RENEWED, span_ms=late_ms)
