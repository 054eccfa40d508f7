"""How old a sample is, by which clock, and when that is too old."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kattila_agent.spool import Spool
from kattila_agent.spool.bounds import FIRST_DATE
from kattila_agent.spool.sample import Clock, Sample
from support.spool_samples import BOOT, CLOCK, DAY_SECONDS, NOW, OTHER_BOOT, filled, later, opened, reopened, sample

DAY = 1000 * DAY_SECONDS
# A clock that nobody has set yet, ten seconds after the start.
IN_1970 = Clock(10_000, BOOT, 10_000)
REBOOTED = Clock(NOW + 60_000, OTHER_BOOT, 30_000)


def waiting_since(folder: Path, *clocks: Clock) -> Spool:
    """Return a spool with a sample of each moment, numbered from 1; each was put at its own moment."""
    spool = opened(folder)
    for number, clock in enumerate(clocks, 1):
        spool.put(sample(number, clock), clock)
    return spool


@pytest.mark.parametrize(
    ("seconds", "dropped"), [(DAY_SECONDS, 0), (DAY_SECONDS + 0.001, 1), (10 * DAY_SECONDS, 1), (-60, 0)]
)
def test_within_a_boot(tmp_path: Path, seconds: float, dropped: int) -> None:
    spool = waiting_since(tmp_path / "spool", CLOCK)
    assert spool.expire(later(seconds)) == dropped
    assert (len(spool.numbers()), spool.waiting().dropped) == (1 - dropped, dropped)


@pytest.mark.parametrize("now", [0, FIRST_DATE - 1, NOW - 100 * DAY, NOW + 100 * DAY])
def test_within_a_boot_no_step_of_the_clock_makes_a_sample_older_or_younger(tmp_path: Path, now: int) -> None:
    spool = waiting_since(tmp_path / "spool", CLOCK)
    assert spool.expire(replace(later(DAY_SECONDS), now=now)) == 0
    assert spool.expire(replace(later(DAY_SECONDS + 1), now=now)) == 1


def test_a_node_that_starts_in_1970_and_gets_the_time_later_loses_nothing(tmp_path: Path) -> None:
    spool = waiting_since(tmp_path / "spool", IN_1970, later(30, IN_1970))
    ntp = replace(later(60, IN_1970), now=NOW)
    spool.put(sample(3, ntp), ntp)
    assert spool.numbers() == (1, 2, 3)
    assert spool.expire(later(DAY_SECONDS, IN_1970)) == 0


@pytest.mark.parametrize(
    ("now", "dropped"), [(NOW + DAY, 0), (NOW + DAY + 1, 1), (NOW - 100 * DAY, 0), (FIRST_DATE - 1, 0), (0, 0)]
)
def test_of_an_earlier_boot_dates_tell_and_a_clock_that_went_back_drops_nothing(
    tmp_path: Path, now: int, dropped: int
) -> None:
    spool = waiting_since(tmp_path / "spool", CLOCK)
    assert spool.expire(replace(REBOOTED, now=now)) == dropped


@pytest.mark.parametrize(("sampled_at", "dropped"), [(0, 0), (FIRST_DATE - 1, 0), (FIRST_DATE, 1)])
def test_of_an_earlier_boot_what_has_no_date_has_no_age(tmp_path: Path, sampled_at: int, dropped: int) -> None:
    spool = waiting_since(tmp_path / "spool", replace(CLOCK, now=sampled_at))
    assert spool.expire(REBOOTED) == dropped


def test_what_has_no_date_is_dropped_by_size(tmp_path: Path) -> None:
    spool = reopened(waiting_since(tmp_path / "spool", IN_1970), tmp_path / "spool", blocks=1)
    spool.put(sample(2, REBOOTED), REBOOTED)
    assert (spool.numbers(), spool.waiting().dropped) == ((2,), 1)


def test_putting_drops_what_is_too_old_by_then(tmp_path: Path) -> None:
    spool = waiting_since(tmp_path / "spool", CLOCK, later(60))
    now = later(DAY_SECONDS + 30)
    spool.put(sample(3, now), now)
    assert (spool.numbers(), spool.waiting().dropped) == ((2, 3), 1)
    assert reopened(spool, tmp_path / "spool").waiting().dropped == 1


def test_only_what_is_too_old_goes_whatever_its_number(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 7, 9)
    spool.put(Sample(8, NOW - DAY - 1, OTHER_BOOT, 5, b"{}"), CLOCK)
    assert spool.expire(CLOCK) == 1
    assert spool.numbers() == (7, 9)


def test_time_that_passes_while_the_node_sleeps_or_the_agent_is_stopped_counts(tmp_path: Path) -> None:
    spool = reopened(waiting_since(tmp_path / "spool", CLOCK), tmp_path / "spool")
    assert spool.expire(replace(CLOCK, since_boot_ms=CLOCK.since_boot_ms + DAY + 1)) == 1
