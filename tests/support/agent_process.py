"""Runs the real agent as a process, in a folder and with settings of a test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.waiting import ENDLESS_SECONDS, PATIENCE_SECONDS, wait_for

AGENT = [sys.executable, "-m", "kattila_agent"]
# The agent with timeouts of ten minutes for DNS and for the manager. A test that ends earlier shows that it did not
# wait for either.
PATIENT_AGENT = [
    sys.executable,
    "-c",
    "import sys\n"
    "from kattila_agent import __main__ as agent\n"
    "from kattila_agent.outbound import delivery\n"
    "from kattila_agent.outbound.http import connection\n"
    f"agent._DNS_SECONDS = connection.READ_SECONDS = delivery._REGISTER_SECONDS = {ENDLESS_SECONDS}\n"
    f"connection.Connection.__init__.__kwdefaults__['total_seconds'] = {ENDLESS_SECONDS}\n"
    "sys.exit(agent.main(sys.argv[1:]))",
]
_ANSWERS_ON = re.compile(r"answers on ([^\s,]+)[,\n]")


def environment(**settings: str) -> dict[str, str]:
    """Return an environment with only these settings, without those of the developer."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    # The machine's helper cannot see a test's network namespace.
    alone = {"WIREGUARD_HELPER": "/nonexistent/kattila.sock"}
    return keep | {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "0"} | alone | settings


def run_agent(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
    """Run the agent in a folder until it ends."""
    return subprocess.run(
        [*AGENT, *arguments],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


class Daemon:
    """A running daemon; `log` is its output to stderr so far."""

    def __init__(self, folder: Path, *arguments: str, program: Sequence[str] = AGENT, **settings: str) -> None:
        """Start the daemon; without AGENT_LISTEN it listens on a free loopback port."""
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
        """Return its log so far."""
        return self.log_file.read_text()

    def wait_for_log(self, text: str) -> str:
        """Wait until the log contains this text, and return the whole log."""

        def is_logged() -> bool:
            has_ended = self.process.poll() is not None
            if text in self.log:
                return True
            assert not has_ended, f"it ended with {self.process.returncode}:\n{self.log}"
            return False

        wait_for(is_logged, lambda: f"{text!r} in its log:\n{self.log}")
        return self.log

    def address(self) -> str:
        """Return the address of its API, such as "127.0.0.1:40000"."""
        found = _ANSWERS_ON.search(self.wait_for_log("answers on "))
        assert found is not None
        return found.group(1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def running_daemon(folder: Path, *arguments: str, program: Sequence[str] = AGENT, **settings: str) -> Iterator[Daemon]:
    """Run a daemon and kill it at the end if it still runs."""
    daemon = Daemon(folder, *arguments, program=program, **settings)
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
