"""Formats values as short texts for alarms, pages, tables and logs, and parses times that people write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from kattila_protocol import foreign_text

# For text of others, under the name that the manager's modules use.
shown = foreign_text.shown
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))
# Also "4 min 30 s", as `duration` returns it.
_PART = re.compile(r"([0-9]{1,9}) ?(d|h|min|m|s)")
_AGO = re.compile(rf"{_PART.pattern}( ?{_PART.pattern})*")
_SIZES = {unit: size for size, unit in _UNITS} | {"m": 60_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS = 253_402_300_799_999


def duration(ms: int) -> str:
    """Return a duration in its two largest units, such as "4 min 30 s"; less than a second is "0 s"."""
    for place, (size, unit) in enumerate(_UNITS):
        if ms >= size:
            count, rest = divmod(ms, size)
            smaller = _UNITS[place + 1 : place + 2]
            parts = [f"{count} {unit}"] + [f"{rest // least} {name}" for least, name in smaller if rest >= least]
            return " ".join(parts)
    return "0 s"


def moment(at: int) -> str:
    """Return a time (ms UTC) as "2026-01-31 12:00:00 UTC"."""
    return _datetime(at).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_moment(at: int) -> str:
    """Return a time (ms UTC) in the form of HTML's <time>: "2026-01-31T12:00:00Z"."""
    return _datetime(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def earlier(text: str, now: int) -> int:
    """Parse a time before `now` (ms UTC): how long ago, such as "36h" or "10m", or "2026-01-31 12:00" in UTC.

    Raises:
        ValueError: the text has neither form.
    """
    if _AGO.fullmatch(text.strip()) is not None:
        return max(0, now - sum(int(count) * _SIZES[unit] for count, unit in _PART.findall(text)))
    try:
        read = datetime.fromisoformat(text.strip().removesuffix("UTC").strip())
    except ValueError:
        raise ValueError(
            f"{text!r}: expected how long ago, such as 10m, 36h or 7d, or a time such as 2026-01-31 12:00"
        ) from None
    since_epoch = (read if read.tzinfo else read.replace(tzinfo=UTC)) - _EPOCH
    return max(0, since_epoch // timedelta(milliseconds=1))


def offset(ms: int) -> str:
    """Return how far a clock is ahead (+) or behind (-), in seconds."""
    if abs(ms) < 50:
        return "0.0 s"
    return f"{ms / 1000:+.1f} s" if abs(ms) < 600_000 else f"{'+' if ms > 0 else '-'}{duration(abs(ms))}"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: "1 agent", "2 agents", "1,000 agents"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def path_text(relays: Sequence[str]) -> str:
    """Return the path of reports, by the names of their relays: "direct", "via north, then south"."""
    return "via " + ", then ".join(relays) if relays else "direct"


def short_id(agent_id: str) -> str:
    """Return the first part of an agent id, which is usually unique in a fleet."""
    return agent_id.partition("-")[0]


def _datetime(at: int) -> datetime:
    # fromtimestamp would fail outside the platform's range.
    return _EPOCH + timedelta(milliseconds=max(0, min(at, _LATEST_MS)))
