"""The state of the kernel's clock, from adjtimex(2): whether it is synchronised, and its errors."""

from __future__ import annotations

import re
from pathlib import Path

from kattila_agent.collectors.unix_socket import UnreadableError, exchange
from kattila_agent.helpers.clock_helper import GREETING, UNKNOWN, read_kernel
from kattila_protocol.report import Clock

# At this error the kernel calls its clock unsynchronised: nobody has corrected it for long (NTP_PHASE_LIMIT).
_UNSYNCHRONISED_US = 16_000_000
_MAX_ANSWER_BYTES = 128
_HELPER_SECONDS = 5.0
_ANSWER = re.compile(GREETING.encode() + rb" ([0-9]{1,18}) ([0-9]{1,18})\n")
_ANSWER_UNKNOWN = f"{GREETING} {UNKNOWN}\n".encode()


def read(helper: Path) -> tuple[int, int] | None:
    """Return the estimated and the maximum error in µs, from the kernel or else from the helper.

    Returns None if the kernel refuses to answer the helper, too.

    Raises:
        OSError: the kernel refuses and there is no helper, or the helper does not answer.
        UnreadableError: the answer on the helper's socket is malformed or too slow.
    """
    try:
        return read_kernel()
    except OSError:
        # EPERM from a filter of systemd, other errors from filters of container managers.
        if not helper.exists():
            raise
    return parse_helper(exchange(helper, b"", timeout_seconds=_HELPER_SECONDS, max_bytes=_MAX_ANSWER_BYTES))


def parse_helper(answer: bytes) -> tuple[int, int] | None:
    """Return the two errors in the helper's answer, None if unknown; raises UnreadableError if it is malformed."""
    if answer == _ANSWER_UNKNOWN:
        return None
    match = _ANSWER.fullmatch(answer)
    if match is None:
        raise UnreadableError("the clock helper failed, or has another version: check its unit")
    return int(match[1]), int(match[2])


def parse(errors: tuple[int, int] | None, clock_offset: int | None) -> Clock | None:
    """Return the clock's state, None if the errors are unknown.

    `clock_offset` is that of the manager's last verdict in ms, None before the first.

    Like systemd, this judges by the maximum error: the flag STA_UNSYNC may be set only to keep the kernel off the
    hardware clock.
    """
    if errors is None:
        return None
    estimated, maximum = errors
    return Clock(
        synchronised=maximum < _UNSYNCHRONISED_US,
        estimated_error_us=estimated,
        maximum_error_us=maximum,
        clock_offset=clock_offset,
    )
