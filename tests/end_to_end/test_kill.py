"""SIGKILL under load: acknowledged reports are stored exactly once, and none is acknowledged before it is stored."""

from __future__ import annotations

import http.client
import random
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest

from kattila_manager.records import Record
from kattila_manager.store.store import Store
from kattila_protocol.envelope import parse
from kattila_protocol.errors import Overloaded
from kattila_protocol.signing import Purpose
from kattila_protocol.verdict import ACCEPTED, DUPLICATE
from support.counts import FIRST_START_KILLS, MANAGER_KILLS
from support.manager import MANAGER, UPDATES, Manager, exchange, is_alive, now_ms, running_manager
from support.reports import KEY, Node, node, nonce_of, report, sealed
from support.store import all_records
from support.waiting import join_all, wait_for

# Reports from each of eight agents.
REPORTS = 100
SENDERS = 6
AGENTS_EACH = 2
JSON = {"Content-Type": "application/json"}


@dataclass
class Message:
    """A measurement, and every DATA in which it was sent."""

    sender: Node
    sample: int
    tick: int
    body: bytes
    forms: list[bytes]

    @property
    def nonce(self) -> str:
        return nonce_of(self.sender, self.sample, self.tick)


@dataclass
class Courier:
    """A few agents on one connection, which send each measurement until it is acknowledged, and not again."""

    nodes: list[Node]
    chance: random.Random
    ticks: dict[str, int] = field(default_factory=dict)
    messages: dict[tuple[str, int], Message] = field(default_factory=dict)
    acknowledged: dict[tuple[str, int], str] = field(default_factory=dict)
    unanswered: Message | None = None
    retried: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def send_until_dead(self, manager: Manager) -> None:
        """Send one report after another until the manager is dead."""
        try:
            with closing(manager.connect()) as connection:
                while True:
                    self.send_one(connection)
        except (OSError, http.client.HTTPException):
            return
        except BaseException as error:  # reported by the test: a thread cannot fail it
            self.failure = error

    def send_one(self, connection: http.client.HTTPConnection) -> None:
        message, is_retry = (self._again(self.unanswered), True) if self.unanswered else (self._next(), False)
        self.unanswered = message
        verdict = exchange(connection, "POST", UPDATES, message.body, JSON).verdict(message.nonce)
        if verdict.outcome == Overloaded.kind:
            return
        assert verdict.outcome == ACCEPTED or (is_retry and verdict.outcome == DUPLICATE), verdict
        self.unanswered = None
        self.acknowledged[message.sender.agent_id, message.sample] = verdict.outcome
        if is_retry:
            self.retried.append(verdict.outcome)

    def send_until_acknowledged(self, connection: http.client.HTTPConnection) -> None:
        self.send_one(connection)
        while self.unanswered is not None:
            self.send_one(connection)

    def _next(self) -> Message:
        sender = self.chance.choice(self.nodes)
        sample = sum(1 for agent_id, _ in self.messages if agent_id == sender.agent_id) + 1
        message = self._sealed(sender, sample, [])
        self.messages[sender.agent_id, sample] = message
        return message

    def _again(self, message: Message) -> Message:
        # Either the same bytes again, or the measurement signed again as an agent does.
        if self.chance.random() < 0.5:
            return message
        again = self._sealed(message.sender, message.sample, message.forms)
        self.messages[message.sender.agent_id, message.sample] = again
        return again

    def _sealed(self, sender: Node, sample: int, forms: list[bytes]) -> Message:
        tick = self.ticks[sender.agent_id] = self.ticks.get(sender.agent_id, 0) + 1
        body = sealed(report(sender, sample, now_ms(), tick=tick))
        return Message(sender, sample, tick, body, [*forms, parse(body).data])


@pytest.fixture
def chance() -> random.Random:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")  # pytest shows it when the test fails
    return random.Random(seed)


def test_kills_lose_no_acknowledged_report_and_duplicate_none(tmp_path: Path, chance: random.Random) -> None:
    couriers = [
        Courier([node(AGENTS_EACH * place + i) for i in range(AGENTS_EACH)], random.Random(chance.random()))
        for place in range(SENDERS)
    ]
    manager, kills, wanted = Manager(tmp_path), 0, 0
    try:
        while kills < MANAGER_KILLS or not kills_hit_both_sides_of_a_commit(couriers):
            kills += 1
            assert kills < 10 * MANAGER_KILLS, "all retries had the same outcome"
            manager.start()
            threads = [threading.Thread(target=courier.send_until_dead, args=(manager,)) for courier in couriers]
            for thread in threads:
                thread.start()
            wanted += chance.randrange(40)
            wait_for(partial(have_acknowledged, couriers, wanted), "acknowledged reports")
            time.sleep(chance.uniform(0, 0.01))
            manager.kill()
            join_all(threads)
            assert [courier.failure for courier in couriers] == [None] * SENDERS
            assert acknowledged(couriers) <= stored(manager)
        manager.start()
        with closing(manager.connect()) as connection:
            for courier in couriers:
                courier.send_until_acknowledged(connection)
        manager.stop()
    finally:
        manager.kill()
    assert stored(manager) == {key for courier in couriers for key in courier.messages} == acknowledged(couriers)
    check_audit_log(manager, couriers)
    outcomes = Counter(outcome for courier in couriers for outcome in courier.retried)
    print(f"{kills} kills, {len(acknowledged(couriers))} acknowledged; retried: {dict(outcomes)}")
    assert outcomes.total() >= MANAGER_KILLS


def have_acknowledged(couriers: list[Courier], wanted: int) -> bool:
    return len(acknowledged(couriers)) >= wanted


def kills_hit_both_sides_of_a_commit(couriers: list[Courier]) -> bool:
    """Return whether kills hit before a commit, and between a commit and its answer."""
    return {outcome for courier in couriers for outcome in courier.retried} == {ACCEPTED, DUPLICATE}


def test_an_acknowledged_report_is_in_the_database(tmp_path: Path) -> None:
    missing, seen = [], list[int]()

    def send(manager: Manager, place: int) -> None:
        courier = Courier([node(place)], random.Random(place))
        with closing(manager.connect()) as connection, closing(sqlite3.connect(manager.database)) as database:
            query = "SELECT count(*) FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? AND sample = ?"
            for _ in range(REPORTS):
                courier.send_until_acknowledged(connection)
                key = (node(place).agent_id, len(courier.acknowledged))
                if database.execute(query, key).fetchone() != (1,):
                    missing.append(key)
            seen.append(len(courier.acknowledged))

    with running_manager(tmp_path) as manager:
        threads = [threading.Thread(target=send, args=(manager, place)) for place in range(8)]
        for thread in threads:
            thread.start()
        join_all(threads)
    assert missing == []
    assert seen == [REPORTS] * 8


def test_a_killed_first_start_is_repaired_by_the_next(tmp_path: Path, chance: random.Random) -> None:
    (tmp_path / "other").mkdir()
    began = time.monotonic()
    with running_manager(tmp_path / "other"):
        start_seconds = time.monotonic() - began
    manager = Manager(tmp_path)
    try:
        for _ in range(FIRST_START_KILLS):
            with manager.log_file.open("ab") as log:
                started = subprocess.Popen(
                    [*MANAGER, "serve"], cwd=tmp_path, env=manager.environment, stdout=log, stderr=log
                )
            time.sleep(chance.uniform(0.1, 0.9) * start_seconds)
            tree = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
            for process in tree:
                process.kill()
            started.wait()
        wait_until_free(manager.port)
        manager.start()
        assert manager.post(sealed(report(node(1), 1, now_ms()))).status == 200
    finally:
        manager.kill()
    assert manager.rows("PRAGMA integrity_check") == [("ok",)]
    assert manager.rows("SELECT count(*) FROM reports") == [(1,)]


def wait_until_free(port: int) -> None:
    """Wait until a worker that started just before its parent was killed has ended."""

    def is_free() -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

    wait_for(is_free, f"port {port} to be free")


def test_a_killed_worker_loses_no_report_and_is_replaced(tmp_path: Path) -> None:
    courier = Courier([node(1)], random.Random(1))
    with running_manager(tmp_path) as manager:
        for before in list(manager.workers()):
            before.kill()
            for _ in range(20):
                try:
                    with closing(manager.connect(5)) as connection:
                        courier.send_one(connection)
                except (OSError, http.client.HTTPException):
                    time.sleep(0.05)
            assert before.pid not in replaced(manager, workers=2)
        with closing(manager.connect()) as connection:
            courier.send_until_acknowledged(connection)
        assert courier.failure is None
        assert stored(manager) == set(courier.messages) == set(courier.acknowledged)


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        parent, *workers = manager.processes()
        parent.kill()
        wait_for(lambda: not any(map(is_alive, workers)), "the workers to end and free the port")
        manager.kill()
        manager.start()
        assert manager.post(sealed(report(node(1), 1, now_ms()))).status == 200


def replaced(manager: Manager, workers: int) -> list[int]:
    def alive() -> list[int]:
        return [worker.pid for worker in manager.workers() if is_alive(worker)]

    wait_for(lambda: len(alive()) >= workers, "the killed worker to be replaced")
    return alive()


def acknowledged(couriers: list[Courier]) -> set[tuple[str, int]]:
    return {key for courier in couriers for key in courier.acknowledged}


def stored(manager: Manager) -> set[tuple[str, int]]:
    rows = manager.rows("SELECT agent_id, sample FROM reports JOIN agents ON ref = agent_ref")
    assert len(rows) == len(set(rows))
    return {(agent_id, sample) for agent_id, sample in rows}


def check_audit_log(manager: Manager, couriers: list[Courier]) -> None:
    assert manager.rows("PRAGMA integrity_check") == [("ok",)]
    sent = {key: message.forms for courier in couriers for key, message in courier.messages.items()}
    count = 0
    for record in opened(manager):
        assert record.data in sent[record.agent_id, record.sample]
        assert KEY.matches(Purpose.REPORT, record.data, record.mac)
        count += 1
    assert count == len(sent)


def opened(manager: Manager) -> list[Record]:
    store = Store(manager.database)
    try:
        return all_records(store)
    finally:
        store.close()
