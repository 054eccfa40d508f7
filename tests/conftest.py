"""Settings of all tests: Hypothesis, and the handling of SIGINT."""

from __future__ import annotations

import importlib.util
import signal

import pytest

from support.counts import HEADER, examples

# The environment for the tests of nodes has no Hypothesis.
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    # No deadline: slowness is not a failure.
    slow = [HealthCheck.too_slow]
    settings.register_profile("kattila", max_examples=examples(100), deadline=None, suppress_health_check=slow)
    settings.load_profile("kattila")


def pytest_configure() -> None:
    # Started with nohup or with & in a shell, this process and all its children would ignore SIGINT.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    return HEADER
