"""The process of the liar: sends lies of all kinds together, and occupies connections, until its standard input ends.

PYTHONPATH=tests python -m support.siege.liar TARGET.json RESULT.json
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from kattila_protocol.signing import Key
from support.raw_http import allow_open_files
from support.siege import forge
from support.siege.lies import Lie, Lies, Target, occupations
from support.siege.wire import occupy

# How many messages of one lie may wait for their answers.
_AT_ONCE = 6
_RECORD_SECONDS = 0.5


async def repeat(lie: Lie, per_second: float) -> None:
    """Call one method of `Lies` at this rate, or as fast as it is answered."""
    loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)
    due = loop.time()

    async def once() -> None:
        try:
            await lie()
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        while True:
            await slots.acquire()
            group.create_task(once())
            due = max(due + 1 / per_second, loop.time() - 1)
            await asyncio.sleep(max(0.0, due - loop.time()))


async def besiege(target: Target, idle: int, record: Callable[[Lies], None]) -> None:
    """Do everything at once until standard input ends; `idle` is the number of connections of each kind."""
    lies = Lies(target)
    await lies.prepare()
    works = [repeat(lie, rate) for lie, rate in lies.all().items()]
    works += [occupy(target.manager, sent, idle, lies.sent, name) for name, sent in occupations().items()]
    works += [occupy(agent, b"", 200, lies.sent, "idle connections to agents") for agent, _ in target.agents]
    tasks = [asyncio.ensure_future(work) for work in works]
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        await asyncio.wait([ended], timeout=_RECORD_SECONDS)
        record(lies)
    for task in tasks:
        if task.done() and (error := task.exception()) is not None:
            raise error
        task.cancel()
    await asyncio.wait(tasks, timeout=10)
    record(lies)


def main(target_file: Path, result_file: Path) -> None:
    """Read the target, lie, and keep a file with the counts of messages and answers."""
    # A liar on another machine would take no processor time from its victims.
    os.nice(10)
    members = json.loads(target_file.read_text())
    allow_open_files(members["idle"] * 3 + 2000)
    target = Target(
        (members["host"], members["port"]),
        tuple(((host, port), agent_id) for host, port, agent_id in members["agents"]),
        Key.from_psk(members["psk"].encode()),
        tuple(map(forge.from_json, members["numbered"])),
        tuple(map(forge.from_json, members["claimed"])),
    )

    def record(lies: Lies) -> None:
        new = result_file.with_suffix(".new")
        new.write_text(json.dumps({"sent": lies.sent, "answers": lies.answers, "leaks": lies.leaks}))
        new.rename(result_file)

    asyncio.run(besiege(target, members["idle"], record))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
