"""A fleet reconnects to the real manager and delivers all spools at once; answers get lost, samples do not."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

from kattila_protocol.report import Report
from support.fleet import MINUTE, SECOND
from support.manager import Manager, now_ms, running_manager
from support.raw_http import updates
from support.reports import Node, node, nonce_of, report, sealed
from support.store import sqlite
from support.waiting import PATIENCE_SECONDS, join_all

INTERVAL = 30 * SECOND
SENDERS, BEFORE, SPOOLED = 12, 5, 40
NEWEST = BEFORE + SPOOLED + 1


class Sender(threading.Thread):
    """An agent after twenty minutes offline: it sends its newest sample, then its spool in order."""

    def __init__(self, manager: Manager, sender: Node, now: int) -> None:
        super().__init__()
        self._manager = manager
        self._sender = sender
        self._now = now
        self._tick = 0
        self._chance = random.Random(sender.agent_id)
        self.outcomes: set[str] = set()

    def report_before(self) -> None:
        """Send the samples from before the outage."""
        self._send_all(range(1, BEFORE + 1))

    def run(self) -> None:
        self._send_all((NEWEST, *range(BEFORE + 1, NEWEST)))

    def _send_all(self, samples: Iterable[int]) -> None:
        for sample in samples:
            while self._chance.random() < 0.3:
                self._send_without_reading_the_answer(self._signed(sample))
            while (outcome := self._outcome(self._signed(sample))) == "overloaded":
                continue
            self.outcomes.add(outcome)

    def _outcome(self, signed: Report) -> str:
        return self._manager.post(sealed(signed)).verdict(signed.nonce).outcome

    def _signed(self, sample: int) -> Report:
        self._tick += 1
        measured_at = self._now - (NEWEST - sample) * INTERVAL
        # Other samples are sent when they are measured.
        sampled_at = measured_at if BEFORE < sample < NEWEST else None
        nonce = nonce_of(self._sender, sample, self._tick)
        return report(self._sender, sample, now_ms(), tick=self._tick, nonce=nonce, sampled_at=sampled_at)

    def _send_without_reading_the_answer(self, signed: Report) -> None:
        with socket.create_connection(("127.0.0.1", self._manager.port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(updates(sealed(signed)))


def test_every_spooled_sample_is_stored_once_and_marked_late(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        now = now_ms()
        senders = [Sender(manager, node(number), now) for number in range(1, SENDERS + 1)]
        for sender in senders:
            sender.report_before()
        backdate_arrivals(manager)
        for sender in senders:
            sender.start()
        join_all(senders)
        assert set.union(*(sender.outcomes for sender in senders)) <= {"accepted", "duplicate"}
        rows = manager.rows("SELECT agent_ref, sample, sampled_at FROM reports ORDER BY agent_ref, sample")
        assert [row[:2] for row in rows] == [
            (ref, sample) for ref in range(1, SENDERS + 1) for sample in range(1, NEWEST + 1)
        ]
        for _, sample, sampled_at in rows:
            is_late = BEFORE < sample < NEWEST
            assert (sampled_at is not None) is is_late
            assert not is_late or abs(sampled_at - (now - (NEWEST - sample) * INTERVAL)) < MINUTE
        assert manager.rows("SELECT DISTINCT highest_sample FROM agents") == [(NEWEST,)]
        for number in (1, SENDERS):
            assert cut_off(manager, node(number)) == [SPOOLED]


def backdate_arrivals(manager: Manager) -> None:
    """Set the arrival of all stored reports to when they were measured, instead of waiting twenty minutes."""
    with sqlite(manager.database) as connection, connection:
        connection.execute("UPDATE reports SET received_at = received_at - (? - sample) * ?", (NEWEST, INTERVAL))


def cut_off(manager: Manager, sender: Node) -> list[int]:
    """Return the number of samples of each cut-off period of a node; no sample may be missing."""
    spans = json.loads(manager.command("history", sender.hostname, "--json").stdout)["spans"]
    assert not [span for span in spans if span["kind"] == "missing"]
    return [span["samples"] for span in spans if span["kind"] == "cut_off"]
