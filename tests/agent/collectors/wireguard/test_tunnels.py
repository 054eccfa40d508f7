"""-sysinfo shows the same as `wg show all dump`, field by field, on real userspace tunnels that carry traffic."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kattila_keys.ring_file import RingFile
from support.agent_process import AGENT, environment
from support.folder_access import make_world_readable
from support.knot import free_port
from support.manager import now_ms, running_manager
from support.netns import Namespace, new_namespace
from support.reports import RING
from support.waiting import PATIENCE_SECONDS
from support.wireguard import (
    SOCKETS,
    Device,
    connected_namespaces,
    helper_socket,
    new_device,
    serving,
    skip_without_wireguard_go,
    wg,
)

NO_HELPER = "/nonexistent/kattila.sock"
MANY_PEERS, MANY_PREFIXES = 300, 2_000


class Mesh(NamedTuple):
    """Two joined nodes: `near` and `far` are the ends of a live tunnel, `wide` has peers that never answer."""

    one: Namespace
    near: Device
    far: Device
    wide: Device
    secrets: list[str]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    skip_without_wireguard_go()
    with ExitStack() as stack:
        one, two = stack.enter_context(connected_namespaces())
        near, far = stack.enter_context(new_device(one)), stack.enter_context(new_device(two))
        wide = stack.enter_context(new_device(one))
        preshared = wg("genpsk").strip()
        live_tunnel(near, far, preshared)
        fill(wide)
        yield Mesh(one, near, far, wide, [preshared, *(device.private_key for device in (near, far, wide))])


def live_tunnel(near: Device, far: Device, preshared: str) -> None:
    for number, (device, other) in enumerate(((near, far), (far, near)), 1):
        words = ("listen-port", "51820", "fwmark", "0xca6c" if device is near else "0")
        peer = ("peer", other.public_key, "preshared-key", "/dev/stdin", "endpoint", f"[2001:db8::{3 - number}]:51820")
        device.set(*words, *peer, "allowed-ips", "10.99.0.0/24,fd00:99::/64", stdin=preshared)
        device.namespace.ip("address", "add", f"10.99.0.{number}/24", "dev", device.name)
        device.namespace.ip("link", "set", device.name, "up")
    echo = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("10.99.0.2", 7))
print(flush=True)
while True:
    server.sendto(*server.recvfrom(2048))
"""
    ask = """
import socket
client = socket.socket(type=socket.SOCK_DGRAM)
client.settimeout(0.5)
for _ in range(200):
    client.sendto(bytes(1000), ("10.99.0.2", 7))
    try:
        print(len(client.recv(2048)))
        break
    except TimeoutError:
        pass
"""
    answering = subprocess.Popen(far.namespace.command(sys.executable, "-c", echo), stdout=subprocess.PIPE)
    with answering:
        assert answering.stdout is not None
        answering.stdout.readline()
        assert subprocess.check_output(near.namespace.command(sys.executable, "-c", ask)) == b"1000\n"
        answering.kill()


def fill(device: Device) -> None:
    """Add 300 peers, one of them with 2,000 allowed IPs; none can be reached."""
    words: list[str] = []
    for number in range(MANY_PEERS):
        key = wg("pubkey", stdin=wg("genkey")).strip()
        words += ["peer", key, "persistent-keepalive", "off", "allowed-ips"]
        if number == 7:
            words += [",".join(f"10.{100 + (at >> 8)}.{at & 255}.0/24" for at in range(MANY_PREFIXES))]
        else:
            words += [f"2001:db8:{number + 1:x}::/48,172.16.{number % 256}.{number // 256}/32"]
        if number % 4:
            words += ["endpoint", f"[fe80::{number + 9:x}%up0]:51820" if number % 2 else f"198.51.100.{number % 250}:9"]
    device.set(*words)


def dumped(namespace: Namespace) -> dict[str, dict[str, Any]]:
    """Return the interfaces in `wg show all dump` by name, with the names of a report; this is a second parser."""
    found: dict[str, dict[str, Any]] = {}
    for columns in (line.split("\t") for line in wg("show", "all", "dump", prefix=namespace.command()).splitlines()):
        if len(columns) == 5:
            name, _, public_key, port, mark = columns
            number = 0 if mark == "off" else int(mark, 16)
            found[name] = {
                "name": name,
                "public_key": public_key,
                "listen_port": int(port),
                "fwmark": number,
                "peers": [],
            }
            continue
        name, public_key, preshared, endpoint, allowed, handshake, received, sent, keepalive = columns
        row = {
            "public_key": public_key,
            "endpoint": None if endpoint == "(none)" else endpoint,
            "allowed_ips": [] if allowed == "(none)" else allowed.split(","),
            "latest_handshake": int(handshake),
            "transfer_rx": int(received),
            "transfer_tx": int(sent),
            "persistent_keepalive": 0 if keepalive == "off" else int(keepalive),
            "has_preshared_key": preshared != "(none)",
        }
        found[name]["peers"].append(row)
    for interface in found.values():
        interface["peers"].sort(key=lambda peer: peer["public_key"])
    return found


def sysinfo(namespace: Namespace, helper: str = NO_HELPER, **settings: str) -> dict[str, Any]:
    command = namespace.command(*AGENT, "-sysinfo")
    given = environment(WIREGUARD_HELPER=helper, **settings)
    shown: dict[str, Any] = json.loads(subprocess.check_output(command, env=given, timeout=PATIENCE_SECONDS))
    return shown


def agree(mesh: Mesh, helper: str) -> list[dict[str, Any]]:
    """Compare both at a moment when nothing changes, and return the interfaces."""

    def ours() -> list[dict[str, Any]]:
        # The dump also has devices of other namespaces, whose sockets are in the same folder.
        found = dumped(mesh.one)
        return [found[name] for name in (mesh.near.name, mesh.wide.name)]

    for _ in range(20):
        expected = ours()
        began = now_ms()
        seen = sysinfo(mesh.one, helper)
        ended = now_ms()
        # On a slow machine the helper may hit its timeout.
        if expected == ours() and "took longer" not in str(seen["failures"]):
            break
    else:
        pytest.fail("the tunnels never stood still")
    assert [each["name"] for each in seen["wireguard"]] == [each["name"] for each in expected]
    for found, interface in zip(seen["wireguard"], expected, strict=True):
        assert began <= found.pop("read_at") <= ended
        assert found == interface
    assert (seen["failures"], seen["cuts"]) == ([], [])
    return expected


def test_the_userspace_reader_shows_the_same_as_wg(mesh: Mesh) -> None:
    near, wide = agree(mesh, NO_HELPER)
    (peer,) = near["peers"]
    assert (peer["endpoint"], peer["has_preshared_key"]) == ("[2001:db8::2]:51820", True)
    assert 0 <= time.time() - peer["latest_handshake"] < 3600
    assert min(peer["transfer_rx"], peer["transfer_tx"]) > 1_000
    assert (near["fwmark"], near["listen_port"]) == (0xCA6C, 51820)
    assert len(wide["peers"]) == MANY_PEERS
    assert max(len(each["allowed_ips"]) for each in wide["peers"]) == MANY_PREFIXES
    assert {each["latest_handshake"] for each in wide["peers"]} == {0}


def test_the_helper_shows_the_same_to_an_agent_without_privilege(mesh: Mesh, tmp_path: Path) -> None:
    with helper_socket(tmp_path / "wireguard.sock", *mesh.one.command()) as path:
        agree(mesh, str(path))
        alone = as_nobody(mesh.one, NO_HELPER)
        make_world_readable(tmp_path)
        path.chmod(0o777)
        helped = as_nobody(mesh.one, str(path))
    assert helped == [[mesh.near.name, mesh.wide.name], []]
    assert alone[0] == []
    ((reason,)) = alone[1]
    assert reason.startswith(f"{mesh.near.name}, {mesh.wide.name}: reading WireGuard needs root or the helper, whose")
    assert f"{NO_HELPER} does not exist" in reason


def test_a_device_that_hangs_does_not_hide_others_from_the_helper(mesh: Mesh, tmp_path: Path) -> None:
    with helper_socket(tmp_path / "wireguard.sock", *mesh.one.command()) as path:
        mesh.wide.process.send_signal(signal.SIGSTOP)
        try:
            seen = sysinfo(mesh.one, str(path))
        finally:
            mesh.wide.process.send_signal(signal.SIGCONT)
    assert [each["name"] for each in seen["wireguard"]] == [mesh.near.name]
    assert {"collector": "wireguard", "reason": f"{mesh.wide.name}: it took longer than 3 s"} in seen["failures"]


def test_a_device_that_the_helper_does_not_report_is_a_failure(mesh: Mesh, tmp_path: Path) -> None:
    # This happens if the helper runs in another network namespace.
    nothing = b"kattila-wireguard 1\nend " + hashlib.sha256(b"").hexdigest().encode() + b"\n"
    with serving(tmp_path / "s", lambda connection: connection.sendall(nothing)) as path:
        seen = sysinfo(mesh.one, str(path))
    assert seen["wireguard"] == []
    ((reason,)) = [each["reason"] for each in seen["failures"] if each["collector"] == "wireguard"]
    assert reason.startswith(f"{mesh.near.name}, {mesh.wide.name}: the WireGuard helper did not report this interface")


def as_nobody(namespace: Namespace, helper: str) -> list[Any]:
    code = f"""
import json, os
from pathlib import Path
from kattila_agent.collectors.wireguard import collector, builder
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = collector.collect(Path({helper!r}), builder.PeerLimits(1000, 5000), lambda: 7)
print(json.dumps([[each.name for each in found.items], found.failures]))
"""
    found: list[Any] = json.loads(subprocess.check_output(namespace.command(sys.executable, "-c", code), cwd="/"))
    return found


def test_limits_cut_and_the_report_says_so(mesh: Mesh) -> None:
    seen = sysinfo(mesh.one, MAX_PEERS="20", MAX_ALLOWED_IPS="30")
    near, wide = seen["wireguard"]
    assert [len(each["peers"]) for each in (near, wide)] == [1, 19]
    assert {"what": "peers", "kept": 19, "of": MANY_PEERS, "where": mesh.wide.name} in seen["cuts"]
    assert sum(len(peer["allowed_ips"]) for each in (near, wide) for peer in each["peers"]) == 30
    # The near device still receives traffic, so only peers and AllowedIPs are compared.
    assert bounded(seen) == bounded(sysinfo(mesh.one, MAX_PEERS="20", MAX_ALLOWED_IPS="30"))


def bounded(seen: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return [(peer["public_key"], peer["allowed_ips"]) for each in seen["wireguard"] for peer in each["peers"]]


def test_no_secret_is_shown_or_logged(mesh: Mesh) -> None:
    command = mesh.one.command(*AGENT, "-sysinfo", "-v")
    found = subprocess.run(command, env=environment(WIREGUARD_HELPER=NO_HELPER), capture_output=True, check=True)
    assert mesh.near.public_key.encode() in found.stdout
    for secret in mesh.secrets:
        assert secret.encode() not in found.stdout + found.stderr
        assert base64.b64decode(secret).hex().encode() not in found.stdout + found.stderr
    assert not [secret for secret in mesh.secrets if secret not in wg("show", "all", "dump")]


def test_no_secret_reaches_a_dump_the_database_or_a_page(mesh: Mesh, tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        dump = subprocess.run(
            mesh.one.command(*AGENT, "-dump", "-", "-v"),
            env=environment(
                WIREGUARD_HELPER=NO_HELPER,
                DNS="kattila.example.com",
                DNS_SERVER=f"127.0.0.1:{free_port()}",
                STATE_DIR=str(state_folder(tmp_path)),
            ),
            capture_output=True,
            check=True,
        )
        assert mesh.near.public_key.encode() in dump.stdout
        assert manager.post(dump.stdout).members["data"]["outcome"] == "accepted"
        published = manager.command("publish", "--once")
        kept = manager.command("report", json.loads(dump.stdout)["data"]["agent_id"])
        assert (published.returncode, kept.returncode) == (0, 0), published.stderr + kept.stderr
        assert mesh.near.public_key in kept.stdout
        files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in mesh.secrets:
        for encoded in (secret.encode(), base64.b64decode(secret).hex().encode(), base64.b64decode(secret)):
            assert encoded not in dump.stdout + dump.stderr + files + kept.stdout.encode() + manager.log.encode()


def state_folder(folder: Path) -> Path:
    """Make a state folder with the key ring of the manager."""
    state = folder / "agent"
    state.mkdir()
    RingFile(state / "ring.json").update(lambda kept: replace(kept, ring=RING, asked_at=now_ms(), answered_at=now_ms()))
    return state


def test_a_device_of_another_namespace_is_not_reported(mesh: Mesh, tmp_path: Path) -> None:
    """All sockets are in one folder; only those with a link in this namespace are read."""
    with new_namespace() as empty, helper_socket(tmp_path / "wireguard.sock") as path:
        empty.ip("tuntap", "add", "dev", "tun0", "mode", "tun")
        for helper in (NO_HELPER, str(path)):
            seen = sysinfo(empty, helper)
            assert (seen["wireguard"], seen["failures"]) == ([], [])
    assert (SOCKETS / f"{mesh.near.name}.sock").exists()


def test_a_device_that_was_removed_is_not_a_failure(mesh: Mesh) -> None:
    """A socket without its process, but with a link of its name, can be seen while a device is removed."""
    stale = SOCKETS / "gone0.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(stale))
    mesh.one.ip("tuntap", "add", "dev", "gone0", "mode", "tun")
    try:
        seen = sysinfo(mesh.one)
    finally:
        mesh.one.ip("link", "del", "gone0")
        stale.unlink()
    assert [each["name"] for each in seen["wireguard"]] == [mesh.near.name, mesh.wide.name]
    assert seen["failures"] == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"listen_port=x", "listen_port is not a number from 0 to 65535"),
        (b"private_key=%b\nlisten_port=1\npublic_key=%b" % (b"11" * 32, b"22" * 32), "transfer_rx is missing"),
    ],
    ids=["a wrong value", "a missing value"],
)
def test_a_malformed_answer_is_a_failure_and_other_devices_are_reported(mesh: Mesh, answer: bytes, reason: str) -> None:
    def malformed(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(answer + b"\nerrno=0\n\n")

    odd = SOCKETS / "odd0.sock"
    mesh.one.ip("tuntap", "add", "dev", "odd0", "mode", "tun")
    try:
        with serving(odd, malformed):
            seen = sysinfo(mesh.one)
    finally:
        mesh.one.ip("link", "del", "odd0")
    assert [each["name"] for each in seen["wireguard"]] == [mesh.near.name, mesh.wide.name]
    assert seen["failures"] == [{"collector": "wireguard", "reason": f"odd0: {reason}"}]
