"""The helper as its own process, with a script as `wg`, and the client's limits of time and size."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest

from kattila_agent.collectors.unix_socket import UnreadableError, exchange
from kattila_agent.collectors.wireguard import helper, notation, userspace
from kattila_agent.collectors.wireguard.builder import PeerLimits, VanishedError
from support.waiting import ENDLESS_SECONDS, PATIENCE_SECONDS, not_waiting_for
from support.wireguard import serving

KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY="
SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="
# The lines of `wg show wg0 dump`.
INTERFACE = f"{SECRET}\t{KEY}\t51820\toff"
PEER = f"{KEY}\t{SECRET}\t192.0.2.1:51820\t198.51.100.0/24\t0\t1\t2\t25"


class MakeWg(Protocol):
    """Makes the helper's command with this shell script as `wg`, and with timeouts in seconds."""

    def __call__(self, script: str, *, each: int = ..., total: int = ...) -> list[str]: ...


@pytest.fixture
def with_wg(tmp_path: Path) -> MakeWg:
    """Return a function that makes the command; the default timeouts are too long to matter."""

    def command(script: str, *, each: int = int(PATIENCE_SECONDS), total: int = int(PATIENCE_SECONDS)) -> list[str]:
        program = tmp_path / "wg"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        code = (
            "import sys, kattila_agent.helpers.wireguard_helper as helper\n"
            f"helper._PATH = {str(tmp_path)!r} + ':/usr/bin:/bin'\n"
            f"helper.TIMEOUT_SECONDS, helper.INTERFACE_SECONDS = {total}, {each}\n"
            "sys.exit(helper.main([]))"
        )
        return [sys.executable, "-c", code]

    return command


def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_SECONDS, check=False)


def say(*lines: str) -> str:
    return "\n".join(f"printf '%s\\n' '{line}'" for line in lines)


def wg_with(*names: str, **scripts: str) -> str:
    """Return a script that lists these interfaces, and runs the script given for each; the default dumps `wg0`."""
    cases = [f"'show {name} dump') {script} ;;" for name, script in scripts.items()]
    whole = say(INTERFACE, PEER)
    return "\n".join(
        ['case "$*" in', f"'show interfaces') echo '{' '.join(names)}' ;;", *cases, f"*) {whole}\n;;", "esac"]
    )


def complaint(reason: str) -> str:
    return f"echo 'Unable to access interface: {reason}' >&2; echo {SECRET} >&2; exit 1"


def test_secrets_are_blanked_and_the_rest_is_kept(with_wg: MakeWg) -> None:
    bare = PEER.replace(SECRET, "(none)").replace("192.0.2.1:51820", "(none)").replace("YWJj", "AWJj")
    done = run(with_wg(wg_with("wg0", wg0=say(INTERFACE, PEER, bare))))
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "kattila-wireguard 1"
    assert lines[1:4] == [
        "wg0\t" + INTERFACE.replace(SECRET, "(hidden)"),
        "wg0\t" + PEER.replace(SECRET, "(hidden)"),
        "wg0\t" + bare,
    ]
    found, unreadable = helper.parse(done.stdout, PeerLimits(1000, 5000), notation.scope_name)
    assert (list(found), unreadable) == (["wg0"], {})


PUBLIC = bytes(range(200, 232))
NAMED = b"own_public_key=" + PUBLIC.hex().encode() + b"\n"


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ((NAMED + b"listen_port=1\nerrno=0\n\n",), base64.b64encode(PUBLIC).decode()),
        ((b"private_key=" + b"0" * 64 + b"\n", NAMED), base64.b64encode(PUBLIC).decode()),
        ((NAMED[:30], NAMED[30:].upper()), base64.b64encode(PUBLIC).decode()),
        ((b"own_public_key=" + b"0" * 64 + b"\n",), "(none)"),
        ((b"x" + NAMED,), "(none)"),
        ((NAMED[:-1],), "(none)"),
        ((b"",), "(none)"),
        ((b"x" * 5000, NAMED), "(none)"),
    ],
    ids=["first", "second", "in two parts", "zeros", "another field", "cut", "nothing", "too late"],
)
def test_the_public_key_of_boringtun_comes_from_its_socket(
    with_wg: MakeWg, tmp_path: Path, parts: tuple[bytes, ...], shown: str
) -> None:
    def device(connection: socket.socket) -> None:
        assert connection.recv(100) == b"get=1\n\n"
        with suppress(BrokenPipeError):
            for part in parts:
                connection.sendall(part)
                time.sleep(0.1)

    keyless = INTERFACE.replace(SECRET, "(none)").replace(KEY, "(none)")
    command = with_wg(wg_with("wg0", "wg1", wg0=say(keyless, PEER), wg1=say(keyless)))
    command[-1] = command[-1].replace("sys.exit", f"helper._SOCKETS = {str(tmp_path)!r}; sys.exit")
    with serving(tmp_path / "wg0.sock", device):
        done = run(command)
    assert done.stdout.decode().splitlines()[1:4] == [
        "wg0\t" + keyless.replace("\t(none)", "\t" + shown, 1),
        "wg0\t" + PEER.replace(SECRET, "(hidden)"),
        "wg1\t" + keyless,
    ]


def test_no_interfaces(with_wg: MakeWg) -> None:
    assert helper.parse(run(with_wg(wg_with())).stdout, PeerLimits(1000, 5000)) == ({}, {})


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 1", "wg failed with exit code 1"),
        (f"echo '{SECRET}' >&2; exit 1", "wg failed with exit code 1"),
        (wg_with("wg0", wg0=say("nonsense")), "wg wrote a malformed line"),
        (wg_with("wg0", wg0=say(f"{KEY}\t{SECRET}\t192.0.2.1:51820\toff")), "wg wrote a malformed line"),
        (wg_with("wg0", wg0=say(INTERFACE, PEER + "\tx")), "wg wrote a malformed line"),
        (wg_with("wg0", wg0=say("wg0\t" + INTERFACE)), "wg wrote a malformed line"),
        (wg_with("wg0", wg0=f"printf '%s' '{INTERFACE}'"), "wg wrote a line without an end"),
        (wg_with("wg0", wg0="exec cat /dev/zero"), "wg wrote more than 16777216 bytes"),
    ],
)
def test_a_wg_that_fails(with_wg: MakeWg, script: str, reason: str) -> None:
    check_failure(run(with_wg(script)), reason)


def test_a_wg_that_hangs(with_wg: MakeWg) -> None:
    check_failure(run(with_wg(f"exec sleep {ENDLESS_SECONDS}", total=3)), "it took longer than 3 s")


def check_failure(done: subprocess.CompletedProcess[bytes], reason: str) -> None:
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout == f"kattila-wireguard 1\nfailed {reason}\n".encode()
    with pytest.raises(UnreadableError, match=f"the WireGuard helper failed: {reason}"):
        helper.parse(done.stdout, PeerLimits(1000, 5000), notation.scope_name)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (complaint("Operation not permitted"), "Operation not permitted"),
        (f"{say(INTERFACE)}; kill -9 $$", "wg failed with exit code -9"),
        (f"{say(INTERFACE)}; echo 'Unable to access interface: Protocol error' >&2; exit 1", "Protocol error"),
        (f"echo '{SECRET}' >&2; exit 3", "wg failed with exit code 3"),
    ],
)
def test_an_interface_that_cannot_be_read_does_not_hide_others(with_wg: MakeWg, script: str, reason: str) -> None:
    check_only_one_fails(run(with_wg(wg_with("wg1", "wg0", wg1=script))), reason)


def test_an_interface_that_hangs_does_not_hide_others(with_wg: MakeWg) -> None:
    hanging = wg_with("wg1", "wg0", wg1=f"exec sleep {ENDLESS_SECONDS}")
    check_only_one_fails(run(with_wg(hanging, each=3)), "it took longer than 3 s")


def check_only_one_fails(done: subprocess.CompletedProcess[bytes], reason: str) -> None:
    found, unreadable = helper.parse(done.stdout, PeerLimits(1000, 5000), notation.scope_name)
    assert (list(found), unreadable) == (["wg0"], {"wg1": reason})
    assert SECRET.encode() not in done.stdout


def test_after_the_total_time_the_other_interfaces_have_a_reason(with_wg: MakeWg) -> None:
    slow = f"exec sleep {ENDLESS_SECONDS}"
    script = wg_with("wg1", "wg2", "wg3", "wg4", wg1=slow, wg2=slow, wg3=slow)
    done = run(with_wg(script, each=2, total=6))
    found, unreadable = helper.parse(done.stdout, PeerLimits(1000, 5000), notation.scope_name)
    assert (done.returncode, found, list(unreadable)) == (0, {}, ["wg1", "wg2", "wg3", "wg4"])
    assert (unreadable["wg1"], unreadable["wg4"]) == ("it took longer than 2 s", "other interfaces took too long")


@pytest.mark.parametrize("name", ["all", "interfaces"])
def test_a_link_named_like_a_word_of_wg_is_not_read(with_wg: MakeWg, name: str) -> None:
    done = run(with_wg(wg_with(name, "wg0")))
    found, unreadable = helper.parse(done.stdout, PeerLimits(1000, 5000), notation.scope_name)
    assert (list(found), unreadable) == (["wg0"], {name: "wg cannot show an interface of this name"})


def test_no_wg(with_wg: MakeWg, tmp_path: Path) -> None:
    command = with_wg("")
    (tmp_path / "wg").unlink()
    if shutil.which("wg", path="/usr/bin:/bin") is not None:
        command[-1] = command[-1].replace(":/usr/bin:/bin", "")
    assert run(command).stdout == b"kattila-wireguard 1\nfailed wg is not installed: install wireguard-tools\n"


def test_wrong_usage() -> None:
    done = run([sys.executable, "-m", "kattila_agent.helpers.wireguard_helper", "--help"])
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"behind a systemd socket with Accept=yes" in done.stderr


def test_the_helper_ends_if_the_reader_leaves_or_never_reads(with_wg: MakeWg) -> None:
    endless = wg_with("wg0", wg0=f"{say(INTERFACE)}; yes '{PEER}' | head -n 50000")
    for leaves in (True, False):
        ours, theirs = socket.socketpair()
        with (
            ours,
            subprocess.Popen(with_wg(endless, total=3), stdin=theirs.fileno(), stdout=theirs.fileno()) as process,
        ):
            theirs.close()
            if leaves:
                ours.close()
            assert process.wait(timeout=PATIENCE_SECONDS) != 0


def test_the_distribution_installs_it() -> None:
    script = Path(sys.executable).with_name("kattila-wireguard-helper")
    if not script.exists():
        pytest.skip("the agent was installed before it had this script: make setup")
    assert run([str(script), "x"]).returncode == 2


# --- The client


def test_an_answer_that_takes_too_long_is_dropped(tmp_path: Path) -> None:
    def drip(connection: socket.socket) -> None:
        try:
            for _ in range(int(ENDLESS_SECONDS)):
                connection.sendall(b"x")
                time.sleep(1)
        except OSError:
            return

    with (
        serving(tmp_path / "s", drip) as path,
        pytest.raises(UnreadableError, match=r"no complete answer within 0.5 s"),
        not_waiting_for("the end of the answer"),
    ):
        exchange(path, b"", timeout_seconds=0.5)


def test_an_answer_that_is_too_long_is_dropped(tmp_path: Path) -> None:
    def pour(connection: socket.socket) -> None:
        try:
            connection.sendall(bytes(1_000_000))
        except OSError:
            return

    with serving(tmp_path / "s", pour) as path, pytest.raises(UnreadableError, match="more than 5000 bytes"):
        exchange(path, b"", max_bytes=5000)


def test_the_answer_ends_with_its_end_mark(tmp_path: Path) -> None:
    received: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        received.append(connection.recv(100))
        connection.sendall(b"errno=0\n\n")
        connection.recv(100)
        time.sleep(0.3)

    with serving(tmp_path / "s", answer) as path:
        assert userspace.read(path) == b"errno=0\n\n"
    assert received == [b"get=1\n\n"]


def test_an_answer_that_comes_before_the_request_is_read(tmp_path: Path) -> None:
    with serving(tmp_path / "s", lambda connection: connection.sendall(b"answer")) as path:
        assert {exchange(path, b"") for _ in range(300)} == {b"answer"}


def test_a_socket_without_a_listener(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "s"))
    with pytest.raises(VanishedError):
        userspace.read(tmp_path / "s")
    with pytest.raises(VanishedError):
        userspace.read(tmp_path / "none")
    with pytest.raises(UnreadableError, match=r"Connection refused.*is its unit active"):
        helper.read(tmp_path / "s")
