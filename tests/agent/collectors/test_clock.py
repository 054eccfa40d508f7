"""The clock of this machine, read where the kernel allows it and where it does not."""

from __future__ import annotations

import ctypes
import errno
import json
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kattila_agent.collectors import clock
from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.helpers.clock_helper import Timex, read_kernel
from support.agent_process import AGENT, environment
from support.wireguard import serving

NOWHERE = Path("/nonexistent.sock")
# The system calls adjtimex(2) and clock_adjtime(2); the C library uses one of them.
CALLS = {"x86_64": (159, 305), "aarch64": (171, 266)}
# Installs a filter (seccomp(2)) that refuses both calls, like that of a service that must not set the clock or of a
# container, and runs a program under it.
FILTER = """
import ctypes, os, struct, sys
load, equal, give = 0x20, 0x15, 0x06
rules = [(load, 0, 0, 0), (equal, 1, 0, {0}), (equal, 0, 1, {1}), (give, 0, 0, 0x50000 | {2}), (give, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
READ = """
import pathlib, sys
from kattila_agent.collectors import clock
found = clock.read(pathlib.Path(sys.argv[1]))
print("unknown" if found is None else "%d %d" % found, clock.parse(found, 7))
"""
HELPER = [sys.executable, "-m", "kattila_agent.helpers.clock_helper"]
AGENTS_HELPER = [sys.executable, "-m", "kattila_agent", "-clock-helper"]


def under_filter(*words: str, error: int = errno.EPERM) -> list[str]:
    """Return the command line that runs these words where the kernel refuses to read the clock."""
    if platform.machine() not in CALLS:
        pytest.skip(f"the numbers of the calls on {platform.machine()} are not known here")
    return [sys.executable, "-c", FILTER.format(*CALLS[platform.machine()], error), *words]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(helper: Path) -> subprocess.CompletedProcess[str]:
    """Read the clock where the kernel refuses."""
    return run(under_filter(sys.executable, "-c", READ, str(helper)))


def test_the_clock_is_read_as_c_reads_it(tmp_path: Path) -> None:
    source = tmp_path / "clock.c"
    source.write_text(
        "#include <stdio.h>\n#include <sys/timex.h>\n"
        "int main(void) { struct timex t = {0}; adjtimex(&t); "
        'printf("%ld %ld %zu", t.esterror, t.maxerror, sizeof t); return 0; }\n'
    )
    try:
        subprocess.run(["cc", "-o", tmp_path / "clock", source], check=True, capture_output=True)
    except OSError as error:
        pytest.skip(f"no C compiler: {error}")
    estimated, maximum, size = map(int, subprocess.check_output([tmp_path / "clock"]).split())
    found = clock.parse(clock.read(NOWHERE), -20)
    assert found is not None
    assert found.estimated_error_us == estimated
    # It grows by 500 each second while nobody corrects the clock.
    assert 0 <= found.maximum_error_us - maximum <= 5000
    assert found.synchronised == (maximum < 16_000_000)
    assert found.clock_offset == -20
    assert ctypes.sizeof(Timex) >= size


def test_if_the_kernel_refuses_the_helper_answers(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        subprocess.run(HELPER, stdout=connection.fileno(), check=True)

    with serving(tmp_path / "clock.sock", answer) as path:
        found = refused(path)
    assert found.returncode == 0, found.stderr
    estimated, maximum = map(int, found.stdout.split()[:2])
    assert estimated == read_kernel()[0]
    assert 0 <= read_kernel()[1] - maximum <= 60_000


def test_if_the_kernel_refuses_and_there_is_no_helper() -> None:
    assert "PermissionError: [Errno 1] Operation not permitted" in refused(NOWHERE).stderr


# systemd and containers return EPERM, older container managers others.
@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES, errno.ENOSYS])
@pytest.mark.parametrize("helper", [HELPER, AGENTS_HELPER])
def test_a_helper_that_is_refused_answers_unknown(helper: list[str], error: int) -> None:
    done = run(under_filter(*helper, error=error))
    assert (done.returncode, done.stdout, done.stderr) == (0, "kattila-clock 1 unknown\n", "")


@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_if_the_kernel_refuses_agent_and_helper_the_clock_is_unknown_and_no_failure(tmp_path: Path, error: int) -> None:
    def answer(connection: socket.socket) -> None:
        subprocess.run(under_filter(*HELPER, error=error), stdout=connection.fileno(), check=True)

    settings = {"CLOCK_HELPER": str(tmp_path / "clock.sock")}
    with serving(tmp_path / "clock.sock", answer) as path:
        found = run(under_filter(sys.executable, "-c", READ, str(path), error=error))
        command = under_filter(*AGENT, "-sysinfo", error=error)
        printed = subprocess.check_output(command, env=environment(**settings), cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "unknown None\n"), found.stderr
    telemetry = json.loads(printed)
    assert telemetry["clock"] is None
    assert [each for each in telemetry["failures"] if each["collector"] == "clock"] == []


def test_a_helper_fails_if_nobody_reads_its_answer() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(under_filter(*HELPER), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1


@pytest.mark.parametrize(
    "answer", [b"", b"kattila-clock 1 unknown", b"kattila-clock 2 unknown\n", b"kattila-clock 1 unknown 5\n"]
)
def test_malformed_unknown_answers_of_the_helper(answer: bytes) -> None:
    with pytest.raises(UnreadableError, match="the clock helper failed, or has another version"):
        clock.parse_helper(answer)


@pytest.mark.parametrize(
    "answer", [b"", b"kattila-clock 1 5 6", b"kattila-clock 2 5 6\n", b"kattila-clock 1 5 -6\n", b"x" * 127 + b"\n"]
)
def test_malformed_answers_of_the_helper(answer: bytes) -> None:
    with pytest.raises(UnreadableError, match="the clock helper failed, or has another version"):
        clock.parse_helper(answer)


def test_an_answer_of_the_helper() -> None:
    assert clock.parse_helper(b"kattila-clock 1 16000000 16000001\n") == (16_000_000, 16_000_001)


def test_the_helper_takes_no_arguments() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kattila_agent.helpers.clock_helper", "x"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")
