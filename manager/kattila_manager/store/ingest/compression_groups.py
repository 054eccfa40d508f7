"""What the next report of each agent is compressed against, as far as this process filed it itself.

May live here: a bounded memory of groups. It needs no agreement between processes: each report names its base, and a
process that knows no group of an agent begins one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from kattila_manager.records import Incoming
from kattila_manager.store import compression

# Two DATA of some kB each for every agent: tens of MB at the most.
_MAX_AGENTS = 4096


@dataclass(frozen=True, slots=True)
class Prepared:
    """A report with its compressed body, which takes `depth` others to read.

    `base_id` and `key_id` are None if it is the key of a new group.
    """

    incoming: Incoming
    body: bytes
    base_id: int | None
    key_id: int | None
    depth: int = 0


class Groups:
    """The newest group of each agent. Any thread may prepare; the one that commits remembers."""

    def __init__(self) -> None:
        """Begin with no group."""
        self._groups: OrderedDict[str, compression.Group] = OrderedDict()

    def prepare(self, incoming: Incoming) -> Prepared:
        """Compress a report against what is known to be committed."""
        group = self._groups.get(incoming.report.agent_id)
        if group is None or group.is_full(incoming.received_at):
            return Prepared(incoming, compression.compress(incoming.data, None), None, None)
        base_id, base, depth = group.base()
        return Prepared(incoming, compression.compress(incoming.data, base), base_id, group.key[0], depth)

    def committed(self, prepared: Prepared, report_id: int) -> None:
        """Remember a report that is in the database now."""
        agent_id, data = prepared.incoming.report.agent_id, prepared.incoming.data
        group = self._groups.get(agent_id)
        if group is None or prepared.key_id is None:
            group = compression.new_group(report_id, data, prepared.incoming.received_at)
        elif prepared.key_id == group.key[0]:
            group = group.with_next(report_id, data, prepared.depth)
        self._groups[agent_id] = group
        self._groups.move_to_end(agent_id)
        if len(self._groups) > _MAX_AGENTS:
            self._groups.popitem(last=False)
