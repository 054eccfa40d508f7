"""A loop survives every exception, and logs each failure once, and its end."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

import pytest

from kattila_settings import failures as module
from kattila_settings.failures import Failures, described, keep_running, pause_after

LOG = logging.getLogger("kattila.test")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("first line\nsecond line"),
    UnicodeDecodeError("utf-8", b"\xe4", 0, 1, "invalid"),
    RecursionError(),
    MemoryError(),
    KeyError("name"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_loop_continues_after_every_exception(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    results: Iterator[bool | Exception] = iter([True, error, error, error, True, True, error, False])
    pauses: list[float] = []

    def step() -> bool:
        result = next(results)
        if isinstance(result, bool):
            return result
        raise result

    keep_running(step, "counting sheep", Failures(LOG), pauses.append)
    assert pauses == [1, 2, 4, 1]
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"] * 2
    assert caplog.messages[0].startswith(f"counting sheep failed, and is tried again: {type(error).__name__}")
    assert "test_failures.py line " in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    assert caplog.messages[1] == "counting sheep works again"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_a_request_to_end_the_process_ends_a_loop(error: BaseException) -> None:
    def step() -> bool:
        raise error

    with pytest.raises(type(error)):
        keep_running(step, "counting sheep", Failures(LOG), lambda _: None)


def test_pauses_double_up_to_half_a_minute() -> None:
    assert [pause_after(failures) for failures in (1, 2, 3, 4, 5, 6, 7, 10_000)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_each_different_failure_is_logged_once_until_the_activity_works(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    failures = Failures(LOG)
    for _ in range(3):
        failures.failed("reading", "the disk is full")
        failures.failed("reading", "the disk is read-only", level=logging.WARNING)
        failures.failed("writing", "the disk is full")
    failures.worked("reading")
    failures.worked("reading")
    failures.failed("reading", "the disk is full")
    failures.worked("writing", "everything is written again")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "the disk is full"),
        ("WARNING", "the disk is read-only"),
        ("ERROR", "the disk is full"),
        ("INFO", "reading works again"),
        ("ERROR", "the disk is full"),
        ("INFO", "everything is written again"),
    ]


def test_failures_whose_text_always_varies_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    failures = Failures(LOG)
    for number in range(1000):
        failures.failed("reading", f"block {number} cannot be read")
    assert len(caplog.messages) == module.MAX_LOGGED
    failures.worked("reading")
    assert caplog.messages[module.MAX_LOGGED :] == ["reading works again"]


def test_the_text_of_an_error_can_be_left_out() -> None:
    error = raised(ValueError("the secret is 1234"))
    assert described(error).startswith("ValueError: the secret is 1234 (test_failures.py line ")
    assert described(error, quoted=False).startswith("ValueError (test_failures.py line ")
    assert described(ValueError()) == "ValueError"
