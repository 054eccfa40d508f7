"""A disk whose power can be cut: data that is not synced by then is lost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.mounts import mounted

# Disables the heuristic of ext4 for programs that rename without a sync (ext4(5)).
_OPTIONS = "loop,noauto_da_alloc"


@dataclass(frozen=True)
class Disk:
    """An ext4 file system in a file; `path` is where it is mounted."""

    path: Path
    image: Path

    def cut(self, number: int) -> None:
        """Save the content of the disk after a power cut at this moment: the image lacks the kernel's cache."""
        shutil.copyfile(self.image, f"{self.image}.{number}")

    def after_cut(self, number: int) -> AbstractContextManager[Path]:
        """Mount the content that `cut` saved under this number."""
        return mounted(self.path.with_name(f"disk-{number}"), "ext4", _OPTIONS, f"{self.image}.{number}")


@contextmanager
def disk_with_power_cuts(folder: Path) -> Iterator[Disk]:
    """Create such a disk in a folder; skips the test without permission to mount."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is missing: apt-get install e2fsprogs")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(image)], check=True)
    with mounted(folder / "disk", "ext4", _OPTIONS, str(image)) as path:
        yield Disk(path, image)
