"""The helper: a small root program that tells an unprivileged agent what `wg show all dump` would, without secrets.

May live here: that program, whole. It uses the standard library alone and imports nothing of the agent, so that what
runs as root can be read in one sitting. systemd starts it for each connection (Accept=yes, StandardInput=socket): its
standard output is the agent. DESIGN.md specifies what it writes. Exit codes: 0 told, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess  # noqa: TID251 - to run one program is what this one is for
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, BinaryIO, NoReturn

GREETING = b"kattila-wireguard 1\n"
MAX_BYTES = 16 * 1024 * 1024
# For all of it, the reader's slowness included.
TIMEOUT_SECONDS = 10
# For one interface: `wg show all dump` would wait for a userspace device that hangs, and tell nothing of the others.
INTERFACE_SECONDS = 3

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The two kinds of lines of `wg show all dump`, after wg(8), around their secret column. All columns are
# checked, so that nothing which was cut or shifted puts a secret where it is not looked for.
_KEY = rb"[A-Za-z0-9+/]{43}="
_INTERFACE = re.compile(rb"([^\t]+\t)([^\t]+)(\t(?:\(none\)|" + _KEY + rb")\t[0-9]{1,5}\t(?:off|0x[0-9a-f]{1,8}))")
_PEER = re.compile(
    rb"([^\t]+\t" + _KEY + rb"\t)([^\t]+)"
    rb"(\t(?:\(none\)|[^\t]+:[0-9]{1,5})\t(?:\(none\)|[0-9a-f.:/,]+)(?:\t[0-9]{1,20}){3}\t(?:off|[0-9]{1,5}))"
)
# What `wg` says on standard error of an interface that it cannot read, and nothing else of what it says.
_UNREADABLE = re.compile(rb"Unable to access interface: ([A-Za-z][A-Za-z ]{0,60})")
_MAX_SAID = 64 * 1024
# Links may be called so, and `wg show` means something else by it.
_WORDS = (b"all", b"interfaces")


class FailedError(Exception):
    """The dump cannot be told; the text says why and holds nothing of it."""


@dataclass(frozen=True)
class Said:
    """What `wg` told, or why it did not: `problem` is empty if it did."""

    told: bytes
    problem: str


def main(arguments: list[str] | None = None) -> int:
    """Write the answer to standard output and return the exit code."""
    if sys.argv[1:] if arguments is None else arguments:
        sys.stderr.write("usage: kattila-wireguard-helper, behind a socket of systemd's with Accept=yes\n")
        return 2
    signal.signal(signal.SIGALRM, _expire)
    signal.alarm(TIMEOUT_SECONDS)
    try:
        # Closed in here, as Python would complain at exit that nobody listens any more.
        with open(sys.stdout.fileno(), "wb", closefd=False) as output:
            return answer(output)
    except (BrokenPipeError, ConnectionResetError, FailedError):
        return 1


def answer(output: BinaryIO) -> int:
    """Write greeting, dump and end, or greeting and failure; return the exit code."""
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
    """Yield the lines of `wg show all dump` with blanked secrets; of an interface that cannot be read, why.

    Raises:
        FailedError: `wg` is not there, lists no interfaces, says too much, or something that is no such dump.
    """
    program = shutil.which("wg", path=_PATH)
    if program is None:
        raise FailedError("there is no wg: install wireguard-tools")
    listed = _wg(program, b"interfaces", seconds=TIMEOUT_SECONDS)
    if listed.problem:
        raise FailedError(listed.problem)
    room = MAX_BYTES
    for name in listed.told.split():
        said = _interface(program, name, room)
        room -= len(said.told)
        yield from _lines(name, said)


def blanked(line: bytes) -> bytes:
    """Return a line of the dump, without its line feed, with its secret column blanked; "(none)" is kept.

    Raises:
        FailedError: it is no line of such a dump.
    """
    match = _INTERFACE.fullmatch(line) or _PEER.fullmatch(line)
    if match is None:
        raise FailedError("wg gave a line that is none of a dump")
    before, secret, after = match.groups()
    return before + (secret if secret == b"(none)" else b"(hidden)") + after


def _interface(program: str, name: bytes, room: int) -> Said:
    """Ask for one interface, while there is time."""
    if name in _WORDS:
        return Said(b"", "wg cannot be asked for one of this name")
    # The last second of all is for whoever reads.
    left = signal.getitimer(signal.ITIMER_REAL)[0] - 1
    if left <= 0:
        return Said(b"", "others took too long")
    return _wg(program, name, b"dump", seconds=min(INTERFACE_SECONDS, left), room=room)


def _lines(name: bytes, said: Said) -> Iterator[bytes]:
    """Yield what was said of one interface as `wg show all dump` has it."""
    if said.problem:
        yield b"\t".join((name, b"(unreadable)", said.problem.encode())) + b"\n"
        return
    if not said.told.endswith(b"\n"):
        raise FailedError("wg gave a line without an end")
    yield from (blanked(name + b"\t" + line) + b"\n" for line in said.told.split(b"\n")[:-1])


def _wg(program: str, *words: bytes, seconds: float, room: int = MAX_BYTES) -> Said:
    """Run `wg show` with these words; it is ended when its time is over. Raises FailedError if it says too much."""
    # What it complains of holds no secret, and may be more than a pipe holds.
    with tempfile.TemporaryFile() as complaints, _started(program, words, complaints) as process:
        assert process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
        ending = threading.Timer(seconds, process.kill)
        ending.start()
        try:
            told = process.stdout.read(room + 1)
            if len(told) > room:
                raise FailedError(f"wg gave more than {MAX_BYTES} bytes")
            code = process.wait()
            problem = _problem(code, complaints) if ending.is_alive() else f"it took longer than {seconds:.0f} s"
        finally:
            ending.cancel()
            process.kill()
        return Said(b"" if problem else told, problem)


def _started(program: str, words: Sequence[bytes], complaints: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - names of links come from the kernel and from a folder that is root's
        [program, "show", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=complaints,
        env={"LC_ALL": "C", "PATH": _PATH},
    )


def _problem(code: int, complaints: IO[bytes]) -> str:
    if code == 0:
        return ""
    complaints.seek(0)
    found = _UNREADABLE.search(complaints.read(_MAX_SAID))
    return found[1].decode() if found else f"wg failed with exit code {code}"


def _expire(_number: int, _frame: FrameType | None) -> NoReturn:
    # If even saying so takes long, as nobody reads, the next alarm ends the program.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    raise FailedError(f"it took longer than {TIMEOUT_SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
