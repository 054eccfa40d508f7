"""The module kattila_node returns a node's listeners, disk space and existing paths."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from support.modules import PYTHON, SKIPPED, run_module

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)


def result(**arguments: Any) -> dict[str, Any]:
    return run_module("kattila_node", check=True, **arguments).members


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_listener_on_a_port_is_named(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as taken:
        taken.bind((address, 0))
        taken.listen()
        (found,) = result(ports=[taken.getsockname()[1]])["listeners"]
    assert found["pid"] == os.getpid()
    assert found["program"] == Path("/proc/self/comm").read_text().strip()


def test_a_port_without_a_listener_returns_none() -> None:
    with socket.socket() as connected, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        connected.connect(listening.getsockname())
        assert result(ports=[connected.getsockname()[1]])["listeners"] == []


def test_space_is_returned_for_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * 1024 * 1024))
    existing, planned = str(tmp_path), str(tmp_path / "not" / "yet")
    space = result(folders=[existing, planned])["space"]
    assert space[existing]["used_mib"] == 3
    assert space[planned]["used_mib"] == 0
    assert abs(space[planned]["free_mib"] - space[existing]["free_mib"]) < 1024
    assert space[existing]["free_mib"] > 0
    assert space[planned]["disk"] == space[existing]["disk"] == tmp_path.stat().st_dev


def test_folders_on_separate_file_systems_have_separate_disks() -> None:
    space = result(folders=["/proc", "/sys", "/proc/sys"])["space"]
    assert space["/proc"]["disk"] == space["/proc/sys"]["disk"] != space["/sys"]["disk"]


def test_existing_paths_are_returned_with_their_link_targets(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    names = ["file", "link", "dangling", "nothing"]
    existing = result(paths=[str(tmp_path / name) for name in names])["existing"]
    assert existing == {
        str(tmp_path / "file"): "",
        str(tmp_path / "link"): "file",
        str(tmp_path / "dangling"): "nothing",
    }
