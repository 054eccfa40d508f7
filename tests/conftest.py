"""What holds for all tests, whoever starts them."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    # Under nohup, or behind a shell's &, it is ignored, and in all that tests start as well.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
