"""The honest agents of a siege: one process with the simulated ones, and a process for each real one."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from kattila_agent.spool import sample_file
from support.agent_folder import keep_id
from support.agent_process import Daemon, running_daemon
from support.reports import KEY, node
from support.siege import forge
from support.siege.agents import ANSWERS, CRASH, LABEL, MEASURED, Answer
from support.waiting import PATIENCE_SECONDS

TESTS = Path(__file__).resolve().parents[2]
SIMULATED = range(1, 18)
REAL = range(18, 21)
# As long as other agents wait.
_PROBE_SECONDS = 2.0
_LABEL = re.compile(rf'"{LABEL}":"([^"]+)"'.encode())


class Honest:
    """All honest agents; `daemons` are the real ones by number."""

    def __init__(self, folder: Path, settings: Mapping[str, str], stack: ExitStack) -> None:
        """Start all; the stack ends them."""
        self._folder = folder
        self.log_file = folder / "agents.log"
        log = stack.enter_context(self.log_file.open("wb"))
        command = [sys.executable, "-m", "support.siege.agents", str(folder), str(SIMULATED[0]), str(SIMULATED[-1])]
        self._process = subprocess.Popen(
            command,
            env=dict(settings) | {"PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        stack.callback(self._close)
        self.daemons = {number: self._daemon(number, settings, stack) for number in REAL}

    @property
    def log(self) -> str:
        """The log of the simulated agents so far."""
        return self.log_file.read_text(errors="replace")

    def command(self, line: str) -> None:
        """Send a command to the simulated agents (see `agents`), and wait until it is carried out."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == line, self.log[-2000:]

    def answers(self, number: int) -> list[Answer]:
        """Return all answers that a simulated agent got to its reports."""
        return [Answer(*json.loads(line)) for line in _lines(self._folder / str(number) / ANSWERS)]

    def have_delivered(self, since: float) -> bool:
        """Return whether every simulated agent has delivered a report that it sent after a time."""
        return all(any(each.status == 200 and each.at > since for each in self.answers(n)) for n in SIMULATED)

    def measured(self) -> frozenset[str]:
        """Return the labels of all measurements of the simulated agents."""
        return frozenset(label for number in SIMULATED for label in _lines(self._folder / str(number) / MEASURED))

    def waiting(self) -> dict[int, list[Path]]:
        """Return the files of the samples that wait on the disk of each agent."""
        return {n: list((self._folder / str(n) / "spool").glob("[0-9]" * 16)) for n in (*SIMULATED, *REAL)}

    def waiting_labels(self) -> frozenset[str]:
        """Return the labels of the samples that wait on a disk."""
        files = [path for paths in self.waiting().values() for path in paths]
        contents = [sample_file.parse(1, path.read_bytes()).telemetry for path in files]
        return frozenset(label for content in contents if (label := label_in(content)))

    def dropped(self) -> int:
        """Return how many samples all agents have dropped."""
        ledgers = [self._folder / str(number) / "spool" / "ledger.json" for number in (*SIMULATED, *REAL)]
        return sum(json.loads(ledger.read_text())["dropped"] for ledger in ledgers if ledger.exists())

    def crashes(self) -> dict[str, str]:
        """Return the last words of the agents that have ended."""
        files = {str(number): self._folder / str(number) / CRASH for number in SIMULATED}
        found = {number: file.read_text() for number, file in files.items() if file.exists()}
        ended = {number: each for number, each in self.daemons.items() if each.process.poll() is not None}
        return found | {str(number): daemon.log[-2000:] for number, daemon in ended.items()}

    def probe(self, daemon: Daemon) -> bool:
        """Return whether an agent answers the query of another agent in time."""
        host, port = address_of(daemon)
        with closing(http.client.HTTPConnection(host, port, timeout=_PROBE_SECONDS)) as connection:
            with suppress(OSError, http.client.HTTPException):
                connection.request("GET", forge.peer_query(node(SIMULATED[-1]), host, KEY))
                return connection.getresponse().status == 200
            return False

    def stop(self) -> None:
        """Stop all agents."""
        self.command("end")
        for daemon in self.daemons.values():
            if daemon.process.poll() is None:
                daemon.stop()

    def _daemon(self, number: int, settings: Mapping[str, str], stack: ExitStack) -> Daemon:
        state = self._folder / str(number)
        state.mkdir()
        keep_id(state, node(number).agent_id)
        mine = dict(settings) | {"KATTILA_BOOT_ID": node(number).boot_id}
        return stack.enter_context(running_daemon(state, **mine))

    def _close(self) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate(timeout=PATIENCE_SECONDS)


def address_of(daemon: Daemon) -> tuple[str, int]:
    """Return the host and the port of an agent's API."""
    host, port = daemon.address().rsplit(":", 1)
    return host, int(port)


def label_in(data: bytes) -> str | None:
    """Return the label of the measurement in DATA or in telemetry, None if it has none."""
    found = _LABEL.search(data)
    return None if found is None else found[1].decode()


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
