"""An agent and its manager as processes, and a liar: a PSK holder who reports under the agent's id."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kattila_keys.ring_file import RingFile, StoredRing
from kattila_manager.store.decoding import decode
from kattila_protocol.report import Report
from kattila_protocol.verdict import ACCEPTED, Verdict
from support.agent_folder import keep_id
from support.agent_process import Daemon, running_daemon
from support.manager import Manager, now_ms, running_manager
from support.reports import RING, node, sealed
from support.waiting import wait_for

AGENT = node(1).agent_id


@dataclass
class Victim:
    """The agent's folder, and its manager; `lies` counts the accepted reports of the liar."""

    folder: Path
    manager: Manager
    lies: int = 0

    @contextmanager
    def running(self) -> Iterator[Daemon]:
        """Run the agent, which reports every second."""
        url = f"http://127.0.0.1:{self.manager.port}"
        dns = {"DNS": "kattila.example.org", "DNS_SERVER": "127.0.0.1:9"}
        with running_daemon(self.folder, **dns, MANAGER_URL=url, INTERVAL="1") as daemon:
            yield daemon

    def wait_for_reports(self, daemon: Daemon, count: int = 3) -> None:
        """Wait until some more reports of the agent are stored, and none waits on its disk."""
        before = self._stored()

        def have_arrived() -> bool:
            assert daemon.process.poll() is None, daemon.log
            return self._stored() >= before + count and not list((self.folder / "spool").glob("[0-9]" * 16))

        wait_for(have_arrived, lambda: f"{count} reports of the agent:\n{daemon.log}")

    def newest(self) -> Report:
        """Return its newest report, as anybody who sees it on the wire."""
        return decode(self.manager.command("report", AGENT).stdout.encode())

    def forge(self, content: Report, **changes: Any) -> Verdict:
        """Send a changed report under its id, by default with the next tick, and return the verdict."""
        nonce = uuid.uuid4().hex
        forged = replace(content, **{"nonce": nonce, "timestamp": now_ms(), "tick": content.tick + 1, **changes})
        verdict = self.manager.post(sealed(forged)).verdict(nonce)
        self.lies += verdict.outcome == ACCEPTED
        return verdict

    def _stored(self) -> int:
        return int(self.manager.rows("SELECT count(*) FROM reports")[0][0]) - self.lies


@contextmanager
def running_victim(folder: Path) -> Iterator[Victim]:
    """Run a manager, and prepare an agent that has the key already."""
    for name in ("manager", "agent"):
        (folder / name).mkdir()
    keep_id(folder / "agent", AGENT)
    now = now_ms()
    RingFile(folder / "agent" / "ring.json").update(lambda _: StoredRing(RING, asked_at=now, answered_at=now))
    with running_manager(folder / "manager", workers=1) as manager:
        yield Victim(folder / "agent", manager)
