"""The operator's commands as processes of their own, and who reports in their tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key
from support.knot import Knot
from support.manager import Manager
from support.reports import PSK, node

OLD_KEY = Key.from_psk(b"psk of the month before, protects nothing")
ONE, TWO, THREE, FOUR = node(1), node(2), node(3), node(4)
HOSTILE = "\x1b[2J\u202eevil"


def with_dns(folder: Path, knot: Knot, name: str, *, ring: Ring | None) -> Manager:
    """Return a manager whose key is the record of this name in the zone of a DNS server."""
    return Manager(folder, ring=ring, DNS=f"{name}.example.org", DNS_SERVER=knot.address)


def run(manager: Manager, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it ends with this code, without a traceback and without the PSK."""
    done = manager.command(*arguments)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert PSK.decode() not in done.stdout + done.stderr
    return done


def failed(manager: Manager, *arguments: str, code: int = 1) -> str:
    """Run a command that fails, and return what it says of it: in one place, and under its own name."""
    done = run(manager, *arguments, code=code)
    assert done.stdout == ""
    assert done.stderr.startswith("kattila-manager: ")
    return done.stderr
