"""The real agent recovers from faults between it and the real manager."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kattila_keys.ring_file import RingFile, StoredRing
from support.agent_folder import keep_id
from support.agent_process import Daemon, running_daemon
from support.manager import Manager, now_ms, running_manager
from support.reports import RING, Node, body, node, nonce_of
from support.waiting import PATIENCE_SECONDS, wait_for

AGENT = node(1).agent_id
BOOT = Path("/proc/sys/kernel/random/boot_id")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    folder = tmp_path / "manager"
    folder.mkdir()
    with running_manager(folder) as running:
        yield running


@contextmanager
def agent(manager: Manager, folder: Path) -> Iterator[Daemon]:
    """Run a real agent that reports every second under `AGENT`."""
    folder.mkdir(exist_ok=True)
    keep_id(folder, AGENT)
    now = now_ms()
    RingFile(folder / "ring.json").update(lambda _: StoredRing(RING, asked_at=now, answered_at=now))
    url = f"http://127.0.0.1:{manager.port}"
    with running_daemon(
        folder, DNS="kattila.example.org", DNS_SERVER="127.0.0.1:9", MANAGER_URL=url, INTERVAL="1"
    ) as running:
        yield running


def samples(manager: Manager, agent_id: str = AGENT) -> list[int]:
    query = "SELECT sample FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? ORDER BY sample"
    return [sample for (sample,) in manager.rows(query, agent_id)]


def outcome(manager: Manager, sender: Node, sample: int) -> str:
    return manager.post(body(sender, sample, now_ms())).verdict(nonce_of(sender, sample, sample)).outcome


def test_an_agent_whose_numbers_were_used_continues_above_them(manager: Manager, tmp_path: Path) -> None:
    # As after the restore of a virtual machine from a snapshot.
    with agent(manager, tmp_path / "agent") as running:
        wait_for(lambda: len(samples(manager)) >= 1, lambda: running.log)
        later_self = Node(AGENT, BOOT.read_text().strip(), "later.example.net", ())
        # Stopped, so that it does not recover after every one of these reports.
        running.process.send_signal(signal.SIGSTOP)
        for sample in range(1000, 1121):
            assert outcome(manager, later_self, sample) == "accepted"
        running.process.send_signal(signal.SIGCONT)
        wait_for(lambda: samples(manager)[-1] > 1120, lambda: running.log)
        assert "was used before" in running.log
        assert running.log.count("was used before") == 1
    assert manager.rows("SELECT kind, count FROM refusals WHERE agent_id = ?", AGENT) in ([("replay", 1)], [])


def test_an_agent_on_a_cloned_disk_takes_a_new_id(manager: Manager, tmp_path: Path) -> None:
    original = node(1)
    assert outcome(manager, original, 1) == "accepted"
    with agent(manager, tmp_path / "agent") as running:
        running.wait_for_log("identity_unproven")
        sample = 1
        while (tmp_path / "agent" / "agent_id.txt").read_text().strip() == AGENT:
            sample += 1
            assert outcome(manager, original, sample + 1000) == "accepted"
            assert sample < 2 * PATIENCE_SECONDS, running.log
            time.sleep(0.5)
        fresh = (tmp_path / "agent" / "agent_id.txt").read_text().strip()
        wait_for(lambda: len(samples(manager, fresh)) >= 2, lambda: running.log)
    assert samples(manager) == [1, *range(1002, 1001 + sample)]
    assert outcome(manager, original, 2000) == "accepted"


def test_reports_continue_after_the_manager_was_killed(manager: Manager, tmp_path: Path) -> None:
    with agent(manager, tmp_path / "agent") as running:
        wait_for(lambda: len(samples(manager)) >= 1, lambda: running.log)
        manager.kill()
        running.wait_for_log("cannot be reached")
        before = samples(manager)
        manager.start()
        wait_for(lambda: len(samples(manager)) >= len(before) + 2, lambda: running.log)
    assert samples(manager)[: len(before)] == before
