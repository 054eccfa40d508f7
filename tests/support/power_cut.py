"""A disk of its own whose power can be cut: what was not synced by then is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# Without the help that ext4 gives to programs that forget to sync before they rename (ext4(5)).
_OPTIONS = "loop,noauto_da_alloc"


@dataclass(frozen=True)
class Disk:
    """An ext4 file system in a file; `path` is where it is mounted."""

    path: Path
    image: Path

    def cut(self, which: int) -> None:
        """Keep what the disk would hold now without power: the kernel's cache is above the image, not in it."""
        shutil.copyfile(self.image, self.image.with_suffix(f".{which}"))

    @contextmanager
    def after_cut(self, which: int) -> Iterator[Path]:
        """Mount what was kept under this number."""
        with _mounted(self.image.with_suffix(f".{which}"), self.path.with_name(f"disk-{which}")) as path:
            yield path


@contextmanager
def disk_with_a_plug(folder: Path) -> Iterator[Disk]:
    """Make such a disk below a folder; skips where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    if shutil.which("mke2fs") is None:
        pytest.skip("no mke2fs: apt-get install e2fsprogs")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(image)], check=True)
    with _mounted(image, folder / "disk") as path:
        yield Disk(path, image)


@contextmanager
def _mounted(image: Path, path: Path) -> Iterator[Path]:
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "ext4", "-o", _OPTIONS, str(image), str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
