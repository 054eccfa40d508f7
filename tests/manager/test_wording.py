"""Parsing times that people write, and formatting values."""

from __future__ import annotations

import pytest

from kattila_manager import wording
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("36h", NOON - 36 * HOUR),
        ("7d", NOON - 7 * DAY),
        (" 90 min ", NOON - 90 * MINUTE),
        ("10m", NOON - 10 * MINUTE),
        ("10 m", NOON - 10 * MINUTE),
        ("90s", NOON - 90 * SECOND),
        ("1h30m", NOON - 90 * MINUTE),
        ("4 min 30 s", NOON - 4 * MINUTE - 30 * SECOND),
        (wording.duration(3 * DAY + 2 * HOUR), NOON - 3 * DAY - 2 * HOUR),
        ("0s", NOON),
        ("999999999d", 0),
        ("2026-01-31", NOON - 12 * HOUR),
        ("2026-01-31 11:59", NOON - MINUTE),
        ("2026-01-31T11:59:59Z", NOON - SECOND),
        ("2026-01-31 13:00+01:00", NOON),
        (wording.moment(NOON), NOON),
        (wording.machine_moment(NOON), NOON),
        ("1815-12-10", 0),
    ],
)
def test_a_time_is_parsed_in_utc_or_as_an_age(text: str, moment: int) -> None:
    assert wording.earlier(text, NOON) == moment


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "36", "h", "-1h", "1.5h", "36H", "2026-13-01", "12:00", "1e3s", "10mi", "1h30", "m", "10M"],
)
def test_an_invalid_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="expected how long ago"):
        wording.earlier(text, NOON)


@pytest.mark.parametrize(
    ("relays", "words"),
    [([], "direct"), (["north"], "via north"), (["north", "south", "west"], "via north, then south, then west")],
)
def test_a_path_names_the_relays_in_order(relays: list[str], words: str) -> None:
    assert wording.path_text(relays) == words
