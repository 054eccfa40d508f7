"""The clock's helper: tells an agent that may not ask itself what adjtimex(2) says of the kernel's clock.

May live here: that program, whole, and the question, which the agent asks itself where it may. The standard library
alone. The question needs no privilege, but the filter that keeps a service from setting the clock (systemd's
ProtectClock=) keeps it from asking as well. systemd starts the helper for each connection (Accept=yes,
StandardInput=socket): its standard output is the agent. DESIGN.md specifies what it writes. Exit codes: 0 told,
1 failed, 2 wrong usage.
"""

from __future__ import annotations

import ctypes
import os
import sys

GREETING = "kattila-clock 1"


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


def ask_kernel() -> tuple[int, int]:
    """Return the clock's estimated and its maximum error (µs); changes nothing, as `modes` is 0. Raises OSError."""
    asked = Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(asked.esterror), int(asked.maxerror)


def main(arguments: list[str] | None = None) -> int:
    """Write the answer to standard output and return the exit code."""
    if sys.argv[1:] if arguments is None else arguments:
        sys.stderr.write("usage: kattila-clock-helper, behind a socket of systemd's with Accept=yes\n")
        return 2
    try:
        sys.stdout.write("{} {} {}\n".format(GREETING, *ask_kernel()))
        sys.stdout.flush()
    except OSError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
