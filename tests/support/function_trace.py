"""Records which project functions a process enters and leaves, and when.

A process started with `python` writes a line whenever it enters or leaves a project function, and so do its children.
`read` returns these steps of all processes in the order in which they happened.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

PACKAGES = frozenset(("kattila_protocol", "kattila_keys", "kattila_settings", "kattila_agent", "kattila_manager"))

# How a profile function calls the two events.
ENTERED, LEFT = "call", "return"

_FOLDER = "KATTILA_TEST_TRACE"
_TESTS = Path(__file__).parent.parent
# Python imports a module of this name before anything else, in each process.
_HOOK = "sitecustomize.py"


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the project; `path` and `line` are where its code object begins, decorators included."""

    module: str
    name: str
    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """A thread entered a function or left it; `at` is monotonic time in ns, by the same clock in all processes."""

    at: int
    process: int
    thread: int
    event: str
    function: Function


def python(folder: Path) -> list[str]:
    """Return the command for a Python that writes its steps to a folder, and so do the processes that it starts."""
    (folder / _HOOK).write_text("from support import function_trace\n\nfunction_trace.start()\n")
    return ["env", f"PYTHONPATH={folder}{os.pathsep}{_TESTS}", f"{_FOLDER}={folder}", sys.executable]


def start() -> None:
    """Record the steps of this thread and of all threads that start later."""
    file = os.open(Path(os.environ[_FOLDER]) / f"{os.getpid()}.steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    written: dict[CodeType, str] = {}

    def record(frame: FrameType, event: str, _argument: object) -> None:
        if event not in (ENTERED, LEFT):
            return
        code = frame.f_code
        if code not in written:
            written[code] = _described(code, str(frame.f_globals.get("__name__")))
        if written[code]:
            os.write(file, f"{time.monotonic_ns()}\t{threading.get_ident()}\t{event}\t{written[code]}\n".encode())

    threading.setprofile(record)
    sys.setprofile(record)


def read(folder: Path) -> list[Step]:
    """Return the steps recorded so far."""
    found = (step for path in folder.glob("*.steps") for step in _steps(int(path.stem), path.read_bytes()))
    return sorted(found, key=lambda step: step.at)


def _steps(process: int, recorded: bytes) -> Iterator[Step]:
    # The last line may not be complete yet.
    for line in recorded.decode().split("\n")[:-1]:
        at, thread, event, module, name, path, first = line.split("\t")
        yield Step(int(at), process, int(thread), event, Function(module, name, path, int(first)))


def _described(code: CodeType, module: str) -> str:
    """Return a code object as its line shows it, or "" if it is not a function of the project.

    Comprehensions and lambdas belong to the function around them. Methods that dataclasses generate have no file.
    """
    is_function = bool(code.co_flags & inspect.CO_OPTIMIZED) and not code.co_name.startswith("<")
    if not is_function or module.partition(".")[0] not in PACKAGES or code.co_filename.startswith("<"):
        return ""
    return f"{module}\t{code.co_qualname}\t{code.co_filename}\t{code.co_firstlineno}"
