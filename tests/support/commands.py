"""Runs the operator's commands as processes, and names the agents of their tests."""

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
    """Return a manager that takes its PSK from this name in the zone of a DNS server."""
    return Manager(folder, ring=ring, DNS=f"{name}.example.org", DNS_SERVER=knot.address)


def run(manager: Manager, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command; check its exit code, and that its output has no traceback and no PSK."""
    done = manager.command(*arguments)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert PSK.decode() not in done.stdout + done.stderr
    return done


def failed(manager: Manager, *arguments: str, code: int = 1) -> str:
    """Run a command that fails, and return its error message; check that stdout is empty."""
    done = run(manager, *arguments, code=code)
    assert done.stdout == ""
    assert done.stderr.startswith("kattila-manager: ")
    return done.stderr
