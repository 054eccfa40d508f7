"""The kernel's clock: whether somebody disciplines it, and how well, as adjtimex(2) tells.

May live here: asking, the helper where the agent may not, and what the answer means. Not here: what time it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from kattila_agent.collectors.unix_socket import UnreadableError, ask
from kattila_agent.helpers.clock_helper import GREETING, ask_kernel
from kattila_protocol.report import Clock

# Above this the kernel calls itself unsynchronised, as nobody has corrected it for long (NTP_PHASE_LIMIT).
_UNSYNCHRONISED_US = 16_000_000
_MAX_ANSWER_BYTES = 128
_HELPER_SECONDS = 5.0
_TOLD = re.compile(GREETING.encode() + rb" ([0-9]{1,18}) ([0-9]{1,18})\n")


def read(helper: Path) -> tuple[int, int]:
    """Ask the kernel, else the helper, for the estimated and the maximum error in µs.

    Raises:
        OSError: neither answers.
        UnreadableError: what answers on the helper's socket is none, or too slow.
    """
    try:
        return ask_kernel()
    except PermissionError:
        if not helper.exists():
            raise
    return parse_helper(ask(helper, b"", timeout_seconds=_HELPER_SECONDS, max_bytes=_MAX_ANSWER_BYTES))


def parse_helper(answer: bytes) -> tuple[int, int]:
    """Return the two errors that the helper told; raises UnreadableError."""
    told = _TOLD.fullmatch(answer)
    if told is None:
        raise UnreadableError("the clock's helper failed, or is none of this version")
    return int(told[1]), int(told[2])


def parse(errors: tuple[int, int], clock_offset: int | None) -> Clock:
    """Say what the kernel and the manager's last verdict (ms, None for none yet) say.

    The clock counts as synchronised by its maximum error, as systemd has it: the flag STA_UNSYNC may be set only to
    keep the kernel off the hardware clock.
    """
    estimated, maximum = errors
    return Clock(
        synchronised=maximum < _UNSYNCHRONISED_US,
        estimated_error_us=estimated,
        maximum_error_us=maximum,
        clock_offset=clock_offset,
    )
