"""The ring file survives kills, races, damage and wrong modes, and never shows a PSK."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_keys.ring_file import RingFile, RingFileDamagedError, RingFileError, StoredRing
from kattila_protocol.ring import RING_SIZE, Ring, RingEntry, Standing
from kattila_protocol.signing import Key
from support.counts import RING_FILE_KILLS
from support.waiting import PATIENCE_SECONDS

PSK = b"example psk, protects nothing"
OTHER_PSK = b"another psk that protects nothing"
NOW = 1_700_000_000_000
STORED = StoredRing(Ring().with_current(OTHER_PSK, NOW - 1000).with_current(PSK, NOW), asked_at=NOW, answered_at=NOW)

times = st.integers(min_value=-(2**62), max_value=2**62)
entries = st.builds(
    RingEntry,
    st.builds(Key.from_psk, st.binary(min_size=1)),
    times,
    *[st.none() | times] * 3,
    st.sampled_from(Standing),
)
rings = st.lists(entries, max_size=RING_SIZE + 1, unique_by=lambda entry: entry.key.psk).map(
    lambda chosen: Ring(tuple(chosen))
)
stored_rings = st.builds(StoredRing, rings, st.none() | times, st.none() | times, needs_prefix=st.booleans())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.json"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_missing_file_is_an_empty_ring(path: Path) -> None:
    assert RingFile(path).read() == StoredRing(Ring(), None, None)
    assert not path.exists()


@given(stored_rings, stored_rings)
def test_written_rings_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, first: StoredRing, second: StoredRing
) -> None:
    path = tmp_path_factory.mktemp("ring") / "ring.json"
    reader = RingFile(path)
    for stored in (first, second):
        assert RingFile(path).update(lambda _, stored=stored: stored) == stored  # type: ignore[misc]
        assert reader.read() == stored


def test_update_starts_from_what_another_process_wrote(path: Path) -> None:
    early = RingFile(path)
    early.read()
    RingFile(path).update(lambda _: STORED)
    assert early.update(lambda stored: replace(stored, asked_at=NOW + 1)) == replace(STORED, asked_at=NOW + 1)


def test_an_unchanged_file_is_not_read_again(path: Path) -> None:
    RingFile(path).update(lambda _: STORED)
    reader = RingFile(path)
    assert reader.read() is reader.read()


def test_an_equal_value_is_not_written(path: Path) -> None:
    file = RingFile(path)
    file.update(lambda _: STORED)
    before = path.stat().st_ctime_ns
    file.update(lambda stored: replace(stored, asked_at=NOW))
    assert path.stat().st_ctime_ns == before


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_the_mode_is_0600_under_any_umask(path: Path, mask: int) -> None:
    with umask(mask):
        RingFile(path).update(lambda _: STORED)
        with RingFile(path).query_lock(wait=True):
            pass
    assert {name.name: mode(name) for name in path.parent.iterdir()} == {
        "ring.json": 0o600,
        "ring.json.asking": 0o600,
        "ring.json.lock": 0o600,
    }


def test_the_mode_is_0600_while_the_file_is_written(path: Path) -> None:
    # An audit hook sees every open, chmod and rename of the process, those of the temporary file included.
    script = """
import os, pathlib, sys
from kattila_keys.ring_file import StoredRing, RingFile
from kattila_protocol.ring import Ring
def hook(event, arguments):
    if event == "open" and arguments[2] & os.O_CREAT:
        sys.stderr.write(f"{arguments[0]}\\n")
    if event in ("os.chmod", "os.rename"):
        folder = arguments[2] if event == "os.rename" else None
        found = os.stat(arguments[0], dir_fd=folder).st_mode & 0o777
        sys.stdout.write(f"{event} {found:o}\\n")
sys.addaudithook(hook)
os.umask(0)
RingFile(pathlib.Path(sys.argv[1])).update(lambda _: StoredRing(Ring().with_current(b"x" * 16, 1)))
"""
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    seen = run.stdout.splitlines()
    # The lock and the temporary file when they are created, and the temporary file when it is renamed.
    assert seen == ["os.chmod 600", "os.chmod 600", "os.rename 600"]


def test_a_wide_mode_is_narrowed_with_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RingFile(path).update(lambda _: STORED)
    path.chmod(0o644)
    file = RingFile(path)
    assert file.read() == STORED
    assert mode(path) == 0o600
    assert f"{path} had mode 0644, which let other users read the PSK: narrowed to 0600" in caplog.text
    assert len(caplog.records) == 1
    file.read()
    assert len(caplog.records) == 1


def _whole() -> bytes:
    one = '{"fingerprint":"%s","psk_hex":"%s","first_seen_at":1,"last_used_at":null}'
    return (
        '{"version":1,"asked_at":1,"answered_at":1,"entries":['
        + one % (Key.from_psk(PSK).fingerprint, PSK.hex())
        + "]}\n"
    ).encode()


def test_the_text_that_the_damages_change_is_valid(path: Path) -> None:
    path.write_bytes(_whole())
    path.chmod(0o600)
    assert RingFile(path).read() == StoredRing(Ring((RingEntry(Key.from_psk(PSK), 1),)), 1, 1)


def test_an_earlier_version_reads_a_file_with_a_key_on_trial(path: Path) -> None:
    psks = [b"example psk number %d" % number for number in range(4)]
    ring = Ring(tuple(RingEntry(Key.from_psk(psk), NOW) for psk in psks[1:])).with_current(psks[0], NOW)
    assert RingFile(path).update(lambda _: StoredRing(ring)).ring == RingFile(path).read().ring == ring
    # It refuses a file with more than three entries.
    found = [entry["fingerprint"] for entry in json.loads(path.read_bytes())["entries"]]
    assert found == [Key.from_psk(psk).fingerprint for psk in psks[1:]]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "all but the end": lambda whole: whole[:-3],
    "zeros, as after a power cut": lambda whole: bytes(len(whole)),
    "random bytes": lambda whole: bytes(range(256)),
    "not an object": lambda whole: b"[" + whole + b"]",
    "another version": lambda whole: whole.replace(b'"version":1', b'"version":2'),
    "a member is missing": lambda whole: whole.replace(b'"answered_at":1,', b""),
    "a time is a string": lambda whole: whole.replace(b'"asked_at":1', b'"asked_at":"1"'),
    "a time is a boolean": lambda whole: whole.replace(b'"asked_at":1', b'"asked_at":true'),
    "never first seen": lambda whole: whole.replace(b'"first_seen_at":1', b'"first_seen_at":null'),
    "one digit of the PSK": lambda whole: whole.replace(PSK.hex().encode(), b"0" + PSK.hex().encode()[1:]),
    "PSK is not hex": lambda whole: whole.replace(PSK.hex().encode(), b"zz"),
    "PSK is a number": lambda whole: whole.replace(b'"%s"' % PSK.hex().encode(), b"1"),
    "entries is an object": lambda whole: whole.replace(b"[{", b"{").replace(b"}]", b"}"),
    "entries is a number": lambda whole: b'{"version":1,"asked_at":1,"answered_at":1,"entries":1}',
    "an entry is a string": lambda whole: b'{"version":1,"asked_at":1,"answered_at":1,"entries":["%s"]}' % PSK,
    "an unknown standing": lambda whole: whole.replace(b'"first_seen_at":1', b'"standing":"?","first_seen_at":1'),
    "deeply nested": lambda whole: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_reported_and_then_replaced(
    path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = damage(_whole())
    path.write_bytes(damaged)
    path.chmod(0o600)
    file = RingFile(path)
    with pytest.raises(RingFileDamagedError) as caught:
        file.read()
    assert f"{path} is damaged" in str(caught.value)
    assert "will be rebuilt from the next DNS answer" in str(caught.value)

    assert file.update(lambda stored: replace(stored, asked_at=NOW)) == StoredRing(asked_at=NOW)
    assert RingFile(path).read() == StoredRing(asked_at=NOW)
    (aside,) = path.parent.glob("ring.json.damaged-*")
    assert aside.read_bytes() == damaged
    assert mode(aside) == 0o600
    assert f"moved to {aside.name}" in caplog.text
    texts = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert PSK.decode() not in texts
    assert PSK.hex() not in texts


def test_a_damaged_file_costs_a_running_process_no_key(path: Path) -> None:
    file = RingFile(path)
    file.update(lambda _: STORED)
    path.write_bytes(b"{")
    assert file.update(lambda stored: replace(stored, asked_at=NOW + 1)).ring == STORED.ring


def test_an_error_names_the_unreadable_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(RingFileError, match=r"cannot read .*ring\.json \(Not a regular file\): its folder must exist"):
        RingFile(path).read()


def test_an_error_names_the_missing_folder(path: Path) -> None:
    file = RingFile(path.parent / "missing" / "ring.json")
    for attempt in (lambda: file.update(lambda _: STORED), lambda: file.query_lock(wait=True).__enter__()):
        with pytest.raises(
            RingFileError, match=r"cannot write .*missing/ring\.json \(No such file or directory\): its"
        ):
            attempt()


def test_the_query_lock_has_one_holder(path: Path) -> None:
    with RingFile(path).query_lock(wait=True) as first:
        assert first
        with RingFile(path).query_lock(wait=False) as second:
            assert not second
    with RingFile(path).query_lock(wait=False) as third:
        assert third


# Increments a number 50 times; four processes run it together.
COUNT = """
import pathlib, sys
from dataclasses import replace
from kattila_keys.ring_file import RingFile
file = RingFile(pathlib.Path(sys.argv[1]))
for _ in range(50):
    file.update(lambda stored: replace(stored, asked_at=(stored.asked_at or 0) + 1))
"""


def test_concurrent_updates_lose_no_change(path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(path)]) for _ in range(4)]
    assert [process.wait(timeout=PATIENCE_SECONDS) for process in processes] == [0] * 4
    assert RingFile(path).read().asked_at == 200


# Kills forked writers a few milliseconds after their first change; prints the content of the file after each kill.
KILL = """
import os, pathlib, signal, sys, time
from dataclasses import replace
from kattila_keys.ring_file import RingFile

path = pathlib.Path(sys.argv[1])
for attempt in range(int(sys.argv[2])):
    before = RingFile(path).read().asked_at
    writer = os.fork()
    if writer == 0:
        file = RingFile(path)
        while True:
            file.update(lambda stored: replace(stored, asked_at=(stored.asked_at or 0) + 1))
    while RingFile(path).read().asked_at == before:
        time.sleep(0.001)
    time.sleep(attempt % 10 * 0.0037)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    stored = RingFile(path).read()
    print(stored.asked_at, *(entry.key.fingerprint for entry in stored.ring.entries))
"""


def test_a_killed_writer_leaves_a_valid_file(path: Path) -> None:
    RingFile(path).update(lambda _: replace(STORED, asked_at=0))
    run = subprocess.run(
        [sys.executable, "-c", KILL, str(path), str(RING_FILE_KILLS)], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == RING_FILE_KILLS
    assert {tuple(keys) for _, *keys in lines} == {tuple(entry.key.fingerprint for entry in STORED.ring.entries)}
    counted = [int(count) for count, *_ in lines]
    assert counted == sorted(set(counted))
    assert {found.name for found in path.parent.iterdir()} <= {"ring.json", "ring.json.lock", "ring.json.new"}
    RingFile(path).update(lambda stored: replace(stored, asked_at=0))
    assert {found.name for found in path.parent.iterdir()} == {"ring.json", "ring.json.lock"}


def test_the_psk_is_never_shown(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stored = RingFile(path).update(lambda _: STORED)
    shown = repr(stored) + str(stored) + repr(RingFile(path).read()) + caplog.text
    assert Key.from_psk(PSK).fingerprint in shown
    assert PSK.decode() not in shown
    assert PSK.hex() not in shown
