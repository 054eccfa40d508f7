"""Programs, the lock, processes, control groups and namespaces of this machine."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fleet.place import Place

LOCK_SECONDS = 60
KILL_SECONDS = 20
SEARCHED = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class LabError(Exception):
    """The lab cannot be made or used; the text says why and what to do."""


def told(task: Callable[[], None]) -> int:
    """Do a task of a command, say what stops it, and return the exit code."""
    try:
        task()
    except LabError as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@contextmanager
def locked(place: Place) -> Iterator[int]:
    """Nobody else changes this lab meanwhile. Programs that are started with the yielded descriptor hold the lock, too:
    after a kill, the next run waits until the last of them is done.
    """
    place.cache.mkdir(mode=0o755, exist_ok=True)
    with (place.cache / "lock").open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise LabError(f"another run changes this lab (see: fuser -v {file.name}); try again when it is done")
            time.sleep(0.1)
        yield file.fileno()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run(words: Sequence[str], lock: int | None = None, stdin: bytes = b"", seconds: float = 60) -> str:
    """Run a program and return what it prints.

    Raises:
        LabError: it failed or did not end in time; with the last lines it said, and never with its standard input.
    """
    environment = os.environ | {"PATH": SEARCHED}
    kept = () if lock is None else (lock,)
    try:
        ran = subprocess.run(
            list(words), input=stdin, capture_output=True, check=False, pass_fds=kept, timeout=seconds, env=environment
        )
    except subprocess.TimeoutExpired as late:
        raise LabError(f"{' '.join(words[:6])} … did not end within {seconds:.0f} s") from late
    if ran.returncode:
        said = "\n".join((ran.stderr or ran.stdout).decode(errors="replace").strip().splitlines()[-5:])
        raise LabError(f"{' '.join(words[:6])} … failed with {ran.returncode}: {said}")
    return ran.stdout.decode(errors="replace")


def namespaces(prefix: str) -> list[str]:
    """Names of the network namespaces that begin with the prefix, half-made ones included."""
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(prefix)) if folder.is_dir() else []


def group_roots(mountinfo: str) -> list[Path]:
    """Where control groups are made: systemd's own hierarchy, the unified one, or both."""
    roots = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            roots.append(Path(before.split()[4]))
    return roots


def group_folders(name: str) -> list[Path]:
    """The folders of a control group, one in each hierarchy; they need not be there."""
    return [root / name for root in group_roots(Path("/proc/self/mountinfo").read_text())]


def groups(prefix: str) -> list[Path]:
    return [path for root in group_folders("") for path in root.glob(f"{prefix}*") if path.is_dir()]


def members(prefix: str) -> set[int]:
    """All processes in control groups or network namespaces of the lab, this one excepted."""
    found: set[int] = set()
    for group in groups(prefix):
        for folder in _inner(group):
            found.update(_numbers(folder / "cgroup.procs"))
    for name in namespaces(prefix):
        ran = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        found.update(int(word) for word in ran.stdout.split())
    return found - {os.getpid()}


def _inner(group: Path) -> list[Path]:
    """The group and all in it, but for those that go away meanwhile: os.walk passes over what it cannot read."""
    return [Path(folder) for folder, _, _ in os.walk(group)]


def _numbers(listed: Path) -> set[int]:
    try:
        return {int(word) for word in listed.read_text().split()} - {0}
    except OSError:  # the group went away meanwhile
        return set()


def kill_all(pids: Callable[[], set[int]]) -> None:
    """End every process that `pids` lists, and those that appear meanwhile.

    Raises:
        LabError: some are still there after KILL_SECONDS.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while left := pids():
        if time.monotonic() > deadline:
            raise LabError(f"processes of the lab do not end: {sorted(left)}")
        for pid in left:
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def remove_groups(prefix: str) -> None:
    """Remove the lab's control groups, which must be empty."""
    for group in groups(prefix):
        for folder in sorted(_inner(group), reverse=True):
            with suppress(FileNotFoundError, ProcessLookupError):
                folder.rmdir()


def start(words: Sequence[str], groups_to_join: Sequence[Path], console: Path) -> None:
    """Start a program that outlives this one, in control groups of its own.

    It has to wait for a line on its standard input before it changes anything: should this program be killed before the
    other is in its groups, where it can be found, it ends without a trace.
    """
    reading, writing = os.pipe()
    with console.open("ab") as said:
        actions = [
            (os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate((reading, *[said.fileno()] * 2))
        ]
        pid = os.posix_spawnp(words[0], list(words), os.environ | {"PATH": SEARCHED}, file_actions=actions, setsid=True)
    os.close(reading)
    for group in groups_to_join:
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(pid))
    os.write(writing, b"go\n")
    os.close(writing)
