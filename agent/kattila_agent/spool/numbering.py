"""Keep the numbers of waiting samples consistent with the node's identity when either of them changes."""

from __future__ import annotations

import logging
from dataclasses import replace

from kattila_agent.identity import MAX_NUMBER, Identity
from kattila_agent.spool import Spool
from kattila_agent.spool.sample import Sample
from kattila_protocol.freshness import MAX_JUMP, MAX_SKEW_MS, highest_possible
from kattila_protocol.verdict import Verdict

_log = logging.getLogger("kattila.agent")


def start_above_spool(identity: Identity, spool: Spool) -> None:
    """Continue above the highest number that waits, in case the counters were lost.

    Samples with unusable numbers get others.

    Raises StateError.
    """
    spool.lower(MAX_NUMBER, identity.last().sample)
    identity.raise_above(identity.agent_id(), 0, spool.waiting().highest)


def believable(verdict: Verdict, now: int) -> tuple[int, int]:
    """Return a verdict's highest tick and sample at `now` (ms UTC), 0 for a number that no agent can have reached."""
    limit = highest_possible(now + MAX_SKEW_MS)
    tick, sample = verdict.highest_tick, verdict.highest_sample
    return tick if tick <= limit else 0, sample if sample <= limit else 0


def continue_above(identity: Identity, spool: Spool, agent_id: str, tick: int, sample: int, newest: Sample) -> Sample:
    """Continue above the numbers that the manager has seen of an id.

    Return the newest sample under its new number.

    If the manager has seen a sample that this node has not numbered yet, the state folder was restored from a copy, and
    everything measured since then has numbers that belong to other measurements. Only samples of this boot can be
    affected.

    Raises:
        StateError: the state folder cannot be used.
    """
    number: int | None = newest.number
    is_seen = sample >= newest.number
    if sample > identity.last().sample:
        number = spool.renumber(newest.boot_id, sample + 1).get(newest.number)
        sample = max(sample, spool.waiting().highest)
    identity.raise_above(agent_id, tick, sample)
    if is_seen and number not in spool.numbers():
        # The newest sample is not on the disk, which is full or broken, and its number may be that of another sample.
        number = identity.take().sample
    return newest if number is None else replace(newest, number=number)


def continue_below(
    identity: Identity, spool: Spool, agent_id: str, tick: int, sample: int, refused: Sample
) -> Sample | None:
    """Continue above the highest numbers that the manager accepted, which are far below those of this node.

    The numbers of this node were damaged, or came from a forged message. Samples with such numbers get new ones.

    Returns the refused sample under its new number, None if neither of this node's numbers is far above the manager's.

    Raises:
        StateError: the state folder cannot be used.
    """
    last = identity.last()
    is_tick_wrong, is_sample_wrong = last.tick > tick + MAX_JUMP, max(last.sample, refused.number) > sample + MAX_JUMP
    if not is_tick_wrong and not is_sample_wrong:
        return None
    renumbered = spool.lower(sample + MAX_JUMP, sample) if is_sample_wrong else {}
    lowered = max(sample, spool.waiting().highest)
    identity.lower(agent_id, tick if is_tick_wrong else last.tick, lowered if is_sample_wrong else last.sample)
    if refused.number <= sample + MAX_JUMP:
        return refused
    # If it is not on the disk, which is full or broken, it still needs a number.
    return replace(refused, number=renumbered.get(refused.number) or identity.take().sample)


def take_other_number(
    identity: Identity, spool: Spool, agent_id: str, tick: int, sample: int, refused: Sample
) -> Sample:
    """Give one sample a number above those that the manager has seen, because another measurement has its number.

    Returns the sample under its new number.

    Raises:
        StateError: the state folder cannot be used.
    """
    identity.raise_above(agent_id, tick, sample)
    number = identity.take().sample
    spool.rename(refused.number, number)
    return replace(refused, number=number)


def take_other_id(identity: Identity, spool: Spool, old_id: str, issued_id: str | None, boot_id: str) -> str:
    """Replace an id that another machine has, and return the new id.

    The new id is `issued_id`, or a random one if that is None. Samples of other boots are dropped: they belong to the
    other machine, which has them as well and delivers them itself.

    Raises:
        StateError: the state folder cannot be used.
    """
    spool.keep_only_boot(boot_id)
    return identity.replace(old_id, issued_id)


def reset(identity: Identity, spool: Spool, old_id: str) -> str:
    """End an id, drop its samples, and return the new id; raises StateError."""
    # Before, so that no sample of the old id is sent under the new one; after, for those that came meanwhile.
    spool.clear()
    new_id = identity.replace(old_id)
    spool.clear()
    _log.warning("reset: %s is now %s", old_id, new_id)
    return new_id
