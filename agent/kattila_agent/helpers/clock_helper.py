"""The clock helper: reads adjtimex(2) for an agent that may not call it.

The call needs no privilege, but the filter that stops a service from setting the clock (ProtectClock= of systemd) stops
this call as well. Only the standard library is used. systemd starts the helper for each connection (Accept=yes,
StandardInput=socket), so its standard output goes to the agent. docs/ARCHITECTURE.md specifies the output.
A container's filter may stop the helper, too: then it answers that the clock's state is unknown.
Exit codes: 0 answered, 1 failure, 2 wrong usage.
"""

from __future__ import annotations

import ctypes
import os
import sys

GREETING = "kattila-clock 1"
UNKNOWN = "unknown"


class Timex(ctypes.Structure):
    """The beginning of struct timex (sys/timex.h), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        # More than the rest takes on any architecture.
        ("rest", ctypes.c_byte * 256),
    )


def read_kernel() -> tuple[int, int]:
    """Return the estimated and the maximum error of the clock in µs; raises OSError."""
    # Nothing is changed, as `modes` is 0.
    timex = Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(timex.esterror), int(timex.maxerror)


def main(arguments: list[str] | None = None) -> int:
    """Write the answer to standard output, and return the exit code."""
    if sys.argv[1:] if arguments is None else arguments:
        sys.stderr.write("usage: kattila-clock-helper, without arguments, behind a systemd socket with Accept=yes\n")
        return 2
    try:
        state = "{} {}".format(*read_kernel())
    except OSError:
        state = UNKNOWN
    try:
        sys.stdout.write(f"{GREETING} {state}\n")
        sys.stdout.flush()
    except OSError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
