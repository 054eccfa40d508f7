"""No signal is missed; each case runs in its own process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.waiting import PATIENCE_SECONDS

SETUP = """
import os, signal, threading, time
from kattila_settings.signals import Signals
signals = Signals(signal.SIGTERM, signal.SIGHUP)
"""
SIGNAL_TO_ANOTHER_THREAD = """
def send():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)
threading.Thread(target=send, daemon=True).start()
print(signals.wait())
"""
SIGNALS_BEFORE_THE_WAIT = """
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGTERM)
print(signals.wait(0), signals.wait(), signals.wait(0))
"""
WAKE = """
threading.Timer(0.2, signals.wake).start()
print(signals.wait(), signals.wait(0.01))
"""
FULL_PIPE = """
for _ in range(100_000):
    os.kill(os.getpid(), signal.SIGHUP)
print(signals.wait())
"""


@pytest.mark.parametrize(
    ("script", "output"),
    [
        (SIGNAL_TO_ANOTHER_THREAD, "15"),
        (SIGNALS_BEFORE_THE_WAIT, "1 15 None"),
        (WAKE, "None None"),
        (FULL_PIPE, "1"),
    ],
    ids=["another thread", "before the wait", "wake", "full pipe"],
)
def test_wait_returns_each_signal(script: str, output: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SETUP + script], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert (process.stdout.strip(), process.stderr) == (output, "")
