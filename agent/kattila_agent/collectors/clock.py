"""The kernel's clock: whether somebody disciplines it, and how well, as adjtimex(2) tells.

May live here: asking, and what the answer means. Not here: what time it is.
"""

from __future__ import annotations

import ctypes
import os

from kattila_protocol.report import Clock

# Above this the kernel calls itself unsynchronised, as nobody has corrected it for long (NTP_PHASE_LIMIT).
_UNSYNCHRONISED_US = 16_000_000


class Timex(ctypes.Structure):
    """struct timex of sys/timex.h, as far as it is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        # The rest of it, and some more than any architecture has.
        ("rest", ctypes.c_byte * 256),
    )


def read() -> Timex:
    """Ask the kernel, changing nothing (modes is 0); needs no privilege. Raises OSError."""
    asked = Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return asked


def parse(answer: Timex, clock_offset: int | None) -> Clock:
    """Say what the kernel and the manager's last verdict (ms, None for none yet) say.

    The clock counts as synchronised by its maximum error, as systemd has it: the flag STA_UNSYNC may be set only to
    keep the kernel off the hardware clock.
    """
    return Clock(
        synchronised=answer.maxerror < _UNSYNCHRONISED_US,
        estimated_error_us=answer.esterror,
        maximum_error_us=answer.maxerror,
        clock_offset=clock_offset,
    )
