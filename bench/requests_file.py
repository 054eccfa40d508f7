"""Prebuilt requests in a memory-mapped file, so that a run neither builds nor copies them."""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Iterable
from pathlib import Path


def write_requests(path: Path, head: str, bodies: Iterable[bytes]) -> int:
    """Write one request per body, and a second file with the end of each; return the number of requests.

    `head` is the head of a request with `{length}` for the length of the body. The file is synced, so that the kernel
    does not write it during a run.
    """
    ends = array("Q")
    with path.open("wb") as file:
        for body in bodies:
            file.write(head.format(length=len(body)).encode("ascii") + body)
            ends.append(file.tell())
        file.flush()
        os.fsync(file.fileno())
    _ends_path(path).write_bytes(ends.tobytes())
    return len(ends)


class Requests:
    """The requests of a file by number, from 0. They are views of the mapped file, not copies."""

    def __init__(self, path: Path) -> None:
        """Map the file that `write_requests` wrote."""
        self._ends = array("Q", _ends_path(path).read_bytes())
        with path.open("rb") as file:
            self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> memoryview:
        return self._bytes[self._ends[number - 1] if number else 0 : self._ends[number]]

    def body(self, number: int) -> bytes:
        """Return the body of a request."""
        return bytes(self[number]).partition(b"\r\n\r\n")[2]


def _ends_path(path: Path) -> Path:
    return path.with_suffix(".ends")
