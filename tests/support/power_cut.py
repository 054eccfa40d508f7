"""A disk of its own whose power can be cut: what was not synced by then is gone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.mounting import mounted

# Without the help that ext4 gives to programs that forget to sync before they rename (ext4(5)).
_OPTIONS = "loop,noauto_da_alloc"


@dataclass(frozen=True)
class Disk:
    """An ext4 file system in a file; `path` is where it is mounted."""

    path: Path
    image: Path

    def cut(self, which: int) -> None:
        """Keep what the disk would hold now without power: the kernel's cache is above the image, not in it."""
        shutil.copyfile(self.image, f"{self.image}.{which}")

    def after_cut(self, which: int) -> AbstractContextManager[Path]:
        """Mount what was kept under this number."""
        return mounted(self.path.with_name(f"disk-{which}"), "ext4", _OPTIONS, f"{self.image}.{which}")


@contextmanager
def disk_with_a_plug(folder: Path) -> Iterator[Disk]:
    """Make such a disk below a folder; skips where that is not allowed."""
    if shutil.which("mke2fs") is None:
        pytest.skip("no mke2fs: apt-get install e2fsprogs")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(image)], check=True)
    with mounted(folder / "disk", "ext4", _OPTIONS, str(image)) as path:
        yield Disk(path, image)
