"""The agent's benchmark measures known processes correctly."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import agent
from agent import Cost
from agent_node import SHAPES

OURS = Cost(SHAPES[0].name, 6.0, 20.0, 40.0, 25.0, 200.0, 300.0, 11_000)


def test_ratios_compare_with_the_agent_on_the_same_node() -> None:
    large = replace(OURS, name=SHAPES[1].name, cpu_ms=60.0, cut="2000 of 5008 routes reported")
    rival = Cost("collectd-core", 3.0, 100.0, 10.0, 5.0, 100.0, 600.0)
    lines = [line.split() for line in agent.table([OURS, large, rival]).splitlines()]
    assert lines[-2] == ["collectd-core", "/", "agent", "0.50", "5.00", "0.25", "0.20", "0.50", "2.00"]
    assert lines[-1][-5:] == ["2000", "of", "5008", "routes", "reported"]


def test_cpu_and_memory_of_a_process_are_measured() -> None:
    code = (
        "import time; kept = bytearray(b'x') * 30_000_000\n"
        "while time.process_time() < 0.5: pass\n"
        "print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        rss, private = agent.memory(process.pid)
        cpu = agent.cpu_seconds(process.pid)
        process.communicate(b"\n")
    assert 0.4 < cpu < 0.8
    assert 28.6 < private < rss < 60
