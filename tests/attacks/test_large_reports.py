"""Reports as large as the bounds allow delay nobody, and fill neither memory nor lists of the manager."""

from __future__ import annotations

import hashlib
import socket
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from select import select

import pytest
from sqlalchemy import Connection

from kattila_manager.records import Filed, VerifiedReport
from kattila_manager.store.ingest.compression_groups import CompressionGroups
from kattila_manager.store.ingest.writer import Writer
from kattila_manager.store.store import Store
from kattila_protocol import canonical
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import Overloaded
from kattila_protocol.report import Interface, Report, Route
from support.fleet import NOON, fleet_in
from support.manager import Manager, now_ms, running_manager
from support.raw_http import replies, updates
from support.reports import Node, body, node, nonce_of, report, sealed, sealed_bytes
from support.store import new_database, opened
from support.waiting import PATIENCE_SECONDS

MIB = 1024 * 1024
ROUNDS = 12


def large(sender: Node, sample: int, now: int, rows: int = 10_000) -> Report:
    """Return a report of almost 1 MiB within the bounds, which does not compress well."""
    made = report(sender, sample, now)
    digests = (hashlib.sha256(f"{sender.agent_id} {sample} {row}".encode()).hexdigest() for row in range(rows))
    routes = tuple(Route(digest[:36], None, digest[36:], None, 0, "static", "unicast") for digest in digests)
    return replace(made, telemetry=replace(made.telemetry, routes=routes))


def slow(sender: Node, sample: int) -> bytes:
    """Return the body of a report that takes the longest time to decode: many objects in an unknown member."""
    data = canonical.encode(report(sender, sample, now_ms()))
    item = b'{"a":1},'
    many = item * ((MAX_BODY_BYTES - len(data) - 500) // len(item))
    return sealed_bytes(data[:-1] + b',"more":[' + many + b"{}]}")


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with running_manager(tmp_path_factory.mktemp("large"), workers=1) as running:
        yield running


def sent(manager: Manager, content: bytes, source: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", manager.port), PATIENCE_SECONDS, (source, 0))
    connection.sendall(content)
    return connection


def test_large_reports_of_one_address_leave_room_for_those_of_others(tmp_path: Path) -> None:
    with running_manager(tmp_path, workers=1, listen="0.0.0.0") as running:
        bodies = [slow(node(10 + number), 1) for number in range(24)]
        liars = [sent(running, updates(content, {"Connection": "close"})[:-1], "127.0.0.2") for content in bodies]
        # The server has all of them, but for their last bytes.
        time.sleep(0.5)
        for liar, content in zip(liars, bodies, strict=True):
            liar.sendall(content[-1:])
        honest = sealed(large(node(3), 1, now_ms(), rows=500))
        with sent(running, updates(honest, {"Connection": "close"}), "127.0.0.3") as connection:
            (reply,) = replies(all_of(connection))
        answers = Counter(replies(all_of(liar))[0].status for liar in liars)
        for liar in liars:
            liar.close()
    print(f"honest: {reply.status}; liar: {dict(answers)}")
    assert reply.verdict(nonce_of(node(3), 1, 1)).outcome == "accepted"
    # Otherwise it would have waited for all of them.
    assert answers[503] > len(liars) // 2


def all_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_small_report_is_answered_while_a_large_one_is_decoded(manager: Manager) -> None:
    small_first = 0
    for sample in range(1, ROUNDS + 1):
        content = updates(slow(node(1), sample), {"Connection": "close"})
        with sent(manager, content[:-1]) as liar, sent(manager, b"") as honest:
            # The server has the large report, but for its last byte.
            time.sleep(0.1)
            liar.sendall(content[-1:])
            time.sleep(0.02)
            honest.sendall(updates(body(node(2), sample, now_ms()), {"Connection": "close"}))
            ready, _, _ = select([liar, honest], [], [], PATIENCE_SECONDS)
            small_first += ready == [honest]
            for connection, sender in ((liar, node(1)), (honest, node(2))):
                (reply,) = replies(all_of(connection))
                assert reply.verdict(nonce_of(sender, sample, sample)).outcome == "accepted"
    # If the event loop decodes the large report, it reads the small one only after that.
    print(f"the small report was answered first in {small_first} of {ROUNDS} rounds")
    assert small_first > ROUNDS // 2


def test_large_reports_are_filed_in_several_transactions(tmp_path: Path) -> None:
    transactions: list[Connection] = []
    store = Store(new_database(tmp_path))
    writer = Writer(store.engine, store.lock, transactions.append)
    incoming = [verified(number) for number in range(24)]
    with store.lock.held():
        waiting = [writer.submit(one) for one in incoming]
        writer.start()
    filed(waiting)
    writer.stop()
    store.close()
    # All in one would hold the write lock for as long as 24 MB take.
    assert len(transactions) >= 6


def test_large_reports_that_wait_do_not_fill_the_memory(tmp_path: Path) -> None:
    store = Store(new_database(tmp_path))
    writer = Writer(store.engine, store.lock, lambda _: None)
    one, accepted = verified(1), 0
    with store.lock.held():
        with pytest.raises(Overloaded):
            for _ in range(200):
                writer.submit(one)
                accepted += 1
        assert accepted * len(one.data) < 40 * MIB
        writer.start()
    writer.stop()
    store.close()


def test_the_reports_to_compress_against_do_not_fill_the_memory() -> None:
    groups = CompressionGroups()
    small = [opened(body(node(number), 1, NOON), NOON) for number in range(150)]
    tracemalloc.start()
    for number, one in enumerate(small, 1):
        data = hashlib.shake_256(one.data).digest(MIB)
        groups.note_commit(groups.compress(replace(one, data=data)), number)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 80 * MIB


def test_hardware_addresses_do_not_make_the_row_of_an_agent_large(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        for sample in range(1, 4):
            made = report(node(1), sample, NOON)
            links = tuple(
                Interface(number, "e", None, (), "UP", 0, f"{sample * 10**6 + number:095}", ())
                for number in range(2000)
            )
            fleet.file(
                replace(made, telemetry=replace(made.telemetry, interfaces=(*made.telemetry.interfaces, *links)))
            )
        row = fleet.members(node(1).agent_id)
        assert len(row["boot_hardware"]) + len(row["hardware"]) < 60_000
        # The machine is still the same one.
        assert row["highest_sample"] == 3


def verified(number: int) -> VerifiedReport:
    return opened(sealed(large(node(number), 1, NOON)), NOON)


def filed(waiting: list[Future[Filed]]) -> None:
    assert {each.result(PATIENCE_SECONDS).outcome for each in waiting} == {"accepted"}
