"""The module kattila_units writes several units in one call."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from support.modules import PYTHON, SKIPPED, Answer, run_module

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the module sets root as the owner"),
]
UNITS = {"kattila-one.service": "[Service]\n# é\n", "kattila-two@.socket": "[Socket]\n"}


def written(folder: Path, units: dict[str, str], *, check: bool = False) -> Answer:
    return run_module("kattila_units", check=check, folder=str(folder), units=units)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_all_units_are_written_once(tmp_path: Path) -> None:
    first, second = written(tmp_path, UNITS), written(tmp_path, UNITS)
    assert texts(tmp_path) == UNITS
    assert (first.members["units"], second.members["units"]) == (list(UNITS), [])
    assert (first.changed, second.changed) == (True, False)


def test_units_are_owned_by_root_and_readable_by_everyone(tmp_path: Path) -> None:
    written(tmp_path, UNITS)
    found = [path.stat() for path in tmp_path.iterdir()]
    assert {(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) for status in found} == {(0, 0, 0o644)}


def test_only_units_that_differ_are_written_and_shown(tmp_path: Path) -> None:
    written(tmp_path, UNITS)
    other = tmp_path / "kattila-one.service"
    before = (tmp_path / "kattila-two@.socket").stat().st_ctime_ns
    answer = written(tmp_path, UNITS | {other.name: "[Service]\nUser=x\n"})
    assert answer.members["units"] == [other.name]
    assert answer.members["diff"] == [
        {
            "before": UNITS[other.name],
            "after": "[Service]\nUser=x\n",
            "before_header": str(other),
            "after_header": str(other),
        }
    ]
    assert (tmp_path / "kattila-two@.socket").stat().st_ctime_ns == before


def test_a_changed_mode_is_corrected(tmp_path: Path) -> None:
    written(tmp_path, UNITS)
    changed = tmp_path / "kattila-one.service"
    changed.chmod(0o666)
    assert written(tmp_path, UNITS).members["units"] == [changed.name]
    assert stat.S_IMODE(changed.stat().st_mode) == 0o644


def test_check_mode_shows_the_change_and_writes_nothing(tmp_path: Path) -> None:
    assert written(tmp_path, UNITS, check=True).members["units"] == list(UNITS)
    assert texts(tmp_path) == {}
    written(tmp_path, UNITS)
    (tmp_path / "kattila-one.service").chmod(0o600)
    assert written(tmp_path, UNITS, check=True).changed
    assert stat.S_IMODE((tmp_path / "kattila-one.service").stat().st_mode) == 0o600


def test_a_binary_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "kattila-one.service").write_bytes(b"\xff\xfe")
    assert written(tmp_path, UNITS).changed
    assert texts(tmp_path) == UNITS
