"""Real WireGuard tunnels for tests, wireguard-go in network namespaces, and the helper behind a real socket."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.netns import Namespace, new_namespace
from support.waiting import PATIENCE_SECONDS, wait_for

SOCKETS = Path("/var/run/wireguard")


def wg(*words: str, given: str = "", prefix: Sequence[str] = ()) -> str:
    """Run `wg`, behind the words of a prefix, and return what it prints; fails with what it complains of."""
    done = subprocess.run([*prefix, "wg", *words], input=given, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"wg {words[0]}: {done.stderr.strip()}"
    return done.stdout


def skip_without_wireguard_go() -> None:
    """Skip the test where no userspace device can be made."""
    missing = [program for program in ("wg", "wireguard-go") if shutil.which(program) is None]
    if missing or os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip(f"a userspace tunnel needs root, /dev/net/tun, wg and wireguard-go (missing: {missing})")


class Device:
    """A wireguard-go device in a namespace; `private_key` is its secret, `public_key` tells who it is."""

    def __init__(self, namespace: Namespace, name: str) -> None:
        """Start it and wait for its socket."""
        self.namespace, self.name = namespace, name
        self.private_key = wg("genkey").strip()
        self.public_key = wg("pubkey", given=self.private_key).strip()
        self.process = subprocess.Popen(
            namespace.command("wireguard-go", "-f", name), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wait_for(self._has_socket, f"the socket of wireguard-go {name}")
        self.set("private-key", "/dev/stdin", given=self.private_key)

    def _has_socket(self) -> bool:
        assert self.process.poll() is None, self.process.stderr.read() if self.process.stderr else b""
        return (SOCKETS / f"{self.name}.sock").exists()

    def set(self, *words: str, given: str = "") -> None:
        """Run `wg set` on it, in its namespace, where the scope of a link-local endpoint has a name."""
        wg("set", self.name, *words, given=given, prefix=self.namespace.command())

    def close(self) -> None:
        """Stop it; its link goes with it."""
        self.process.terminate()
        self.process.communicate(timeout=PATIENCE_SECONDS)
        (SOCKETS / f"{self.name}.sock").unlink(missing_ok=True)


@contextmanager
def new_device(namespace: Namespace) -> Iterator[Device]:
    """Make a device under a name that nobody else has: their sockets lie in one folder for all namespaces."""
    skip_without_wireguard_go()
    device = Device(namespace, f"k{uuid.uuid4().hex[:9]}")
    try:
        yield device
    finally:
        device.close()


@contextmanager
def joined_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Make two namespaces joined by a veth pair: 192.0.2.1 and .2, 2001:db8::1 and ::2, fe80::1 and ::2 on "up0"."""
    with ExitStack() as stack:
        both = (stack.enter_context(new_namespace()), stack.enter_context(new_namespace()))
        both[0].ip("link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", both[1].name)
        for number, namespace in enumerate(both, 1):
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("address", "add", f"192.0.2.{number}/24", "dev", "up0")
            namespace.ip("address", "add", f"2001:db8::{number}/64", "dev", "up0", "nodad")
            namespace.ip("link", "set", "up0", "up")
            namespace.ip("address", "add", f"fe80::{number}/64", "dev", "up0", "nodad")
        yield both


@contextmanager
def helper_socket(path: Path, *prefix: str) -> Iterator[Path]:
    """Run the helper for each connection to a unix socket, as systemd does with Accept=yes; `prefix` goes before it."""
    command = [*prefix, sys.executable, "-m", "kattila_agent.helpers.wireguard_helper"]

    def serve_one(connection: socket.socket) -> None:
        subprocess.run(command, stdin=connection.fileno(), stdout=connection.fileno(), check=False)

    with serving(path, serve_one):
        yield path


@contextmanager
def serving(path: Path, serve_one: Callable[[socket.socket], None]) -> Iterator[Path]:
    """Listen on a unix socket and give each connection to a function, in one thread, until the end."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(8)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                serve_one(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield path
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(PATIENCE_SECONDS)
        path.unlink(missing_ok=True)
