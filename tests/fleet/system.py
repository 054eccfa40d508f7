"""Runs programs, and manages the lab's lock, processes, control groups and namespaces on this machine."""

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
KILL_SECONDS = 60
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class LabError(Exception):
    """The lab cannot be created or used; the text names the cause and the remedy."""


def exit_code(task: Callable[[], None]) -> int:
    """Run a command's task, print its LabError, and return the exit code."""
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
    """Hold the lab's lock, and yield its descriptor.

    Programs that inherit the descriptor hold the lock, too: after a kill, the next run waits until they have ended.
    """
    place.cache.mkdir(mode=0o755, exist_ok=True)
    with (place.cache / "lock").open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise LabError(f"another run uses this lab (fuser -v {file.name} shows it): try again later")
            time.sleep(0.1)
        yield file.fileno()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run(words: Sequence[str], lock: int | None = None, stdin: bytes = b"", seconds: float = 60) -> str:
    """Run a program and return its output.

    Raises:
        LabError: The program failed or did not end in time. The text has its last lines, never its standard input.
    """
    environment = os.environ | {"PATH": SEARCH_PATH}
    inherited = () if lock is None else (lock,)
    try:
        ran = subprocess.run(
            list(words),
            input=stdin,
            capture_output=True,
            check=False,
            pass_fds=inherited,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired as late:
        raise LabError(f"{' '.join(words[:6])} … did not end within {seconds:.0f} s") from late
    if ran.returncode:
        output = "\n".join((ran.stderr or ran.stdout).decode(errors="replace").strip().splitlines()[-5:])
        raise LabError(f"{' '.join(words[:6])} … failed with {ran.returncode}: {output}")
    return ran.stdout.decode(errors="replace")


def namespaces(prefix: str) -> list[str]:
    """Return the names of network namespaces with the prefix, including half-created ones."""
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(prefix)) if folder.is_dir() else []


def group_roots(mountinfo: str) -> list[Path]:
    """Return the mount points for control groups: systemd's own hierarchy, the unified one, or both."""
    roots = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            roots.append(Path(before.split()[4]))
    return roots


def group_folders(name: str) -> list[Path]:
    """Return the folders of a control group, one per hierarchy; they need not exist."""
    return [root / name for root in group_roots(Path("/proc/self/mountinfo").read_text())]


def groups(prefix: str) -> list[Path]:
    return [path for root in group_folders("") for path in root.glob(f"{prefix}*") if path.is_dir()]


def members(prefix: str) -> set[int]:
    """Return all processes in the lab's control groups and network namespaces, except this one."""
    found: set[int] = set()
    for group in groups(prefix):
        for folder in _subgroups(group):
            found.update(_pids(folder / "cgroup.procs"))
    for name in namespaces(prefix):
        ran = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        found.update(int(word) for word in ran.stdout.split())
    return found - {os.getpid()}


def _subgroups(group: Path) -> list[Path]:
    """Return a group and all groups below it; os.walk skips groups that vanish meanwhile."""
    return [Path(folder) for folder, _, _ in os.walk(group)]


def _pids(path: Path) -> set[int]:
    try:
        return {int(word) for word in path.read_text().split()} - {0}
    except OSError:  # the group vanished meanwhile
        return set()


def kill_all(pids: Callable[[], set[int]]) -> None:
    """Kill every process that `pids` returns, until it returns none.

    Raises:
        LabError: Some processes are still alive after KILL_SECONDS.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while left := pids():
        if time.monotonic() > deadline:
            raise LabError(f"the lab's processes do not end: {sorted(left)}")
        for pid in left:
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def remove_groups(prefix: str) -> None:
    """Remove the lab's control groups, which must be empty."""
    for group in groups(prefix):
        for folder in sorted(_subgroups(group), reverse=True):
            with suppress(FileNotFoundError, ProcessLookupError):
                folder.rmdir()


def start(words: Sequence[str], groups_to_join: Sequence[Path], console: Path) -> None:
    """Start a program that outlives this one, in its own control groups.

    The program has to wait for a line on its standard input before it changes anything. If this process is killed
    before the program is in its groups, where `down` finds it, the program exits without a trace.
    """
    reading, writing = os.pipe()
    with console.open("ab") as output:
        actions = [
            (os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate((reading, *[output.fileno()] * 2))
        ]
        pid = os.posix_spawnp(
            words[0], list(words), os.environ | {"PATH": SEARCH_PATH}, file_actions=actions, setsid=True
        )
    os.close(reading)
    for group in groups_to_join:
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(pid))
    os.write(writing, b"go\n")
    os.close(writing)
