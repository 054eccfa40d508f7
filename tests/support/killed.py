"""Work that is disturbed at each step: killed, as SIGKILL may come at any, or watched by who pulls the plug."""

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

# What changes a folder and is told of (sys.addaudithook), beside opening a file to write. Between two of these nothing
# happens that a kill could leave half done; a sync is of no matter to it.
_STEPS = {"os.chmod", "os.chown", "os.mkdir", "os.remove", "os.rename"}


def killed_at_each_step(prepare: Callable[[int], Path], work: Callable[[Path], object]) -> Iterator[Path]:
    """Have `work` killed before its first step, before its second, and so on, each time in a folder of its own.

    `prepare` makes the folder of a number; each is yielded after that. In the last one the work came to its end.
    """
    for step in count(1):
        folder = prepare(step)
        status = watched(partial(work, folder), partial(_kill_at, step))
        yield folder
        if status == 0:
            return
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def watched(work: Callable[[], object], before_step: Callable[[int], object]) -> int:
    """Do work in a process of its own and call `before_step` with 1, 2 … there; return the process's exit status.

    A failure is shown, and is the status 256 (1 in the words of a shell).
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
        # What the watcher does is no step.
        is_watching = True
        before_step(next(steps))
        is_watching = False

    return on_event


def _kill_at(which: int, step: int) -> None:
    if step == which:
        os.kill(os.getpid(), signal.SIGKILL)
