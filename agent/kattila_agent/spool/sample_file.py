"""The content of a sample's file. Pure.

A file is one line, followed by the telemetry, compressed (zlib, RFC 1950):

    kattila-spool 1 CRC SAMPLED_AT BOOT_ID SINCE_BOOT_MS

CRC is the CRC-32 of all that follows it and its blank, as 8 hex digits; the others are the members of a Sample. Its
number is the name of the file and not part of the content, so that a rename changes it.
"""

from __future__ import annotations

import re
import sys
import zlib

from kattila_agent.spool.dropping import Entry, disk_bytes
from kattila_agent.spool.sample import Sample
from kattila_protocol.envelope import MAX_BODY_BYTES

# No sample has a longer file: zlib adds 5 bytes to each 16 KiB that it cannot compress (zlib's manual).
MAX_FILE_BYTES = MAX_BODY_BYTES + 4096

_HEAD = b"kattila-spool 1 %08x "
_FILE = re.compile(rb"kattila-spool 1 ([0-9a-f]{8}) ((-?[0-9]{1,16}) ([!-~]{1,64}) (-?[0-9]{1,16})\n(.*))", re.DOTALL)


class DamagedError(ValueError):
    """A file does not contain a whole sample; the text says what is wrong."""


def encode(sample: Sample) -> bytes:
    """Return the content of a sample's file."""
    members = b"%d %s %d\n" % (sample.sampled_at, sample.boot_id.encode("ascii"), sample.since_boot_ms)
    checked = members + zlib.compress(sample.telemetry)
    return _HEAD % zlib.crc32(checked) + checked


def parse_entry(content: bytes) -> Entry:
    """Return a sample without its telemetry; raises DamagedError."""
    sampled_at, boot_id, since_boot_ms, _ = _members(content)
    # Thousands of samples come from a few boots, and share the strings of their ids.
    return Entry(int(sampled_at), sys.intern(boot_id.decode("ascii")), int(since_boot_ms), disk_bytes(len(content)))


def parse(number: int, content: bytes) -> Sample:
    """Return the sample in the file with this number; raises DamagedError."""
    sampled_at, boot_id, since_boot_ms, compressed = _members(content)
    return Sample(number, int(sampled_at), boot_id.decode("ascii"), int(since_boot_ms), _decompressed(compressed))


def _members(content: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    match = _FILE.fullmatch(content)
    if match is None:
        raise DamagedError("empty" if not content else "not a file of the spool, or of another version")
    crc, checked, sampled_at, boot_id, since_boot_ms, compressed = match.groups()
    if zlib.crc32(checked) != int(crc, 16):
        raise DamagedError("the checksum is wrong")
    return sampled_at, boot_id, since_boot_ms, compressed


def _decompressed(compressed: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        telemetry = stream.decompress(compressed, MAX_BODY_BYTES)
    except zlib.error as error:
        raise DamagedError(f"not compressed telemetry: {error}") from error
    if not stream.eof or stream.unused_data:
        raise DamagedError("not one compressed stream, or too long")
    return telemetry
