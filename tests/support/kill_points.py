"""Runs work in a child process and interferes at each of its steps, for example with SIGKILL."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

# The audit events (sys.addaudithook) that change a folder, besides opening a file to write. A kill between two of them
# leaves the same state as one right after the first; a sync makes no difference to a kill.
_STEPS = {"os.chmod", "os.chown", "os.mkdir", "os.remove", "os.rename"}


def killed_at_each_step(prepare: Callable[[int], Path], work: Callable[[Path], object]) -> Iterator[Path]:
    """Kill `work` before its first step, before its second, and so on, each time in a new folder.

    `prepare` creates the folder for a number. Yields each folder after the kill; in the last one the work completed.
    """
    for step in count(1):
        folder = prepare(step)
        status = run_watched(partial(work, folder), partial(_kill_at, step))
        yield folder
        if status == 0:
            return
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def run_watched(work: Callable[[], object], before_step: Callable[[int], object]) -> int:
    """Run work in a child process and call `before_step` there with 1, 2 …; return its wait status (waitpid(2)).

    An exception is printed and gives the status 256 (exit code 1).
    """
    process = os.fork()
    if process == 0:
        try:
            sys.addaudithook(_hook(before_step))
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1]


def _hook(before_step: Callable[[int], object]) -> Callable[[str, tuple[Any, ...]], None]:
    steps, is_watching = count(1), False

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal is_watching
        if is_watching or not (event in _STEPS or (event == "open" and arguments[2] & os.O_CREAT)):
            return
        # Ignore the steps of the watcher itself.
        is_watching = True
        before_step(next(steps))
        is_watching = False

    return on_event


def _kill_at(target: int, step: int) -> None:
    if step == target:
        os.kill(os.getpid(), signal.SIGKILL)
