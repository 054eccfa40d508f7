"""The audit log returns every DATA byte for byte, whichever process filed it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_manager.records import VerifiedReport
from kattila_manager.store import compression
from kattila_protocol import canonical
from kattila_protocol.signing import Purpose
from support.counts import examples
from support.reports import KEY, Node, node, report, sealed_bytes
from support.store import Filer, all_records, new_database, opened
from support.waiting import PATIENCE_SECONDS

NOW = 1_760_000_000_000
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=300)


@dataclass(frozen=True)
class Step:
    """One report of an agent, filed by one of two processes, which may restart before it."""

    agent: int
    process: int
    restarts: bool
    later_ms: int
    text: str


STEPS = st.lists(
    st.builds(
        Step,
        agent=st.integers(0, 2),
        process=st.integers(0, 1),
        restarts=st.sampled_from([False] * 7 + [True]),
        later_ms=st.sampled_from([0, 30_000, 30_000, compression.GROUP_MS]),
        text=ANY_TEXT,
    ),
    min_size=1,
    max_size=40,
)


def data(sender: Node, sample: int, now: int, text: str) -> bytes:
    said = canonical.encode(report(sender, sample, now))
    # An unknown member, such as from a newer agent.
    return said[:-1] + b',"more":' + canonical.encode(text) + b"}"


@given(STEPS)
@settings(max_examples=examples(60))
def test_filed_reports_come_back_byte_for_byte(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = new_database(Path(folder))
        filers = [Filer(path), Filer(path)]
        try:
            filed = file_all(path, filers, steps)
            records = all_records(filers[0].store)
        finally:
            for filer in filers:
                filer.close()
    assert [(record.agent_id, record.sample) for record in records] == [key for key, _ in filed]
    for record, (_, sent) in zip(records, filed, strict=True):
        assert record.data == sent
        assert KEY.matches(Purpose.REPORT, record.data, record.mac)


def file_all(path: Path, filers: list[Filer], steps: list[Step]) -> list[tuple[tuple[str, int], bytes]]:
    now, samples, filed = NOW, {0: 0, 1: 0, 2: 0}, []
    for step in steps:
        if step.restarts:
            filers[step.process].close()
            filers[step.process] = Filer(path)
        now += step.later_ms
        samples[step.agent] += 1
        sender, sample = node(step.agent), samples[step.agent]
        sent = data(sender, sample, now, step.text)
        assert filers[step.process].file(opened(sealed_bytes(sent), now)).outcome == "accepted"
        filed.append(((sender.agent_id, sample), sent))
    return filed


@given(st.lists(st.binary(max_size=2000), min_size=2, max_size=2))
def test_compression_is_lossless_with_and_without_a_base(texts: list[bytes]) -> None:
    sent, base = texts
    assert compression.expand(compression.compress(sent, None), None) == sent
    assert compression.expand(compression.compress(sent, base), base) == sent


def test_a_damaged_body_is_an_error() -> None:
    base = canonical.encode(report(node(1), 1, NOW))
    body = compression.compress(canonical.encode(report(node(1), 2, NOW)), base)
    with pytest.raises(zstandard.ZstdError):
        compression.expand(body[: len(body) // 2], base)


@pytest.mark.parametrize("together", [1, 2, 3, 8, 10])
def test_concurrent_reports_of_one_agent_need_few_others(tmp_path: Path, together: int) -> None:
    # They are compressed before any of them is filed, as when an agent drains its spool.
    filer = Filer(new_database(tmp_path))
    try:
        for first in range(1, 121, together):
            numbers = range(first, first + together)
            burst = [opened(sealed_bytes(data(node(1), sample, NOW, "")), NOW) for sample in numbers]
            with filer.store.lock.held():
                waiting = [filer.submit(incoming) for incoming in burst]
            assert {future.result(PATIENCE_SECONDS).outcome for future in waiting} == {"accepted"}
        with filer.store.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT id, base_id FROM reports").all()
            bases: dict[int, int | None] = {row[0]: row[1] for row in rows}
    finally:
        filer.close()
    assert len(bases) == 120
    assert sum(base is None for base in bases.values()) <= together
    assert max(depth(bases, report_id) for report_id in bases) <= compression.CHAIN


def depth(bases: dict[int, int | None], report_id: int) -> int:
    base = bases[report_id]
    return 0 if base is None else 1 + depth(bases, base)


def test_a_report_takes_few_bytes_after_the_previous_one(tmp_path: Path) -> None:
    filer = Filer(new_database(tmp_path))
    try:
        sent = [data(node(1), sample, NOW + 30_000 * sample, "") for sample in range(1, 65)]
        for number, one in enumerate(sent):
            filer.file(replace(opened(sealed_bytes(one), NOW), received_at=NOW + 30_000 * number))
        with filer.store.engine.connect() as connection:
            sizes = connection.exec_driver_sql("SELECT length(body) FROM reports ORDER BY id").scalars().all()
    finally:
        filer.close()
    assert sum(sizes) / len(sizes) < 120
    assert sum(map(len, sent)) / sum(sizes) > 8


def test_data_is_passed_on_byte_for_byte() -> None:
    sent = data(node(1), 1, NOW, "ä\U0001f600")
    incoming: VerifiedReport = opened(sealed_bytes(sent), NOW)
    assert incoming.data == sent
