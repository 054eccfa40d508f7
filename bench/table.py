"""Turns runs into the printed table. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from runs import Run

_Figure = tuple[str, Callable[[Run], float], str]

FULL_SPEED: tuple[_Figure, ...] = (
    ("reports/s", lambda run: run.per_second, ",.0f"),
    ("p50 ms", lambda run: run.p50_ms, ",.1f"),
    ("p99 ms", lambda run: run.p99_ms, ",.1f"),
    ("slowest ms", lambda run: run.max_ms, ",.0f"),
    ("server CPU us/report", lambda run: run.server_cpu_us, ",.0f"),
    ("client CPU us/report", lambda run: run.client_cpu_us, ",.0f"),
    ("server RSS MiB", lambda run: run.rss_mib, ",.0f"),
    ("bytes on disk/report", lambda run: run.bytes_on_disk, ",.0f"),
    ("reports stored", lambda run: run.stored, ",.0f"),
    ("cores busy elsewhere", lambda run: run.others_cores, ".2f"),
)
FIXED_RATE = tuple(figure for figure in FULL_SPEED if figure[0] != "reports stored" and "bytes" not in figure[0])


def show(title: str, runs: Sequence[Run], figures: Sequence[_Figure]) -> str:
    """Return a table of baseline and manager with the median of each figure (minimum-maximum) over the rounds."""
    left = [run for run in runs if run.server == "baseline"]
    right = [run for run in runs if run.server == "manager"]
    head = f"{title:<24}{'baseline':>28}{'manager':>28}{'manager/baseline':>20}"
    return "\n".join([head, *(_row(figure, left, right) for figure in figures)])


def _row(figure: _Figure, left: Sequence[Run], right: Sequence[Run]) -> str:
    name, value, form = figure
    cells = [[value(run) for run in runs] for runs in (left, right)]
    row = f"{name:<24}" + "".join(f"{_cell(values, form):>28}" for values in cells)
    if all(cells) and name not in ("reports stored", "cores busy elsewhere") and statistics.median(cells[0]):
        row += f"{statistics.median(cells[1]) / statistics.median(cells[0]):>20.2f}"
    return row


def _cell(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}-{max(values):{form}})"
