"""How often tests repeat their work: reduced counts for `make check`, full counts for `make check-long`."""

from __future__ import annotations

import os

# Set by make check-long; for some tests: KATTILA_COUNTS=full make test ARGS="tests/end_to_end/test_kill.py"
IS_FULL = os.environ.get("KATTILA_COUNTS") == "full"
HEADER = "counts: full" if IS_FULL else "counts: reduced; make check-long runs the full ones"


def _count(reduced: int, full: int) -> int:
    return full if IS_FULL else reduced


def examples(full: int) -> int:
    """Return how many examples Hypothesis tries if the full count is `full`."""
    return _count(max(10, full // 4), full)


# SIGKILL at random times: the manager and its workers under load, during its first start, the writer of the ring file,
# and an agent that changes its spool.
MANAGER_KILLS = _count(5, 50)
FIRST_START_KILLS = _count(3, 8)
RING_FILE_KILLS = _count(5, 40)
SPOOL_KILLS = _count(5, 20)
# Power cuts during one change of the spool, spread evenly over its steps. The full count is more than any change has.
POWER_CUTS = _count(10, 1000)
# Answers of the manager that agents never receive.
LOST_ANSWERS = _count(100, 1000)
# Queries of one agent to its peers.
PEER_QUERIES = _count(400, 2000)
# Agents that all lose the manager at once.
STORM_AGENTS = _count(40, 100)
# Sequences of random operations: on a fleet, on a spool, and on a spool whose disk fills.
FLEET_SEQUENCES = _count(8, 25)
SPOOL_SEQUENCES = _count(5, 15)
FULL_DISK_SEQUENCES = _count(20, 80)
# Simulated tunnels that are healthy, the days that each of them is watched, and cuts of each kind.
HEALTHY_TUNNELS = _count(16, 500)
HEALTHY_DAYS = _count(1, 7)
CUTS = _count(40, 200)
# An honest fleet beside a liar: for how long, and how many idle connections of each of three kinds the liar keeps.
SIEGE_SECONDS = _count(15, 120)
SIEGE_CONNECTIONS = _count(100, 1400)
