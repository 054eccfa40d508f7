"""The WireGuard helper: a small root program that writes `wg show all dump`, without secrets, for the agent.

It uses only the standard library and imports nothing from the agent, so that all code that runs as root can be read in
one sitting. systemd starts it for each connection (Accept=yes, StandardInput=socket), so its standard output goes to
the agent. docs/ARCHITECTURE.md specifies the output. Exit codes: 0 success, 1 failure, 2 wrong usage.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import signal
import socket
import subprocess  # noqa: TID251 - running `wg` is the purpose of this program
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, BinaryIO, NoReturn

GREETING = b"kattila-wireguard 1\n"
MAX_BYTES = 16 * 1024 * 1024
# For the whole run, including the time that the reader takes.
TIMEOUT_SECONDS = 10
# For one interface. `wg show all dump` would wait for a userspace device that hangs, and show none of the others.
INTERFACE_SECONDS = 3

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The two kinds of lines of `wg show all dump` (wg(8)), around their secret column. All columns are checked: in a line
# that is cut or shifted, a secret may be in another column.
_KEY = rb"[A-Za-z0-9+/]{43}="
_INTERFACE = re.compile(rb"([^\t]+\t)([^\t]+)(\t(?:\(none\)|" + _KEY + rb")\t[0-9]{1,5}\t(?:off|0x[0-9a-f]{1,8}))")
_PEER = re.compile(
    rb"([^\t]+\t" + _KEY + rb"\t)([^\t]+)"
    rb"(\t(?:\(none\)|[^\t]+:[0-9]{1,5})\t(?:\(none\)|[0-9a-f.:/,]+)(?:\t[0-9]{1,20}){3}\t(?:off|[0-9]{1,5}))"
)
# The message of `wg` about an interface that it cannot read. Nothing else of its standard error is used.
_UNREADABLE = re.compile(rb"Unable to access interface: ([A-Za-z][A-Za-z ]{0,60})")
_MAX_STDERR = 64 * 1024
# boringtun does not show its private key, so `wg` shows neither key. Its socket begins its answer with the public one.
_SOCKETS = "/var/run/wireguard"
_KEYLESS = b"(none)\t(none)\t"
_OWN_KEY = re.compile(rb"(?:\A|\n)own_public_key=([0-9a-fA-F]{64})\n")
_OWN_KEY_WITHIN = 4096
_SOCKET_SECONDS = 1
# These names of links mean something else to `wg show`.
_RESERVED = (b"all", b"interfaces")


class FailedError(Exception):
    """The dump cannot be made; the text says why, and contains no part of it."""


@dataclass(frozen=True)
class Output:
    """What `wg` wrote, or why it failed: `problem` is empty if it did not."""

    stdout: bytes
    problem: str


def main(arguments: list[str] | None = None) -> int:
    """Write the answer to standard output, and return the exit code."""
    if sys.argv[1:] if arguments is None else arguments:
        sys.stderr.write(
            "usage: kattila-wireguard-helper, without arguments, behind a systemd socket with Accept=yes\n"
        )
        return 2
    signal.signal(signal.SIGALRM, _expire)
    signal.alarm(TIMEOUT_SECONDS)
    try:
        # Closed here: at exit, Python would complain if nobody reads any more.
        with open(sys.stdout.fileno(), "wb", closefd=False) as output:
            return answer(output)
    except (BrokenPipeError, ConnectionResetError, FailedError):
        return 1


def answer(output: BinaryIO) -> int:
    """Write greeting, dump and end, or greeting and failure, and return the exit code."""
    output.write(GREETING)
    try:
        body = b"".join(dump())
    except FailedError as error:
        output.write(b"failed " + str(error).encode() + b"\n")
        output.flush()
        return 1
    output.write(body + b"end " + hashlib.sha256(body).hexdigest().encode() + b"\n")
    output.flush()
    return 0


def dump() -> Iterator[bytes]:
    """Yield the lines of `wg show all dump` with blanked secrets, and a reason for each interface that cannot be read.

    Raises:
        FailedError: `wg` is not installed, fails to list the interfaces, or writes too much or a malformed dump.
    """
    program = shutil.which("wg", path=_PATH)
    if program is None:
        raise FailedError("wg is not installed: install wireguard-tools")
    listed = _wg(program, b"interfaces", seconds=TIMEOUT_SECONDS)
    if listed.problem:
        raise FailedError(listed.problem)
    room = MAX_BYTES
    for name in listed.stdout.split():
        output = _dump_interface(program, name, room)
        room -= len(output.stdout)
        yield from _lines(name, output)


def blanked(line: bytes) -> bytes:
    """Return a line of the dump, without line feed, with its secret column blanked unless it is "(none)".

    Raises:
        FailedError: the line is malformed.
    """
    match = _INTERFACE.fullmatch(line) or _PEER.fullmatch(line)
    if match is None:
        raise FailedError("wg wrote a malformed line")
    before, secret, after = match.groups()
    return before + (secret if secret == b"(none)" else b"(hidden)") + after


def _dump_interface(program: str, name: bytes, room: int) -> Output:
    """Run `wg show` for one interface, if there is time left."""
    if name in _RESERVED:
        return Output(b"", "wg cannot show an interface of this name")
    # The last second is left to the reader.
    left = signal.getitimer(signal.ITIMER_REAL)[0] - 1
    if left <= 0:
        return Output(b"", "other interfaces took too long")
    return _wg(program, name, b"dump", seconds=min(INTERFACE_SECONDS, left), room=room)


def _lines(name: bytes, output: Output) -> Iterator[bytes]:
    """Yield the lines for one interface, in the form of `wg show all dump`."""
    if output.problem:
        yield b"\t".join((name, b"(unreadable)", output.problem.encode())) + b"\n"
        return
    if not output.stdout.endswith(b"\n"):
        raise FailedError("wg wrote a line without an end")
    stdout = output.stdout
    if stdout.startswith(_KEYLESS):
        stdout = stdout.replace(b"\t(none)\t", b"\t" + _own_public_key(name) + b"\t", 1)
    yield from (blanked(name + b"\t" + line) + b"\n" for line in stdout.split(b"\n")[:-1])


def _own_public_key(name: bytes) -> bytes:
    """Return the public key that a userspace device shows instead of its private key; without one, "(none)"."""
    try:
        with socket.socket(socket.AF_UNIX) as device:
            device.settimeout(_SOCKET_SECONDS)
            device.connect(f"{_SOCKETS}/{name.decode()}.sock")
            device.sendall(b"get=1\n\n")
            answer = b""
            while not (found := _OWN_KEY.search(answer)) and len(answer) < _OWN_KEY_WITHIN:
                chunk = device.recv(_OWN_KEY_WITHIN)
                if not chunk:
                    break
                answer += chunk
    except (OSError, UnicodeDecodeError):
        return b"(none)"
    key = bytes.fromhex(found[1].decode()) if found else b""
    return base64.b64encode(key) if any(key) else b"(none)"


def _wg(program: str, *arguments: bytes, seconds: float, room: int = MAX_BYTES) -> Output:
    """Run `wg show` with these arguments, for at most `seconds`; raises FailedError if it writes too much."""
    # Standard error contains no secret, but may be more than a pipe holds.
    with tempfile.TemporaryFile() as stderr, _started(program, arguments, stderr) as process:
        assert process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
        ending = threading.Timer(seconds, process.kill)
        ending.start()
        try:
            stdout = process.stdout.read(room + 1)
            if len(stdout) > room:
                raise FailedError(f"wg wrote more than {MAX_BYTES} bytes")
            code = process.wait()
            problem = _problem(code, stderr) if ending.is_alive() else f"it took longer than {seconds:.0f} s"
        finally:
            ending.cancel()
            process.kill()
        return Output(b"" if problem else stdout, problem)


def _started(program: str, arguments: Sequence[bytes], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - the names of links come from the kernel, or from a folder that belongs to root
        [program, "show", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={"LC_ALL": "C", "PATH": _PATH},
    )


def _problem(code: int, stderr: IO[bytes]) -> str:
    if code == 0:
        return ""
    stderr.seek(0)
    found = _UNREADABLE.search(stderr.read(_MAX_STDERR))
    return found[1].decode() if found else f"wg failed with exit code {code}"


def _expire(_number: int, _frame: FrameType | None) -> NoReturn:
    # If nobody reads the failure, the next alarm ends the program.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    raise FailedError(f"it took longer than {TIMEOUT_SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
