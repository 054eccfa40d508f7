"""AGENT_LISTEN on an address that this machine does not have yet, such as that of a tunnel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import without_ipv6
from support.agent_folder import PSK, keep_id, keep_ring
from support.agent_process import AGENT, Daemon, environment, run_agent, running_daemon
from support.netns import Namespace, new_namespace
from support.waiting import PATIENCE_SECONDS, wait_for

NO_IPV6 = [sys.executable, without_ipv6.__file__]
SETTINGS = {"DNS": "kattila.example.org", "DNS_SERVER": "127.0.0.1:9", "MANAGER_URL": "http://127.0.0.1:9"}
NOT_YET = "the agent listens once this machine has the address"


@pytest.fixture
def node() -> Iterator[Namespace]:
    with new_namespace() as namespace:
        namespace.ip("link", "set", "lo", "up")
        yield namespace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keep_id(tmp_path)
    keep_ring(tmp_path, PSK)
    return tmp_path


def is_answered(node: Namespace, address: str) -> bool:
    words = ("curl", "-sf", "--max-time", "2", f"http://{address}/status/healthcheck")
    return subprocess.run(node.command(*words), check=False, capture_output=True).returncode == 0


def logged(daemon: Daemon, text: str) -> int:
    return daemon.log.count(text)


@pytest.mark.parametrize(
    ("address", "shown", "others"),
    [
        ("192.0.2.1", "192.0.2.1", ""),
        ("2001:db8::1", "[2001:db8::1]", ""),
        ("192.0.2.1", "192.0.2.1", "127.0.0.1:5087,"),
    ],
)
def test_the_agent_reports_and_listens_when_the_address_comes(
    node: Namespace, folder: Path, address: str, shown: str, others: str
) -> None:
    listen = f"{others}{shown}:5087"
    with running_daemon(folder, program=node.command(*AGENT), **SETTINGS, AGENT_LISTEN=listen, INTERVAL="1") as daemon:
        daemon.wait_for_log(f"cannot listen on {address} port 5087 (Cannot assign requested address): {NOT_YET}")
        daemon.wait_for_log("the manager cannot be reached")
        if others:
            wait_for(lambda: is_answered(node, "127.0.0.1:5087"), "an answer on the other address")
        # Several attempts pass, and add nothing to the log.
        wait_for(lambda: len(list((folder / "spool").iterdir())) > 8, "eight reports on disk")
        assert logged(daemon, "cannot listen") == 1
        node.ip("address", "add", address, "dev", "lo", *(("nodad",) if ":" in address else ()))
        daemon.wait_for_log(f"this machine has the address: the agent answers on {shown}:5087\n")
        assert is_answered(node, f"{shown}:5087")
        assert logged(daemon, "cannot listen") == 1
        # A tunnel that goes and comes back needs nothing.
        node.ip("address", "del", address, "dev", "lo")
        node.ip("address", "add", address, "dev", "lo", *(("nodad",) if ":" in address else ()))
        assert is_answered(node, f"{shown}:5087")
        assert daemon.stop() == 0


def test_a_port_that_another_program_took_meanwhile(node: Namespace, folder: Path) -> None:
    with running_daemon(folder, program=node.command(*AGENT), **SETTINGS, AGENT_LISTEN="192.0.2.1:5087") as daemon:
        daemon.wait_for_log(NOT_YET)
        script = "import socket, time; s = socket.create_server(('', 5087)); print(flush=True); time.sleep(600)"
        with subprocess.Popen(node.command(sys.executable, "-c", script), stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            node.ip("address", "add", "192.0.2.1", "dev", "lo")
            daemon.wait_for_log("cannot listen on 192.0.2.1 port 5087 (Address already in use)")
            other.kill()
        daemon.wait_for_log("this machine has the address: the agent answers on 192.0.2.1:5087\n")


def test_the_check_reports_the_missing_address(node: Namespace, folder: Path) -> None:
    given = environment(**SETTINGS, AGENT_LISTEN="*:5087,192.0.2.1:5087")
    words = node.command(*AGENT, "-check", "-json")
    ran = subprocess.run(words, check=False, cwd=folder, env=given, capture_output=True, timeout=PATIENCE_SECONDS)
    found = json.loads(ran.stdout)["listen"]
    assert (ran.returncode, found["ok"], found["running"]) == (1, False, False)
    assert found["problem"].startswith("cannot listen on 192.0.2.1 port 5087 (Cannot assign requested address): ")
    assert "correct AGENT_LISTEN if it never will" in found["problem"]


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ("[2001:db8::1]:5087", "cannot listen on 2001:db8::1 port 5087 (Address family not supported by protocol)"),
        ("127.0.0.1:0,[::1]:5087", "cannot listen on ::1 port 5087 (Address family not supported by protocol)"),
        ("[::]:5087", "the kernel has no IPv6; set an IPv4 address in AGENT_LISTEN"),
    ],
)
def test_an_ipv6_address_on_a_kernel_without_ipv6(folder: Path, listen: str, problem: str) -> None:
    with running_daemon(folder, program=[*NO_IPV6, *AGENT], **SETTINGS, AGENT_LISTEN=listen) as daemon:
        assert daemon.process.wait(PATIENCE_SECONDS) == 1
    assert problem in daemon.log
    assert "AGENT_LISTEN" in daemon.log


def test_all_addresses_on_a_kernel_without_ipv6(folder: Path) -> None:
    with running_daemon(folder, program=[*NO_IPV6, *AGENT], **SETTINGS, AGENT_LISTEN="*:0") as daemon:
        assert daemon.address().startswith("0.0.0.0:")


def test_an_address_that_cannot_be_bound_names_the_setting(folder: Path) -> None:
    """Waiting would not help: a link-local address needs an interface, which AGENT_LISTEN cannot name."""
    found = run_agent(folder, **SETTINGS, AGENT_LISTEN="192.0.2.1:5087,[fe80::1]:5087")
    assert found.returncode == 1
    assert b"cannot listen on fe80::1 port 5087 (Invalid argument): correct AGENT_LISTEN\n" in found.stderr
