"""The reports that the next report of each agent is compressed against, as far as this process filed them itself.

Processes need not agree on groups: each report names its base. A process that knows no group of an agent starts one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from kattila_manager.records import VerifiedReport
from kattila_manager.store.compression import CHAIN, GROUP_MS, GROUP_SIZE, Group, compress

# Two DATA of a few kB per agent: tens of MB at most. Agents with larger reports are remembered for less long.
_MAX_AGENTS = 4096
_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CompressedReport:
    """A report with its compressed body, which needs `depth` other reports to be read.

    `base_id` and `key_id` are None if it is the key of a new group.
    """

    verified: VerifiedReport
    body: bytes
    base_id: int | None
    key_id: int | None
    depth: int = 0


class CompressionGroups:
    """The newest group of each agent. Any thread may compress; only the writer's thread calls `note_commit`."""

    def __init__(self) -> None:
        """Start with no groups."""
        self._groups: OrderedDict[str, Group] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._bytes = 0

    def compress(self, verified: VerifiedReport) -> CompressedReport:
        """Compress a report against a report that is committed, or as the key of a new group."""
        group = self._groups.get(verified.report.agent_id)
        is_full = group is not None and (
            group.size >= GROUP_SIZE or not 0 <= verified.received_at - group.started_at <= GROUP_MS
        )
        if group is None or is_full:
            return CompressedReport(verified, compress(verified.data, None), None, None)
        (base_id, base), depth = (group.key, 1) if group.depth >= CHAIN else (group.previous, group.depth + 1)
        return CompressedReport(verified, compress(verified.data, base), base_id, group.key[0], depth)

    def note_commit(self, compressed: CompressedReport, report_id: int) -> None:
        """Remember a report that is now in the database."""
        agent_id, newest = compressed.verified.report.agent_id, (report_id, compressed.verified.data)
        group = self._groups.get(agent_id)
        if group is None or compressed.key_id is None:
            group = Group(newest, newest, depth=0, size=1, started_at=compressed.verified.received_at)
        elif compressed.key_id == group.key[0]:
            group = Group(group.key, newest, compressed.depth, group.size + 1, group.started_at)
        self._groups[agent_id] = group
        self._groups.move_to_end(agent_id)
        self._bytes -= self._sizes.get(agent_id, 0)
        self._sizes[agent_id] = len(group.key[1]) + len(group.previous[1])
        self._bytes += self._sizes[agent_id]
        while len(self._groups) > _MAX_AGENTS or self._bytes > _MAX_BYTES:
            oldest, _ = self._groups.popitem(last=False)
            self._bytes -= self._sizes.pop(oldest)
