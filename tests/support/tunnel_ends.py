"""Creates the ends of tunnels from samples that show growth where a test wants it.

A pattern has one character for each interval between two samples, "+" if the counter grew and "=" if not; the last
character is the newest interval. The first character is repeated for as long as the end has been watched: "+==" is a
counter that grew all the time until two intervals ago.
"""

from __future__ import annotations

from typing import Any

from kattila_manager.topology.facts import Reading
from kattila_manager.topology.wireguard.ends import End, View
from kattila_manager.topology.wireguard.evidence import Evidence, fold
from support.fleet import NOON, SECOND

STEP = 30 * SECOND
# Long enough that no run is short.
SAMPLES = 20
# B is sampled later than A, so each of A's intervals is known to be over at B.
AFTER = 10 * SECOND
A_AT, B_AT = NOON, NOON + AFTER


def samples(
    tx: str,
    rx: str,
    age: int | None = None,
    *,
    at: int = A_AT,
    step: int = STEP,
    count: int = SAMPLES,
    before: Evidence | None = None,
    boot_id: str = "boot",
    interface_index: int = 5,
    clock_ahead: int = 0,
    clock_step: int = 0,
    known_handshake_at: int | None = None,
) -> Evidence:
    """Return the evidence of `count` samples, the newest one at `at`, which follow `before`.

    `age` is how many seconds before `A_AT` the newest handshake was, None for never. The node's clock is ahead all the
    time, and moved by `clock_step` after the handshake; both are in ms.
    """
    handshake = 0 if age is None else A_AT - age * SECOND
    found, intervals = before, count - (before is None)
    received, sent = (0, 0) if before is None or before.reading.boot_id != boot_id else (before.rx, before.tx)
    patterns = list(zip(tx.rjust(intervals, tx[0]), rx.rjust(intervals, rx[0]), strict=True))
    for number in range(count):
        sampled_at = at - (count - 1 - number) * step
        sends, receives = ("=", "=") if before is None and number == 0 else patterns[number - count]
        # Whatever a handshake sends and receives counts, too.
        is_new = found is not None and found.at < handshake <= sampled_at
        sent, received = sent + 148 * (is_new or sends == "+"), received + 148 * (is_new or receives == "+")
        latest = (handshake + clock_ahead) // SECOND if 0 < handshake <= sampled_at else 0
        reading = Reading(sampled_at, step, sampled_at + clock_ahead + clock_step, boot_id, interface_index)
        found = fold(found, reading, received, sent, latest, known_handshake_at)
    assert found is not None
    return found


def view(evidence: Evidence, keepalive: int = 0, **changes: Any) -> View:
    """Return a view that knows an endpoint and has no preshared key."""
    members: dict[str, Any] = {
        "endpoint": "192.0.2.7:51820",
        "has_preshared_key": False,
        "listed_at": evidence.at - 100 * STEP,
    }
    return View(keepalive=keepalive, evidence=evidence, **members | changes)


def a(tx: str, rx: str, age: int | None = None, k: int = 0, **changes: Any) -> End:
    """Return the end A; `changes` are members of End, View, or arguments of `samples`."""
    return _end("a", A_AT, (tx, rx, age, k), changes)


def b(tx: str, rx: str, age: int | None = None, k: int = 0, **changes: Any) -> End:
    """Return the end B, which is sampled after A."""
    return _end("b", B_AT, (tx, rx, age, k), changes)


def absent(agent_id: str = "b", **changes: Any) -> End:
    """Return an end that does not list the other one, in more than one sample."""
    members: dict[str, Any] = {"interface": "wg0", "view": None, "at": B_AT}
    return End(agent_id=agent_id, **members | changes)


_OF_SAMPLES = frozenset(("at", "step", "count", "before", "boot_id", "interface_index", "clock_ahead", "clock_step"))
_OF_VIEW = frozenset(("endpoint", "has_preshared_key", "listed_at"))


def _end(agent_id: str, at: int, seen: tuple[str, str, int | None, int], changes: dict[str, Any]) -> End:
    tx, rx, age, keepalive = seen
    evidence = samples(
        tx, rx, age, **{"at": at} | {name: value for name, value in changes.items() if name in _OF_SAMPLES}
    )
    shown = view(evidence, keepalive, **{name: value for name, value in changes.items() if name in _OF_VIEW})
    rest = {name: value for name, value in changes.items() if name not in _OF_SAMPLES | _OF_VIEW}
    return End(agent_id=agent_id, view=shown, at=evidence.at, **{"interface": "wg0"} | rest)
