"""The helper: a small root program that tells an unprivileged agent what `wg show all dump` says, without secrets.

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
from collections.abc import Iterator
from types import FrameType
from typing import IO, BinaryIO, NoReturn

GREETING = b"kattila-wireguard 1\n"
MAX_BYTES = 16 * 1024 * 1024
# For all of it, the reader's slowness included.
TIMEOUT_SECONDS = 10

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The two kinds of lines of `wg show all dump`, after wg(8), around their secret column. All columns are
# checked, so that nothing which was cut or shifted puts a secret where it is not looked for.
_KEY = rb"[A-Za-z0-9+/]{43}="
_INTERFACE = re.compile(rb"([^\t]+\t)([^\t]+)(\t(?:\(none\)|" + _KEY + rb")\t[0-9]{1,5}\t(?:off|0x[0-9a-f]{1,8}))")
_PEER = re.compile(
    rb"([^\t]+\t" + _KEY + rb"\t)([^\t]+)"
    rb"(\t(?:\(none\)|[^\t]+:[0-9]{1,5})\t(?:\(none\)|[0-9a-f.:/,]+)(?:\t[0-9]{1,20}){3}\t(?:off|[0-9]{1,5}))"
)
# What `wg` says on standard error of an interface that it passes over, and nothing else of what it says.
_UNREADABLE = re.compile(rb"Unable to access interface ([^\s/:]{1,15}): ([A-Za-z][A-Za-z ]{0,60})")
_MAX_SAID = 64 * 1024


class FailedError(Exception):
    """The dump cannot be told; the text says why and holds nothing of it."""


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
    """Yield the lines of `wg show all dump` with blanked secrets, then one for each interface that `wg` passed over.

    Raises:
        FailedError: `wg` is not there, fails, says too much, or something that is no such dump.
    """
    program = shutil.which("wg", path=_PATH)
    if program is None:
        raise FailedError("there is no wg: install wireguard-tools")
    environment = {"LC_ALL": "C", "PATH": _PATH}
    # What wg says of interfaces that it passes over holds no secret, and may be more than a pipe holds.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
            [program, "show", "all", "dump"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
        )
        with process:
            try:
                yield from _blanked(process, said)
            finally:
                process.kill()


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


def _blanked(process: subprocess.Popen[bytes], said: IO[bytes]) -> Iterator[bytes]:
    assert process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
    told = process.stdout.read(MAX_BYTES + 1)
    if len(told) > MAX_BYTES:
        raise FailedError(f"wg gave more than {MAX_BYTES} bytes")
    code = process.wait()
    said.seek(0)
    passed_over = _UNREADABLE.findall(said.read(_MAX_SAID))
    if code and not passed_over:
        raise FailedError(f"wg failed with exit code {code}")
    if told and not told.endswith(b"\n"):
        raise FailedError("wg gave a line without an end")
    yield from (blanked(line) + b"\n" for line in told.split(b"\n")[:-1])
    yield from (b"\t".join((name, b"(unreadable)", reason)) + b"\n" for name, reason in passed_over)


def _expire(_number: int, _frame: FrameType | None) -> NoReturn:
    # If even saying so takes long, as nobody reads, the next alarm ends the program.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    raise FailedError(f"it took longer than {TIMEOUT_SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
