"""DATA to few bytes and back: zstandard with an earlier DATA of the same agent as dictionary.

May live here: compression, and which earlier report serves as base, as pure functions of values. Two reports of one
agent differ in counters and moments alone, so that the report before is the best dictionary there is. Reports form
groups: a key report is compressed alone, the others against the one before, and against the key where that one needs
eight others already. So no report needs more than eight others to be read, and a group is kept or pruned as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import zstandard

# Eight others are still cheap to read; a longer chain saves little.
CHAIN = 8
# A key costs about eight times what another report does; a group is two hours of one agent.
GROUP_SIZE = 240
# A group does not span a long silence, so that retention by age stays near its word.
GROUP_MS = 2 * 60 * 60 * 1000
# Twice the largest DATA that is ever accepted.
_MAX_BYTES = 2 * 1024 * 1024

# Of the parameters tried on reports with 20 peers these gave the fewest bytes below 0.1 ms (docs/decisions).
_PARAMETERS = zstandard.ZstdCompressionParameters(
    compression_level=1,
    window_log=21,
    hash_log=13,
    chain_log=13,
    search_log=4,
    min_match=6,
    strategy=zstandard.STRATEGY_LAZY2,
    write_content_size=0,
    write_checksum=0,
    write_dict_id=0,
    format=zstandard.FORMAT_ZSTD1_MAGICLESS,
)


@dataclass(frozen=True, slots=True)
class Group:
    """The newest reports of an agent that later ones are compressed against.

    `key` and `previous` are a report's id and its whole DATA; `depth` is how many others it takes to read `previous`,
    `size` counts the reports of the group.
    """

    key: tuple[int, bytes]
    previous: tuple[int, bytes]
    depth: int
    size: int
    started_at: int

    def base(self) -> tuple[int, bytes, int]:
        """Return id and DATA of what the next report is compressed against, and how many others that one needs."""
        return (*self.key, 1) if self.depth >= CHAIN else (*self.previous, self.depth + 1)

    def is_full(self, now: int) -> bool:
        """Tell whether the next report is to be the key of a new group."""
        return self.size >= GROUP_SIZE or not 0 <= now - self.started_at <= GROUP_MS

    def with_next(self, report_id: int, data: bytes, depth: int) -> Group:
        """Return the group with one report more, which needs `depth` others."""
        return Group(self.key, (report_id, data), depth, self.size + 1, self.started_at)


def new_group(report_id: int, data: bytes, now: int) -> Group:
    """Return the group of a key report."""
    return Group((report_id, data), (report_id, data), depth=0, size=1, started_at=now)


def compress(data: bytes, base: bytes | None) -> bytes:
    """Compress a DATA against the DATA of its base, or alone."""
    if base is None:
        return zstandard.ZstdCompressor(compression_params=_PARAMETERS).compress(data)
    return zstandard.ZstdCompressor(dict_data=_dictionary(base), compression_params=_PARAMETERS).compress(data)


def expand(body: bytes, base: bytes | None) -> bytes:
    """Return the DATA. Raises zstandard.ZstdError if the body is damaged or the base is another one."""
    dictionary = None if base is None else _dictionary(base)
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    return decompressor.decompress(body, max_output_size=_MAX_BYTES)


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
