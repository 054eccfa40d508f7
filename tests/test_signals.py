"""Signals are waited for, and none is missed; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import os, signal, threading, time
from kattila_settings.signals import Signals
signals = Signals(signal.SIGTERM, signal.SIGHUP)
"""
IN_ANOTHER_THREAD = """
def send():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)
threading.Thread(target=send, daemon=True).start()
print(signals.wait())
"""
BEFORE_THE_WAIT = """
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGTERM)
print(signals.wait(0), signals.wait(), signals.wait(0))
"""
WOKEN = """
threading.Timer(0.2, signals.wake).start()
print(signals.wait(), signals.wait(0.01))
"""
MANY = """
for _ in range(100_000):
    os.kill(os.getpid(), signal.SIGHUP)
print(signals.wait())
"""


@pytest.mark.parametrize(
    ("script", "said"),
    [(IN_ANOTHER_THREAD, "15"), (BEFORE_THE_WAIT, "1 15 None"), (WOKEN, "None None"), (MANY, "1")],
    ids=["in another thread", "before the wait", "woken", "more than there is room for"],
)
def test_waiting(script: str, said: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BEGIN + script], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ran.stdout.strip(), ran.stderr) == (said, "")
