"""Runs a real DNS server (knotd) on a loopback port, with TXT records that a test can change."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.tsig
import dns.tsigkeyring
import dns.update
import pytest

from support.waiting import PATIENCE_SECONDS, wait_for

# /usr/sbin may be missing from PATH.
KNOTD = shutil.which("knotd", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")

# Names from RFC 2606. The second zone is configured, but its file is missing: SERVFAIL.
ZONE = "example.org"
BROKEN_ZONE = "broken.example"
TTL_SECONDS = 300

# One TXT record: a string, or its character-strings.
Record = bytes | Sequence[bytes]

_TSIG_NAME = "update.test"
_TSIG_SECRET = "a25vdCBpbiBhIHRlc3Qga25vd3Mgbm8gc2VjcmV0cw=="

_CONFIGURATION = f"""\
server:
    rundir: {{folder}}
    pidfile: {{folder}}/knot.pid
    listen: 127.0.0.1@{{port}}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: warning
key:
  - id: {_TSIG_NAME}
    algorithm: hmac-sha256
    secret: {_TSIG_SECRET}
acl:
  - id: update
    key: {_TSIG_NAME}
    action: update
    update-type: [TXT]
database:
    storage: {{folder}}
template:
  - id: default
    storage: {{folder}}
    zonefile-sync: -1
    journal-content: none
zone:
  - domain: {ZONE}
    file: zone
    acl: update
  - domain: {BROKEN_ZONE}
    file: missing
"""


class Knot:
    """A running knotd; `address` is "host:port"."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, port: int, txt: Mapping[str, Sequence[Record]]) -> None:
        """Prepare a server in `folder`; `txt` maps names relative to `ZONE` to their records, as for `set_txt`."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port
        (folder / "zone").write_text(_zone(txt))
        (folder / "knot.conf").write_text(_CONFIGURATION.format(folder=folder, port=self.port))

    @property
    def address(self) -> str:
        """The value for `DNS_SERVER=`."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it answers; after a stop it still has its records."""
        assert KNOTD is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([KNOTD, "-c", str(self._folder / "knot.conf")], stdout=log, stderr=log)
        wait_for(self._is_ready, lambda: f"an answer of knotd:\n{self._log()}")

    def stop(self) -> None:
        """Stop the server; its port then refuses connections."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def set_txt(self, name: str, *records: Record) -> None:
        """Replace the TXT records at `name` (relative to `ZONE`) by a signed dynamic update (RFC 2136)."""
        keyring = dns.tsigkeyring.from_text({_TSIG_NAME: _TSIG_SECRET})
        update = dns.update.UpdateMessage(ZONE, keyring=keyring, keyalgorithm=dns.tsig.HMAC_SHA256)
        update.delete(name, "TXT")
        for record in records:
            update.add(name, TTL_SECONDS, "TXT", txt_text(record))
        answer = dns.query.tcp(update, self.host, port=self.port, timeout=PATIENCE_SECONDS)
        if answer.rcode() != dns.rcode.NOERROR:
            raise RuntimeError(f"knotd refused the update: {dns.rcode.to_text(answer.rcode())}")

    def _log(self) -> str:
        return (self._folder / "log").read_text()

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"knotd ended with {self._process.returncode}:\n{self._log()}"
        return self._answers()

    def _answers(self) -> bool:
        try:
            answer = dns.query.udp(dns.message.make_query(ZONE, "SOA"), self.host, port=self.port, timeout=1)
        except (dns.exception.DNSException, OSError):
            return False
        return answer.rcode() == dns.rcode.NOERROR


@contextmanager
def running_knot(txt: Mapping[str, Sequence[Record]] | None = None, *, port: int = 0) -> Iterator[Knot]:
    """Run a server for `ZONE` with these TXT records, and an A record but no TXT at "address".

    Without `port` it uses a free one. Skips the test if knotd is missing.
    """
    if KNOTD is None:
        pytest.skip("knotd is missing: apt-get install knot, or make setup-test")
    # Not tmp_path of pytest: the path of the control socket is limited to 108 bytes.
    with tempfile.TemporaryDirectory(prefix="knot-") as folder:
        knot = Knot(Path(folder), port or free_port(), txt or {})
        try:
            knot.start()
            yield knot
        finally:
            knot.stop()


@pytest.fixture(scope="session")
def knot() -> Iterator[Knot]:
    """Run one server for all tests; a conftest.py imports this fixture, and each test uses its own names."""
    with running_knot() as running:
        yield running


def txt_text(record: Record) -> str:
    """Return a TXT record in master-file format (RFC 1035, section 5.1); bytes are split into strings of 255."""
    strings = [record[i : i + 255] for i in range(0, len(record), 255)] if isinstance(record, bytes) else record
    return " ".join('"' + "".join(f"\\{byte:03d}" for byte in string) + '"' for string in strings)


def free_port() -> int:
    """Return a loopback port that is free for both UDP and TCP.

    It is below 32768, so that the kernel cannot assign it to a connection while the server is down.
    """
    for port in random.choices(range(20_000, 32_768), k=50):
        with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            try:
                udp.bind(("127.0.0.1", port))
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free for both UDP and TCP")


def _zone(txt: Mapping[str, Sequence[Record]]) -> str:
    lines = [
        f"$ORIGIN {ZONE}.",
        f"$TTL {TTL_SECONDS}",
        "@ SOA ns hostmaster 1 3600 900 604800 60",
        "@ NS ns",
        "ns A 192.0.2.53",
        "address A 192.0.2.1",
    ]
    lines += [f"{name} TXT {txt_text(record)}" for name, records in txt.items() for record in records]
    return "\n".join(lines) + "\n"
