"""The identity in a state folder: numbers are never given twice, and damage is repaired."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from kattila_agent.identity import MAX_NUMBER, Counters, Identity, StateError
from kattila_protocol.names import MAX_COUNTER, is_id
from support.folder_access import make_world_readable
from support.small_disk import small_disk
from support.waiting import PATIENCE_SECONDS

ID = "11111111-1111-4111-8111-111111111111"
OTHER_ID = "22222222-2222-4222-8222-222222222222"

TAKER = """
import sys
from pathlib import Path
from kattila_agent.identity import Identity
identity = Identity(Path(sys.argv[1]), lambda: sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    taken = identity.take()
    print(taken.agent_id, taken.sample, taken.tick)
"""


def drawn() -> str:
    return str(uuid.uuid4())


def kept(folder: Path) -> Identity:
    (folder / "agent_id.txt").write_text(f"{ID}\n")
    return Identity(folder, drawn)


def test_the_first_run_makes_an_id_and_the_second_keeps_it(tmp_path: Path) -> None:
    agent_id = Identity(tmp_path, drawn).agent_id()
    assert is_id(agent_id)
    assert (tmp_path / "agent_id.txt").read_bytes() == agent_id.encode() + b"\n"
    assert Identity(tmp_path, drawn).agent_id() == agent_id


def test_numbers_go_up_across_restarts(tmp_path: Path) -> None:
    assert kept(tmp_path).take() == Counters(ID, 1, 1)
    assert Identity(tmp_path, drawn).take() == Counters(ID, 2, 2)


def test_numbers_are_on_disk_before_they_are_used(tmp_path: Path) -> None:
    taken = kept(tmp_path).take()
    assert json.loads((tmp_path / "counters.json").read_text()) == {
        "agent_id": ID,
        "sample": taken.sample,
        "tick": taken.tick,
    }


def test_two_processes_never_take_the_same(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(tmp_path), agent_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for agent_id in (ID, OTHER_ID)
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = [
        line.split() for process in started for line in process.communicate(timeout=PATIENCE_SECONDS)[0].splitlines()
    ]
    assert [process.returncode for process in started] == [0, 0]
    assert len({agent_id for agent_id, _, _ in taken}) == 1
    assert sorted(int(sample) for _, sample, _ in taken) == list(range(1, 401))
    assert sorted(int(tick) for _, _, tick in taken) == list(range(1, 401))


def test_numbers_continue_after_a_kill(tmp_path: Path) -> None:
    kept(tmp_path).take()
    (tmp_path / "counters.json.new").write_text('{"agent_id":')
    assert Identity(tmp_path, drawn).take() == Counters(ID, 2, 2)


def test_numbers_are_raised_above_those_of_the_manager(tmp_path: Path) -> None:
    identity = kept(tmp_path)
    identity.raise_above(ID, 1000, 500)
    assert identity.take() == Counters(ID, 501, 1001)
    identity.raise_above(ID, 7, 7)
    assert identity.take() == Counters(ID, 502, 1002)


def test_numbers_are_not_raised_for_an_id_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    identity = kept(tmp_path)
    identity.replace(ID, OTHER_ID)
    identity.raise_above(ID, 1000, 500)
    assert identity.take() == Counters(OTHER_ID, 1, 1)


def test_another_message_takes_a_tick_but_no_sample(tmp_path: Path) -> None:
    identity = kept(tmp_path)
    assert identity.take() == Counters(ID, 1, 1)
    assert identity.take(samples=0) == Counters(ID, 1, 2)
    assert identity.last() == Counters(ID, 1, 2)


def test_counting_continues_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 64) as folder:
        identity = kept(folder)
        identity.take()
        with (folder / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
            while True:
                filler.write(bytes(512))
        assert identity.take() == Counters(ID, 2, 2)
        assert Identity(folder, drawn).take() == Counters(ID, 3, 3)


def test_a_new_id_starts_with_tick_1_continues_samples_and_keeps_the_ring(tmp_path: Path) -> None:
    identity = kept(tmp_path)
    identity.take()
    (tmp_path / "ring.json").write_text("the cached keys")
    fresh = identity.replace(ID)
    assert is_id(fresh) and fresh != ID
    assert identity.take() == Counters(fresh, 2, 1)
    assert (tmp_path / "ring.json").read_text() == "the cached keys"


def test_the_first_of_two_replacements_wins(tmp_path: Path) -> None:
    identity = kept(tmp_path)
    assert identity.replace(ID, OTHER_ID) == OTHER_ID
    assert identity.replace(ID) == OTHER_ID


def test_an_id_written_by_hand_starts_with_its_own_ticks(tmp_path: Path) -> None:
    kept(tmp_path).take()
    (tmp_path / "agent_id.txt").write_text(OTHER_ID.upper())
    assert Identity(tmp_path, drawn).take() == Counters(OTHER_ID, 2, 1)


@pytest.mark.parametrize("text", [b"node-17\n", b"", b"\xff\xfe", ID.encode() + b"\n" + ID.encode()])
def test_an_invalid_id_is_refused_and_kept(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "agent_id.txt").write_bytes(text)
    with pytest.raises(StateError, match="is not a UUID: restore this node's id, or remove the file"):
        Identity(tmp_path, drawn).agent_id()
    assert (tmp_path / "agent_id.txt").read_bytes() == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b"\xff",
        b"[1, 2]",
        b"[" * 20_000,
        b'{"agent_id": "%s", "sample": -1, "tick": 5}' % ID.encode(),
        b'{"agent_id": "%s", "sample": 5}' % ID.encode(),
        b'{"agent_id": "%s", "sample": 1, "tick": true}' % ID.encode(),
        b'{"agent_id": 7, "sample": 1, "tick": 1}',
    ],
)
def test_damaged_counters_are_logged_and_start_again(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    identity = kept(tmp_path)
    (tmp_path / "counters.json").write_bytes(text)
    with caplog.at_level(logging.WARNING):
        assert identity.take() == Counters(ID, 1, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "counters.json is damaged" in caplog.text and "until the manager reports" in caplog.text


@pytest.mark.parametrize("number", [MAX_NUMBER + 1, MAX_COUNTER - 1, MAX_COUNTER, MAX_COUNTER + 1])
def test_a_number_that_leaves_no_room_is_not_adopted(tmp_path: Path, number: int) -> None:
    identity = kept(tmp_path)
    identity.raise_above(ID, number, 7)
    assert identity.take() == Counters(ID, 8, 1)
    identity.raise_above(ID, 7, number)
    assert identity.take() == Counters(ID, 9, 8)


@pytest.mark.parametrize("number", [MAX_NUMBER + 1, MAX_COUNTER])
def test_used_up_numbers_are_logged_and_start_again(
    tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    identity = kept(tmp_path)
    (tmp_path / "counters.json").write_text(json.dumps({"agent_id": ID, "sample": 5, "tick": number}))
    assert identity.take() == Counters(ID, 6, 1)
    (tmp_path / "counters.json").write_text(json.dumps({"agent_id": ID, "sample": number, "tick": 5}))
    assert identity.take() == Counters(ID, 1, 6)
    assert [f"{number} is unusable" in line for line in caplog.messages] == [True, True]


def test_numbers_are_lowered_for_their_id_only(tmp_path: Path) -> None:
    identity = kept(tmp_path)
    identity.raise_above(ID, 1000, 500)
    identity.lower(OTHER_ID, 1, 1)
    assert identity.last() == Counters(ID, 500, 1000)
    identity.lower(ID, 30, 20)
    assert identity.take() == Counters(ID, 21, 31)


def test_a_missing_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"missing \(No such file or directory\): it must exist.*STATE_DIR"):
        Identity(tmp_path / "missing", drawn).agent_id()


def test_a_folder_of_another_user_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("taking another user's place needs root")
    kept(tmp_path).take()
    # pytest's folders are closed to others; the one below them is what is tested.
    make_world_readable(tmp_path)
    code = (
        "import os, sys, pathlib; from kattila_agent.identity import Identity; os.setuid(65534)\n"
        "identity = Identity(pathlib.Path(sys.argv[1]), str)\n"
        "print(identity.agent_id())\n"
        "identity.take()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert found.stdout == f"{ID}\n"
    assert "(Permission denied): it must exist, have space, and belong to the user that runs this" in found.stderr
