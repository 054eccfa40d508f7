"""How old a sample is, by which clock, and when it is too old."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kattila_agent.spool import Spool
from kattila_agent.spool.dropping import FIRST_DATE
from kattila_agent.spool.sample import Moment, Sample
from support.spool_samples import BOOT, CLOCK, DAY_SECONDS, NOW, OTHER_BOOT, filled, later, opened, reopened, sample

DAY = 1000 * DAY_SECONDS
# A clock that was never set, ten seconds after boot.
IN_1970 = Moment(10_000, BOOT, 10_000)
REBOOTED = Moment(NOW + 60_000, OTHER_BOOT, 30_000)


def expired(spool: Spool, moment: Moment) -> int:
    """Expire samples and return how many were dropped."""
    before = spool.waiting().dropped
    return spool.expire(moment).dropped - before


def waiting_since(folder: Path, *clocks: Moment) -> Spool:
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
    assert expired(spool, later(seconds)) == dropped
    assert (len(spool.numbers()), spool.waiting().dropped) == (1 - dropped, dropped)


@pytest.mark.parametrize("now", [0, FIRST_DATE - 1, NOW - 100 * DAY, NOW + 100 * DAY])
def test_within_a_boot_no_step_of_the_clock_makes_a_sample_older_or_younger(tmp_path: Path, now: int) -> None:
    spool = waiting_since(tmp_path / "spool", CLOCK)
    assert expired(spool, replace(later(DAY_SECONDS), now=now)) == 0
    assert expired(spool, replace(later(DAY_SECONDS + 1), now=now)) == 1


def test_a_node_that_starts_in_1970_and_gets_the_time_later_loses_nothing(tmp_path: Path) -> None:
    spool = waiting_since(tmp_path / "spool", IN_1970, later(30, IN_1970))
    ntp = replace(later(60, IN_1970), now=NOW)
    spool.put(sample(3, ntp), ntp)
    assert spool.numbers() == (1, 2, 3)
    assert expired(spool, later(DAY_SECONDS, IN_1970)) == 0


@pytest.mark.parametrize(
    ("now", "dropped"), [(NOW + DAY, 0), (NOW + DAY + 1, 1), (NOW - 100 * DAY, 0), (FIRST_DATE - 1, 0), (0, 0)]
)
def test_for_an_earlier_boot_dates_decide_and_a_clock_that_went_back_drops_nothing(
    tmp_path: Path, now: int, dropped: int
) -> None:
    spool = waiting_since(tmp_path / "spool", CLOCK)
    assert expired(spool, replace(REBOOTED, now=now)) == dropped


@pytest.mark.parametrize(("sampled_at", "dropped"), [(0, 0), (FIRST_DATE - 1, 0), (FIRST_DATE, 1)])
def test_a_sample_of_an_earlier_boot_without_a_date_has_no_age(tmp_path: Path, sampled_at: int, dropped: int) -> None:
    spool = waiting_since(tmp_path / "spool", replace(CLOCK, now=sampled_at))
    assert expired(spool, REBOOTED) == dropped


def test_samples_without_a_date_are_dropped_by_size(tmp_path: Path) -> None:
    spool = reopened(waiting_since(tmp_path / "spool", IN_1970), tmp_path / "spool", blocks=1)
    spool.put(sample(2, REBOOTED), REBOOTED)
    assert (spool.numbers(), spool.waiting().dropped) == ((2,), 1)


def test_putting_drops_samples_that_are_too_old(tmp_path: Path) -> None:
    spool = waiting_since(tmp_path / "spool", CLOCK, later(60))
    now = later(DAY_SECONDS + 30)
    spool.put(sample(3, now), now)
    assert (spool.numbers(), spool.waiting().dropped) == ((2, 3), 1)
    assert reopened(spool, tmp_path / "spool").waiting().dropped == 1


def test_only_samples_that_are_too_old_are_dropped_whatever_their_number(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 7, 9)
    spool.put(Sample(8, NOW - DAY - 1, OTHER_BOOT, 5, b"{}"), CLOCK)
    assert expired(spool, CLOCK) == 1
    assert spool.numbers() == (7, 9)


def test_time_that_passes_while_the_node_sleeps_or_the_agent_is_stopped_counts(tmp_path: Path) -> None:
    spool = reopened(waiting_since(tmp_path / "spool", CLOCK), tmp_path / "spool")
    assert expired(spool, replace(CLOCK, since_boot_ms=CLOCK.since_boot_ms + DAY + 1)) == 1
