"""A node for the agent to report: a network namespace, a WireGuard helper and a manager.

The namespace is removed at the end. No packet leaves it.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kattila_keys.ring_file import RingFile, StoredRing
from kattila_protocol import canonical, envelope, registration, verdict
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key
from kattila_protocol.verdict import ACCEPTED, Verdict

# The sockets of userspace WireGuard. A tun link with a socket here counts as a WireGuard interface.
_SOCKETS = Path("/var/run/wireguard")
_PSK = b"of the benchmark, protects nothing"
_RING = Ring((RingEntry(Key.from_psk(_PSK), 0),))


@dataclass(frozen=True)
class Shape:
    """The size of a node, in addition to loopback and three links, and the agent's non-default settings.

    `max_cycles` limits the cycles of a large node, where one takes a second.
    """

    name: str
    routes: int
    peers: int
    settings: dict[str, str] = field(default_factory=dict)
    max_cycles: int = 120


SHAPES = (
    Shape("5 interfaces, 20 peers, 20 routes", 20, 20),
    Shape("300 peers, 5,000 routes", 5000, 300),
    Shape("300 peers, 5,000 routes, all reported", 5000, 300, {"MAX_ROUTES": "10000"}),
    Shape("20 peers, 1,000,000 routes", 1_000_000, 20, max_cycles=12),
)


@contextmanager
def namespace(shape: Shape, tunnel: str) -> Iterator[str]:
    """Create a namespace with five interfaces, including the tunnel, and the shape's routes; needs root."""
    name = f"kattila-bench-{tunnel}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        lines = ["link set lo up", "link add eth0 type veth peer name eth1", "link add br0 type bridge"]
        lines += ["link set eth1 master br0"]
        lines += [f"link set {link} up" for link in ("br0", "eth1", "eth0")]
        lines += ["address add 192.0.2.1/24 dev eth0", "address add 2001:db8::1/64 dev eth0 nodad"]
        lines += [
            f"tuntap add dev {tunnel} mode tun",
            f"link set {tunnel} up",
            f"address add 10.99.0.1/16 dev {tunnel}",
        ]
        lines += ["route add default via 192.0.2.254"]
        lines += [f"route add 10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 dev eth0" for n in range(shape.routes)]
        subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
        subprocess.run(["ip", "-n", name, "-6", "route", "add", "default", "via", "2001:db8::fe"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


class Helper:
    """A WireGuard helper that answers with made-up peers, whose counters grow with each answer."""

    def __init__(self, path: Path, tunnel: str, peers: int) -> None:
        """Listen on the socket."""
        self.path, self._tunnel, self._peers, self._requests = path, tunnel, peers, 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._requests += 1
                connection.sendall(self._answer())

    def _answer(self) -> bytes:
        key, now, name = _key(self._tunnel), int(time.time()), self._tunnel
        lines = [f"{name}\t(hidden)\t{key}\t51820\toff"]
        lines += [
            f"{name}\t{_key(str(n))}\t(none)\t198.51.{n >> 8}.{n & 255}:51820\t10.99.{n >> 8}.{n & 255}/32,"
            f"2001:db8:99::{n:x}/128\t{now - n % 120}\t{self._requests * 1000 + n}\t{self._requests * 900 + n}\t25"
            for n in range(self._peers)
        ]
        body = "".join(f"{line}\n" for line in lines).encode()
        return b"kattila-wireguard 1\n" + body + b"end " + hashlib.sha256(body).hexdigest().encode() + b"\n"


def _key(seed: str) -> str:
    return base64.b64encode(hashlib.sha256(seed.encode()).digest()).decode()


class Manager:
    """Accepts every report. `received_at` has the time of each (monotonic seconds), `size` the size of the last."""

    def __init__(self) -> None:
        """Listen on the namespace's loopback."""
        self.received_at: list[float] = []
        self.size = 0
        self.last = b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                answer = outer._accept(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _accept(self, path: str, body: bytes) -> bytes:
        now = time.time_ns() // 1_000_000
        if path.endswith("register"):
            asked, key = registration.unseal(body, _RING)
            return verdict.seal(Verdict(ACCEPTED, asked.agent_id, asked.nonce, now, 0), key)
        self.received_at.append(time.monotonic())
        sealed = envelope.parse(body)
        key = envelope.verify(sealed, _RING, "manager")
        self.size, self.last = len(body), sealed.data
        head = canonical.parse_object(sealed.data.partition(b',"telemetry"')[0] + b"}")
        said = Verdict(
            ACCEPTED, head["agent_id"], head["nonce"], now, head["timestamp"] - now, head["tick"], head["sample"]
        )
        return verdict.seal(said, key)


@contextmanager
def manager_and_helper(folder: Path, tunnel: str, peers: int) -> Iterator[tuple[Manager, dict[str, str]]]:
    """Run manager and helper, and yield the settings of an agent that has the key cached."""
    with ExitStack() as stack:
        helper = Helper(folder / "wireguard.sock", tunnel, peers)
        manager = Manager()
        stack.callback(helper.close)
        stack.callback(manager.close)
        stack.enter_context(_marked_as_wireguard(tunnel))
        asked_at = time.time_ns() // 1_000_000 - 120_000
        RingFile(folder / "ring.json").update(lambda _: StoredRing(_RING, asked_at, asked_at))
        yield (
            manager,
            {
                "DNS": "kattila.example.org",
                "DNS_SERVER": "127.0.0.1:9",
                "MANAGER_URL": manager.url,
                "STATE_DIR": str(folder),
                "WIREGUARD_HELPER": str(helper.path),
                "AGENT_LISTEN": "127.0.0.1:0",
                "INTERVAL": "1",
            },
        )


@contextmanager
def _marked_as_wireguard(tunnel: str) -> Iterator[None]:
    had_folder, mark = _SOCKETS.exists(), _SOCKETS / f"{tunnel}.sock"
    _SOCKETS.mkdir(exist_ok=True)
    mark.touch()
    try:
        yield
    finally:
        mark.unlink()
        if not had_folder:
            _SOCKETS.rmdir()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Wait until the condition holds; raises RuntimeError if the process ends first, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} ended or did not get ready in time (exit code {process.poll()})")
        time.sleep(0.002)
