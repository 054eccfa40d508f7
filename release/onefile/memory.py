"""Gives bytes a path, for libraries that need a file, without writing to a folder."""

from __future__ import annotations

import atexit
import os
import tempfile


def path_of(content: bytes) -> str:
    """Return a path with this content that can be read, or loaded as a library, until the process ends."""
    try:
        file = os.memfd_create("kattila-agent")
    except OSError:
        return _temporary(content)
    with os.fdopen(os.dup(file), "wb") as stream:
        stream.write(content)
    return f"/proc/self/fd/{file}"


def _temporary(content: bytes) -> str:
    # Some hardened kernels allow no executable files in memory (vm.memfd_noexec=2).
    file = tempfile.NamedTemporaryFile(prefix="kattila-agent-")  # noqa: SIM115 - open until the process ends
    atexit.register(file.close)
    file.write(content)
    file.flush()
    return file.name
