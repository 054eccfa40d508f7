"""Sources that hang, flood, or must not be read: what each costs, and how it is reported."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.collectors.wireguard import collector, curve25519, kernel, userspace
from kattila_agent.collectors.wireguard.builder import PeerLimits
from kattila_agent.collectors.wireguard.collector import Device
from support.waiting import PATIENCE_SECONDS
from support.wireguard import serving

NOBODY = 65534
ANSWER = b"listen_port=51820\nerrno=0\n\n"


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        yield server


def answer_one(server: socket.socket) -> None:
    opened, _ = server.accept()
    with opened:
        assert_requested(opened)
        opened.sendall(ANSWER)


def assert_requested(opened: socket.socket) -> None:
    # Closing the socket with unread data would reset the connection.
    assert opened.recv(100) == b"get=1\n\n"


def devices(folder: Path, count: int) -> list[Device]:
    return [Device(index, f"wg{index}", folder / f"wg{index}.sock") for index in range(count)]


def test_sockets_are_read_at_the_same_time(tmp_path: Path) -> None:
    """No socket answers before all have a request: read one after the other, the first would time out."""
    all_requested = threading.Barrier(3)

    def answer(server: socket.socket) -> None:
        opened, _ = server.accept()
        with opened:
            assert_requested(opened)
            all_requested.wait(PATIENCE_SECONDS)
            opened.sendall(ANSWER)

    found = devices(tmp_path, 3)
    with ExitStack() as stack:
        for device in found:
            assert device.socket is not None
            server = stack.enter_context(listening(device.socket))
            threading.Thread(target=answer, args=(server,), daemon=True).start()
        builders, reasons = collector._read_with_privilege(tmp_path / "none", found, PeerLimits(1000, 5000), lambda: 7)
    assert ([one.name for one in builders], reasons) == (["wg0", "wg1", "wg2"], {})


def test_a_device_that_never_answers_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(userspace, "TIMEOUT_SECONDS", 3.0)
    found = devices(tmp_path, 3)
    with listening(tmp_path / "wg0.sock"), listening(tmp_path / "wg1.sock") as server:
        thread = threading.Thread(target=answer_one, args=(server,))
        thread.start()
        builders, reasons = collector._read_with_privilege(tmp_path / "none", found, PeerLimits(1000, 5000), lambda: 7)
        thread.join()
    # Nobody listens on the third socket: that device is gone.
    assert [one.name for one in builders] == ["wg1"]
    assert reasons == {"wg0": f"{tmp_path}/wg0.sock gave no complete answer within 3 s"}


def test_a_reason_shared_by_many_interfaces_names_some_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = {f"wg{number}": number for number in range(30)} | {"odd0": 30}
    monkeypatch.setattr(collector, "_read_devices", lambda _: [Device(index, name) for name, index in links.items()])

    def read(index: int) -> list[bytes]:
        raise PermissionError if index < 30 else UnreadableError("is malformed")

    monkeypatch.setattr(kernel, "read", read)
    found = collector.collect(tmp_path / "none", PeerLimits(1000, 5000), lambda: 7, tmp_path).failures
    assert found[0].startswith("wg0, wg1, wg2, wg3 and 26 more: reading WireGuard needs root")
    assert found[1:] == ("odd0: is malformed",)


FLOOD = """
import hashlib, resource, sys
from kattila_agent.collectors.wireguard import helper, userspace
from kattila_agent.collectors.wireguard.builder import PeerLimits
count = 5_000_000
if sys.argv[1] == "userspace":
    answer = b"x=\\n" * count + b"errno=0\\n\\n"
    read = lambda: userspace.parse("wg0", answer, PeerLimits(1000, 5000))
else:
    body = b"a\\t\\n" * count
    answer = b"kattila-wireguard 1\\n" + body + b"end " + hashlib.sha256(body).hexdigest().encode() + b"\\n"
    read = lambda: helper.parse(answer, PeerLimits(1000, 5000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read()
except ValueError as error:
    print(error, file=sys.stderr)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("source", ["userspace", "helper"])
def test_millions_of_short_lines_take_little_memory(source: str) -> None:
    command = [sys.executable, "-c", FLOOD, source]
    assert int(subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=PATIENCE_SECONDS)) < 64


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping root's rights needs root")
def test_a_folder_that_must_not_be_searched_is_not_taken_as_empty() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(0o700)
        (folder / "closed" / "wg0.sock").touch()
        (folder / "file").touch()
        code = (
            "import os; from pathlib import Path; from kattila_agent.collectors.wireguard import collector\n"
            f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
            f"folder = Path({name!r})\n"
            "paths = ('closed/wg0.sock', 'closed/none', 'none', 'none/none', 'file/none', 'file')\n"
            "print([collector._may_exist(folder / path) for path in paths])"
        )
        output = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert output == "[True, True, False, False, False, True]"


def test_a_private_key_of_zeros_stands_for_none() -> None:
    answer = b"private_key=" + b"0" * 64 + b"\n" + ANSWER
    assert userspace.parse("wg0", answer, PeerLimits(1000, 5000)).public_key == ""


# --- boringtun, which does not show its private key

PUBLIC = bytes(range(200, 232))
PRIVATE = bytes(range(1, 33))
NO_KEY = b"0" * 64


def own_key(*lines: bytes) -> str:
    """Return the public key of an interface whose answer begins with these lines."""
    answer = b"".join(line + b"\n" for line in lines) + ANSWER
    return userspace.parse("wg0", answer, PeerLimits(1000, 5000)).public_key


def test_boringtuns_own_public_key_is_that_of_the_interface() -> None:
    shown = base64.b64encode(PUBLIC).decode()
    named = b"own_public_key=" + PUBLIC.hex().encode()
    assert own_key(named) == shown
    assert own_key(named.replace(PUBLIC.hex().encode(), PUBLIC.hex().upper().encode())) == shown
    assert own_key(b"private_key=" + NO_KEY, named) == shown
    assert own_key(named, b"private_key=" + NO_KEY) == shown
    assert own_key(b"own_public_key=" + NO_KEY) == ""


@pytest.mark.parametrize("first", [True, False])
def test_a_private_key_decides_over_the_own_public_key(first: bool) -> None:
    lines = [b"private_key=" + PRIVATE.hex().encode(), b"own_public_key=" + PUBLIC.hex().encode()]
    derived = base64.b64encode(curve25519.public_key(PRIVATE)).decode()
    assert own_key(*(lines if first else reversed(lines))) == derived


@pytest.mark.parametrize("value", [b"", b"0" * 63, b"0" * 65, b"g" * 64, base64.b64encode(PUBLIC)])
def test_a_malformed_own_public_key_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="own_public_key is not a key"):
        own_key(b"own_public_key=" + value)


def test_a_repeated_own_public_key_is_refused() -> None:
    with pytest.raises(ValueError, match="own_public_key is repeated"):
        own_key(*[b"own_public_key=" + PUBLIC.hex().encode()] * 2)


def test_the_own_public_key_is_read_over_the_socket(tmp_path: Path) -> None:
    answer = (
        b"own_public_key=%b\nlisten_port=51820\npublic_key=%b\npersistent_keepalive_interval=25\n"
        b"allowed_ip=192.0.2.0/24\nrx_bytes=1\ntx_bytes=2\nerrno=0\n\n"
    ) % (PUBLIC.hex().encode(), PRIVATE.hex().encode())

    def serve(connection: socket.socket) -> None:
        assert connection.recv(64) == b"get=1\n\n"
        connection.sendall(answer)

    with serving(tmp_path / "wg0.sock", serve) as path:
        found = userspace.parse("wg0", userspace.read(path), PeerLimits(1000, 5000))
    assert found.public_key == base64.b64encode(PUBLIC).decode()
    assert list(found.peers) == [base64.b64encode(PRIVATE).decode()]
