"""Creates real WireGuard tunnels (wireguard-go in network namespaces), and runs the helper behind a real socket."""

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


def wg(*words: str, stdin: str = "", prefix: Sequence[str] = ()) -> str:
    """Run `wg` after `prefix` and return its output; fails with its error message."""
    done = subprocess.run([*prefix, "wg", *words], input=stdin, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"wg {words[0]}: {done.stderr.strip()}"
    return done.stdout


def skip_without_wireguard_go() -> None:
    """Skip the test if no userspace device can be created."""
    missing = [program for program in ("wg", "wireguard-go") if shutil.which(program) is None]
    if missing or os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip(f"a userspace tunnel requires root, /dev/net/tun, wg and wireguard-go (missing: {missing})")


class Device:
    """A wireguard-go device in a namespace, with its key pair in base64."""

    def __init__(self, namespace: Namespace, name: str) -> None:
        """Start the device and wait for its socket."""
        self.namespace, self.name = namespace, name
        self.private_key = wg("genkey").strip()
        self.public_key = wg("pubkey", stdin=self.private_key).strip()
        self.process = subprocess.Popen(
            namespace.command("wireguard-go", "-f", name), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wait_for(self._has_socket, f"the socket of wireguard-go {name}")
        self.set("private-key", "/dev/stdin", stdin=self.private_key)

    def _has_socket(self) -> bool:
        assert self.process.poll() is None, self.process.stderr.read() if self.process.stderr else b""
        return (SOCKETS / f"{self.name}.sock").exists()

    def set(self, *words: str, stdin: str = "") -> None:
        """Run `wg set` in the namespace, which knows the scope of a link-local endpoint."""
        wg("set", self.name, *words, stdin=stdin, prefix=self.namespace.command())

    def close(self) -> None:
        """Stop the device; its link disappears with it."""
        self.process.terminate()
        self.process.communicate(timeout=PATIENCE_SECONDS)
        (SOCKETS / f"{self.name}.sock").unlink(missing_ok=True)


@contextmanager
def new_device(namespace: Namespace) -> Iterator[Device]:
    """Create a device with a unique name: all namespaces share the folder of sockets."""
    skip_without_wireguard_go()
    device = Device(namespace, f"k{uuid.uuid4().hex[:9]}")
    try:
        yield device
    finally:
        device.close()


@contextmanager
def connected_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Create two namespaces with a veth pair "up0": 192.0.2.1 and .2, 2001:db8::1 and ::2, fe80::1 and ::2."""
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
    """Run the helper for each connection to a Unix socket, as systemd does with Accept=yes, after `prefix`."""
    command = [*prefix, sys.executable, "-m", "kattila_agent.helpers.wireguard_helper"]

    def serve_one(connection: socket.socket) -> None:
        subprocess.run(command, stdin=connection.fileno(), stdout=connection.fileno(), check=False)

    with serving(path, serve_one):
        yield path


@contextmanager
def serving(path: Path, serve_one: Callable[[socket.socket], None]) -> Iterator[Path]:
    """Listen on a Unix socket and pass each connection to a function, in one thread."""
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
