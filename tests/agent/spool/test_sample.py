"""A stored sample becomes the report that it would have become at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kattila_agent.spool.sample import Moment, Sample, Signing, corrected_sampled_at, encode
from kattila_protocol import canonical
from kattila_protocol.errors import Malformed
from protocol.samples import AGENT, BOOT, NONCE, NOW, OTHER_AGENT, REPORT

CLOCK = Moment(NOW, BOOT, 5_000_000)
SAMPLE = Sample(41, NOW - 250, BOOT, 5_000_000 - 250, canonical.encode(REPORT.telemetry))
YEARS = 50 * 365 * 86_400_000


def test_it_is_encoded_like_a_report() -> None:
    assert encode(SAMPLE, Signing(AGENT, 1041, NONCE, CLOCK)) == canonical.encode(REPORT)


def test_it_is_signed_by_the_current_boot() -> None:
    later = Moment(NOW, OTHER_AGENT, 1000)
    members = canonical.parse_object(encode(SAMPLE, Signing(AGENT, 1041, NONCE, later)))
    assert (members["boot_id"], members["sampled_at"]) == (OTHER_AGENT, SAMPLE.sampled_at)


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (CLOCK, SAMPLE.sampled_at),
        (replace(CLOCK, now=NOW + 900), SAMPLE.sampled_at),
        (replace(CLOCK, now=NOW + YEARS), SAMPLE.sampled_at + YEARS),
        (replace(CLOCK, now=NOW - 3600_000), SAMPLE.sampled_at - 3600_000),
        (Moment(NOW + 86_400_000, BOOT, 5_000_000 + 86_400_000), SAMPLE.sampled_at),
        (Moment(NOW + YEARS, OTHER_AGENT, 1), SAMPLE.sampled_at),
        (Moment(0, BOOT, 5_000_000 + 86_400_000), 0),
    ],
    ids=["now", "slewed", "1970 to now", "set back", "a day later", "other boot", "before 1970"],
)
def test_its_time_follows_the_clock_of_its_boot(clock: Moment, expected: int) -> None:
    assert corrected_sampled_at(SAMPLE, clock) == expected


@pytest.mark.parametrize("signing", [Signing("nobody", 1, NONCE, CLOCK), Signing(AGENT, 0, NONCE, CLOCK)])
def test_members_that_the_protocol_forbids_are_not_encoded(signing: Signing) -> None:
    with pytest.raises(Malformed):
        encode(SAMPLE, signing)
