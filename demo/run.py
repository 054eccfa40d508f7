"""`make demo`: runs a DNS server, the manager, and an agent for this machine until Ctrl-C.

All files are in a temporary folder, and all programs listen only on loopback. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import requests
from txt_responder import serve_record

from kattila_agent.config import SETTINGS as AGENT_SETTINGS
from kattila_manager.config import SETTINGS as MANAGER_SETTINGS
from kattila_settings.settings import ENV_FILE_VARIABLE

NAME = "kattila.example.com"
INTERVAL_SECONDS = 3
STOP_SECONDS = 10
SESSION = requests.Session()
# Ignore the shell's proxy settings: all requests go to loopback.
SESSION.trust_env = False
# Enough on a busy machine.
START_SECONDS = 120


class DemoError(Exception):
    """A program did not start or ended early; the text names it and has its last log lines."""


@dataclass(frozen=True, slots=True)
class Program:
    """One of the three processes of the demo."""

    title: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise DemoError if the process has ended."""
        code = self.process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()[-15:]
            raise DemoError("\n".join([f"the {self.title} ended with exit status {code}; its last log lines:", *lines]))


def main() -> int:
    """Run until Ctrl-C; return 0, or 1 if a program failed."""
    parser = argparse.ArgumentParser(description="Show kattila.status on this machine, only on loopback.")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after this time (default: Ctrl-C)")
    seconds = parser.parse_args().seconds
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ExitStack() as stack:
            _run(stack, seconds)
    except KeyboardInterrupt:
        print("\nStopped; nothing is left behind.")
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _run(stack: ExitStack, seconds: float) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kattila-demo-")))
    dns_port = stack.enter_context(serve_record(NAME, secrets.token_urlsafe(24)))
    manager_port, agent_port = _free_port(), _free_port()
    environment = _plain_environment() | {
        "DNS": NAME,
        "DNS_SERVER": f"127.0.0.1:{dns_port}",
        "MANAGER_LISTEN": f"127.0.0.1:{manager_port}",
        "MANAGER_URL": f"http://127.0.0.1:{manager_port}",
        "AGENT_LISTEN": f"127.0.0.1:{agent_port}",
        "INTERVAL": str(INTERVAL_SECONDS),
        "REPORT_INTERVAL": str(INTERVAL_SECONDS),
        "LABELS": "site=demo",
    }
    url = f"http://127.0.0.1:{manager_port}"
    print(f"TXT record   {NAME} on 127.0.0.1:{dns_port}")
    manager = stack.enter_context(_running("manager", ["kattila_manager", "serve"], folder, environment))
    _wait_for(url + "/status/healthcheck", manager)
    print(f"manager      {url}")
    publish = ["kattila_manager", "publish", "--every", "2"]
    programs = [manager, stack.enter_context(_running("publisher", publish, folder, environment))]
    programs.append(stack.enter_context(_running("agent", ["kattila_agent"], folder, environment)))
    print(f"agent        http://127.0.0.1:{agent_port}/status/healthcheck")
    _wait_for(url + "/", *programs)
    print(f"page         {url}/")
    print(f"\nA report every {INTERVAL_SECONDS} s. Press Ctrl-C to stop.\n")
    _watch(url, programs, time.monotonic() + seconds)


def _plain_environment() -> dict[str, str]:
    """Return the shell's environment without settings of ours, so that no real manager or agent is touched."""
    settings = {setting.name for setting in (*AGENT_SETTINGS, *MANAGER_SETTINGS)}
    settings |= {ENV_FILE_VARIABLE, "STATE_DIRECTORY"}
    return {name: value for name, value in os.environ.items() if name not in settings}


def _watch(url: str, programs: list[Program], until: float) -> None:
    print(f"{'time':10}{'agent':30}{'report':>8}{'age':>7}  {'state':11}{'arrives':9}key")
    while time.monotonic() < until:
        for program in programs:
            program.check()
        reporting = [agent for agent in _get(url + "/status/agents")["agents"] if agent["highest_sample"]]
        for agent in reporting:
            print(
                f"{time.strftime('%H:%M:%S'):10}{agent['hostname'][:29]:30}{agent['highest_sample']:8}"
                f"{agent['age_seconds']:5} s  {agent['state']:11}{agent['arrives']:9}{agent['fingerprint']}",
                flush=True,
            )
        time.sleep(INTERVAL_SECONDS)


@contextmanager
def _running(title: str, command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Program]:
    """Run a Python module in the folder with its output in a file; end it by SIGTERM, or SIGKILL if necessary."""
    log = folder / f"{title}.log"
    with log.open("wb") as output:
        # In its own session, so that Ctrl-C reaches only this program, which then stops the others in order.
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Program(title, process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, *programs: Program) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for program in programs:
            program.check()
        with suppress(requests.RequestException):
            if SESSION.get(url, timeout=2).ok:
                return
        time.sleep(0.1)
    raise DemoError(f"{url} did not answer within {START_SECONDS} s")


def _get(url: str) -> dict[str, Any]:
    document: dict[str, Any] = SESSION.get(url, timeout=5).json()
    return document


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
