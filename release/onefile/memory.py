"""Bytes that somebody wants to open by a path, without a folder to write them to.

May live here: files in memory.
"""

from __future__ import annotations

import atexit
import os
import tempfile


def path_of(content: bytes) -> str:
    """Return a path that can be read, and loaded as a library, until the process ends."""
    try:
        file = os.memfd_create("kattila-agent")
    except OSError:
        return _temporary(content)
    with os.fdopen(os.dup(file), "wb") as stream:
        stream.write(content)
    return f"/proc/self/fd/{file}"


def _temporary(content: bytes) -> str:
    # Some hardened kernels have no files in memory that can be executed (vm.memfd_noexec=2).
    named = tempfile.NamedTemporaryFile(prefix="kattila-agent-")  # noqa: SIM115 - open until the process ends
    atexit.register(named.close)
    named.write(content)
    named.flush()
    return named.name
