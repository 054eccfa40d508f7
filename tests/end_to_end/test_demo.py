"""`make demo`, the first thing a newcomer sees, runs completely and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dns.exception
import dns.message
import dns.rcode
import psutil
import pytest
import requests
from txt_responder import respond

from support.waiting import PATIENCE_SECONDS, wait_for

DEMO = Path(__file__).parents[2] / "demo" / "run.py"
LINE = re.compile(r"^\d\d:\d\d:\d\d +\S+ +(\d+) +\d+ s +reporting +direct +[0-9a-f]{8}$", re.MULTILINE)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    output = tmp_path / "output"
    with output.open("wb") as stream:
        # What a shell on a real manager may have; the demo must touch none of it.
        environment = os.environ | {
            "STATE_DIR": str(tmp_path / "state"),
            "MANAGER_DB": str(tmp_path / "real.db"),
            "PAGES_DIR": str(tmp_path / "pages"),
            "READ_TOKEN": "a-token-of-the-real-manager",
            "KATTILA_ENV": str(tmp_path / "real.env"),
            "http_proxy": "http://192.0.2.1:3128",
        }
        process = subprocess.Popen(
            [sys.executable, "-u", str(DEMO)], stdout=stream, stderr=stream, cwd=tmp_path, env=environment
        )
    yield process, output
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()


def wait_for_reports(output: Path, reports: int) -> list[int]:
    def seen() -> list[int]:
        return [int(number) for number in LINE.findall(output.read_text())]

    wait_for(lambda: max(seen(), default=0) >= reports, lambda: f"{reports} reports:\n{output.read_text()}")
    return seen()


def test_reports_keep_arriving_and_ctrl_c_leaves_nothing(
    demo: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    process, output = demo
    seen = wait_for_reports(output, reports=3)
    assert seen == sorted(seen)
    page = re.search(r"^page +(http://\S+)$", output.read_text(), re.MULTILINE)
    assert page and "The only agent reports." in requests.get(page[1], timeout=PATIENCE_SECONDS).text
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 4, "manager with two workers, publisher, agent"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0, output.read_text()
    assert output.read_text().endswith("Stopped; nothing is left behind.\n")
    assert psutil.wait_procs(children, timeout=PATIENCE_SECONDS)[1] == []
    assert list(tmp_path.iterdir()) == [output]


def test_a_program_that_ends_early_is_named_with_its_last_log_lines(demo: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, output = demo
    wait_for_reports(output, reports=1)
    agent = next(child for child in psutil.Process(process.pid).children() if child.cmdline()[-1:] == ["kattila_agent"])
    agent.kill()
    assert process.wait(PATIENCE_SECONDS) == 1
    assert "demo: the agent ended with exit status -9; its last log lines:" in output.read_text()


def test_the_dns_server_answers_only_for_its_own_name() -> None:
    query = dns.message.make_query("kattila.example.com", "TXT")
    answer = dns.message.from_wire(respond(query.to_wire(), "kattila.example.com", "a-value-of-the-demo"))
    assert [record.to_text() for record in answer.answer[0]] == ['"kattila=a-value-of-the-demo"']
    other = dns.message.make_query("other.example.com", "TXT")
    refused = dns.message.from_wire(respond(other.to_wire(), "kattila.example.com", "a-value-of-the-demo"))
    assert refused.rcode() == dns.rcode.NXDOMAIN
    with pytest.raises(dns.exception.DNSException):
        respond(b"no question", "kattila.example.com", "a-value-of-the-demo")
