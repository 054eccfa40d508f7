"""The real agent, but that its date is off by as many milliseconds as a file says, read anew each time.

Network namespaces share the machine's clock, which no test may set. So this replaces the one function of the agent's
that reads the date (`Runtime.now`). CLOCK_MONOTONIC and CLOCK_BOOTTIME, which no setting of a date moves, are the
machine's.

    python agent_with_clock.py FILE [ARGUMENT…]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from kattila_agent import __main__ as agent
from kattila_agent.runtime import Runtime


def set_clock(file: Path, offset_ms: int) -> None:
    """Let the date of whoever reads the file be off by so much from now on; nobody reads half a number."""
    half = file.with_suffix(".new")
    half.write_text(str(offset_ms))
    half.rename(file)


def with_clock(runtime: Runtime, file: Path) -> Runtime:
    """Return the same clocks and chance, but for the date."""
    return replace(runtime, now=lambda: runtime.now() + int(file.read_text()))


if __name__ == "__main__":
    its_own, offset_file = agent._runtime, Path(sys.argv[1])
    agent._runtime = lambda: with_clock(its_own(), offset_file)
    sys.exit(agent.main(sys.argv[2:]))
