"""What the manager's role asks a node before it changes it: who listens, how much room there is, what is there."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from support.modules import PYTHON, SKIPPED, run_module

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)


def told(**asked: Any) -> dict[str, Any]:
    return run_module("kattila_manager", "kattila_node", check=True, **asked).members


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_who_listens_at_a_port_is_named(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as taken:
        taken.bind((address, 0))
        taken.listen()
        (found,) = told(ports=[taken.getsockname()[1]])["listeners"]
    assert found["pid"] == os.getpid()
    assert found["program"] == Path("/proc/self/comm").read_text().strip()


def test_a_port_at_which_nobody_listens_has_no_name() -> None:
    with socket.socket() as connected, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        connected.connect(listening.getsockname())
        assert told(ports=[connected.getsockname()[1]])["listeners"] == []


def test_room_is_told_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * 1024 * 1024))
    there, coming = str(tmp_path), str(tmp_path / "not" / "yet")
    room = told(folders=[there, coming])["room"]
    assert room[there]["used_mib"] == 3
    assert room[coming]["used_mib"] == 0
    assert abs(room[coming]["free_mib"] - room[there]["free_mib"]) < 1024
    assert room[there]["free_mib"] > 0


def test_what_is_there_is_told_with_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    names = ["file", "link", "dangling", "nothing"]
    there = told(paths=[str(tmp_path / name) for name in names])["there"]
    assert there == {
        str(tmp_path / "file"): "",
        str(tmp_path / "link"): "file",
        str(tmp_path / "dangling"): "nothing",
    }
