"""The real agent as a process of its own, with a folder and settings that a test chose."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

AGENT = [sys.executable, "-m", "kattila_agent"]
_ANSWERS_ON = re.compile(r"answers on ([^\s,]+)[,\n]")


def environment(**settings: str) -> dict[str, str]:
    """Return an environment without settings of whoever runs the tests, and with these."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    # A helper that the machine has knows nothing of a test's network namespace.
    alone = {"WIREGUARD_HELPER": "/nonexistent/kattila.sock"}
    return keep | {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "0"} | alone | settings


def run_agent(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
    """Run the agent to its end in a folder."""
    return subprocess.run(
        [*AGENT, *arguments], cwd=folder, env=environment(**settings), capture_output=True, timeout=30, check=False
    )


class Daemon:
    """A running daemon; `log` is what it wrote to stderr so far."""

    def __init__(self, folder: Path, *arguments: str, program: Sequence[str] = AGENT, **settings: str) -> None:
        """Start it; it listens on a free loopback port unless AGENT_LISTEN is given."""
        self.log_file = folder / "stderr.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, *arguments],
                cwd=folder,
                env=environment(**({"AGENT_LISTEN": "127.0.0.1:0"} | settings)),
                stderr=log,
            )

    @property
    def log(self) -> str:
        """Return what it logged so far."""
        return self.log_file.read_text()

    def wait_for_log(self, text: str, seconds: float = 10) -> str:
        """Wait until it logged this, and return the whole log."""
        deadline = time.monotonic() + seconds
        while text not in self.log:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {text!r} within {seconds} s:\n{self.log}"
            time.sleep(0.02)
        return self.log

    def address(self) -> str:
        """Return where its API answers, as "127.0.0.1:40000"."""
        found = _ANSWERS_ON.search(self.wait_for_log("answers on "))
        assert found is not None
        return found.group(1)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Signal it and return its exit code and how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=10), time.monotonic() - began


@contextmanager
def running_daemon(folder: Path, *arguments: str, **settings: str) -> Iterator[Daemon]:
    """Run a daemon and kill it at the end if it still runs."""
    daemon = Daemon(folder, *arguments, **settings)
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
