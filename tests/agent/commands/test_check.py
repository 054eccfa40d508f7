"""-check against a real DNS server, a real manager and real ports."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kattila_agent import __version__
from support.agent_folder import PSK, keep_ring, ring_of, settings
from support.agent_process import run_agent, running_daemon
from support.knot import Knot, free_port
from support.manager import Manager, running_manager

FINGERPRINT = ring_of(PSK).current.fingerprint


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with running_manager(tmp_path_factory.mktemp("manager")) as running:
        yield running


@pytest.fixture
def good(knot: Knot, manager: Manager) -> dict[str, str]:
    """Settings that pass every check."""
    return settings(knot, f"http://127.0.0.1:{manager.port}", PSK) | {"AGENT_LISTEN": f"127.0.0.1:{free_port()}"}


def found(folder: Path, chosen: dict[str, str]) -> tuple[int, Any]:
    """Return the exit code and the JSON."""
    done = run_agent(folder, "-check", "-json", **chosen)
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


def test_a_healthy_node_passes_and_nothing_changes(good: dict[str, str], tmp_path: Path) -> None:
    exit_code, shown = found(tmp_path, good)
    assert exit_code == 0
    assert shown == {
        "version": __version__,
        "python": shown["python"],
        "settings": {"ok": True, "problem": None},
        "key": {"ok": True, "fingerprint": FINGERPRINT, "problem": None},
        "manager": {"ok": True, "url": good["MANAGER_URL"], "absent": False, "problem": None},
        "listen": {"ok": True, "running": False, "problem": None},
    }
    assert shown["python"].startswith("3.")
    assert list(tmp_path.iterdir()) == []


def test_a_table_for_people(good: dict[str, str], tmp_path: Path) -> None:
    done = run_agent(tmp_path, "--check", **(good | {"MANAGER_URL": "http://127.0.0.1:9"}))
    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.decode().splitlines()[1:]] == [
        ["settings", "ok"],
        ["key", "ok"],
        ["manager", "WRONG"],
        ["listen", "ok"],
    ]
    assert b"http://127.0.0.1:9 does not answer: connection refused" in done.stdout


def test_the_psk_is_never_shown(good: dict[str, str], tmp_path: Path) -> None:
    done = run_agent(tmp_path, "-check", "-debug", **good)
    assert FINGERPRINT.encode() in done.stdout
    told = done.stdout + done.stderr
    assert PSK not in told
    assert PSK.hex().encode() not in told


def test_the_dns_record_is_queried_even_with_a_cached_key(good: dict[str, str], knot: Knot, tmp_path: Path) -> None:
    keep_ring(tmp_path, PSK)
    before = (tmp_path / "ring.json").read_bytes()
    exit_code, shown = found(tmp_path, good | settings(knot, good["MANAGER_URL"]))
    assert exit_code == 1
    assert (shown["key"]["ok"], shown["key"]["fingerprint"]) == (False, None)
    assert "does not exist" in shown["key"]["problem"]
    assert (tmp_path / "ring.json").read_bytes() == before


def test_records_without_a_usable_key(good: dict[str, str], knot: Knot, tmp_path: Path) -> None:
    exit_code, shown = found(tmp_path, good | settings(knot, good["MANAGER_URL"], b"too short"))
    assert (exit_code, shown["key"]["ok"]) == (1, False)
    assert "too short" not in shown["key"]["problem"]


def test_another_server_at_the_managers_url(good: dict[str, str], tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        exit_code, shown = found(tmp_path, good | {"MANAGER_URL": f"http://127.0.0.1:{other.server_port}"})
        other.shutdown()
    assert (exit_code, shown["manager"]["ok"]) == (1, False)
    assert "answers, but not like a manager (HTTP 501" in shown["manager"]["problem"]


def test_an_agent_at_the_managers_url(good: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running_daemon(tmp_path / "other", **(good | {"AGENT_LISTEN": "127.0.0.1:0"})) as other:
        exit_code, shown = found(tmp_path, good | {"MANAGER_URL": f"http://{other.address()}"})
    assert (exit_code, shown["manager"]["ok"]) == (1, False)
    assert "is an agent" in shown["manager"]["problem"]


# The loopback interface leads to no link-local address.
@pytest.mark.parametrize(("host", "absent"), [("127.0.0.1", True), ("[fe80::1%25lo]", False)])
def test_a_machine_without_a_manager_differs_from_an_unreachable_one(
    good: dict[str, str], tmp_path: Path, host: str, absent: bool
) -> None:
    exit_code, shown = found(tmp_path, good | {"MANAGER_URL": f"http://{host}:{free_port()}"})
    assert (exit_code, shown["manager"]["ok"], shown["manager"]["absent"]) == (1, False, absent)


def test_a_port_that_is_taken(good: dict[str, str], manager: Manager, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        for port in (other.getsockname()[1], manager.port):
            exit_code, shown = found(tmp_path, good | {"AGENT_LISTEN": f"127.0.0.1:{port}"})
            assert (exit_code, shown["listen"]["ok"]) == (1, False)
            assert f"cannot listen on 127.0.0.1 port {port} (Address already in use)" in shown["listen"]["problem"]


def test_a_port_used_by_the_running_agent_is_fine(good: dict[str, str], tmp_path: Path) -> None:
    keep_ring(tmp_path, PSK)
    with running_daemon(tmp_path, **good) as daemon:
        daemon.address()
        exit_code, shown = found(tmp_path, good)
    assert (exit_code, shown["listen"]) == (0, {"ok": True, "running": True, "problem": None})


@pytest.mark.parametrize("wrong", [{"DNS": ""}, {"MANAGER_URL": ""}, {"MANAGER_URL": "192.0.2.1"}, {"INTERVAL": "x"}])
def test_wrong_settings_end_with_2(good: dict[str, str], tmp_path: Path, wrong: dict[str, str]) -> None:
    exit_code, shown = found(tmp_path, good | wrong)
    assert (exit_code, shown["settings"]["ok"]) == (2, False)
    assert next(iter(wrong)) in shown["settings"]["problem"]
    assert {shown[name]["problem"] for name in ("key", "manager", "listen")} == {
        "not checked, because the settings are wrong"
    }


def test_json_is_for_check_alone(tmp_path: Path) -> None:
    done: subprocess.CompletedProcess[bytes] = run_agent(tmp_path, "-json", "-version")
    assert done.returncode == 0  # -version exits before any other check
    done = run_agent(tmp_path, "-json")
    assert (done.returncode, b"-json goes with -check" in done.stderr) == (2, True)
