"""What the numbers of samples that wait have to do with the node's identity.

May live here: the two events that touch both: the manager knows higher numbers than this node, and the node gets
another id. Not here: the files of either (identity, spool).
"""

from __future__ import annotations

from kattila_agent.identity import Identity
from kattila_agent.spool import Spool


def catch_up(identity: Identity, spool: Spool) -> None:
    """Go on above the highest number that waits, as after the counters were lost; raises StateError."""
    identity.raise_above(identity.agent_id(), 0, spool.waiting().highest)


def go_on_above(identity: Identity, spool: Spool, agent_id: str, tick: int, sample: int, boot_id: str) -> None:
    """Go on above the numbers that the manager knows of an id.

    If the manager knows a sample that this node has not numbered yet, the state folder was set back, and what was
    measured since then carries numbers of other measurements. That can only be samples of this boot.

    Raises:
        StateError: the state folder cannot be used.
    """
    if sample > identity.last().sample:
        sample = spool.renumber(boot_id, sample + 1) - 1
    identity.raise_above(agent_id, tick, sample)


def leave(identity: Identity, spool: Spool, old_id: str, issued_id: str | None, boot_id: str) -> str:
    """Take another id, since another machine holds this one, and return it.

    What another boot has measured is then the other machine's, which has it too and delivers it itself.

    Raises:
        StateError: see `go_on_above`.
    """
    spool.keep_only_boot(boot_id)
    return identity.replace(old_id, issued_id)
