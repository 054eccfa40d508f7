"""`kattila-manager serve`: start-up errors and log lines."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support import without_ipv6
from support.commands import failed, with_dns
from support.knot import running_knot
from support.manager import MANAGER, Manager
from support.netns import new_namespace
from support.reports import PSK, RING
from support.waiting import PATIENCE_SECONDS

NO_IPV6 = [sys.executable, without_ipv6.__file__]


def test_serve_reports_a_port_in_use(manager: Manager) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", manager.port))
        taken.listen()
        message = failed(manager, "serve")
    assert f"cannot listen on 127.0.0.1:{manager.port}: the port is in use" in message
    assert "MANAGER_LISTEN" in message


def test_serve_reports_an_address_of_another_machine(tmp_path: Path) -> None:
    manager = Manager(tmp_path, MANAGER_LISTEN="192.0.2.1:5086")
    assert "cannot listen on 192.0.2.1:5086: this machine does not have that address" in failed(manager, "serve")


def test_all_addresses_are_those_of_ipv4_on_a_kernel_without_ipv6(tmp_path: Path) -> None:
    manager = Manager(tmp_path, listen="*", program=[*NO_IPV6, *MANAGER])
    manager.start()
    assert manager.stop() == 0
    assert f"listening on *:{manager.port}" in manager.log


@pytest.mark.parametrize(("disable_ipv6", "hosts"), [("0", ("127.0.0.1", "::1")), ("1", ("127.0.0.1",))])
def test_all_addresses_are_those_of_the_families_in_use(
    tmp_path: Path, disable_ipv6: str, hosts: tuple[str, ...]
) -> None:
    with new_namespace() as namespace, namespace.entered():
        namespace.ip("link", "set", "lo", "up")
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text(disable_ipv6)
        manager = Manager(tmp_path, listen="*")
        manager.start()
        for host in hosts:
            socket.create_connection((host, manager.port), PATIENCE_SECONDS).close()
        assert manager.stop() == 0


@pytest.mark.parametrize("host", ["::1", "::"])
def test_serve_reports_an_ipv6_address_on_a_kernel_without_ipv6(tmp_path: Path, host: str) -> None:
    manager = Manager(tmp_path, MANAGER_LISTEN=f"[{host}]:5086")
    command = [*NO_IPV6, *MANAGER, "serve"]
    ran = subprocess.run(command, check=False, cwd=tmp_path, env=manager.environment, capture_output=True, text=True)
    assert ran.returncode == 1
    said = "the kernel has no IPv6; set an IPv4 address in MANAGER_LISTEN"
    assert ran.stderr == f"kattila-manager: cannot listen on [{host}]:5086: {said}\n"


def test_serve_without_dns_is_a_configuration_error(tmp_path: Path) -> None:
    manager = Manager(tmp_path, DNS="")
    assert "DNS is not set" in failed(manager, "serve", code=2)
    assert not manager.database.exists()


def test_serve_logs_its_address_and_little_else(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot:
        manager = with_dns(tmp_path, knot, "kattila", ring=RING)
        manager.start()
        assert manager.stop() == 0
    lines = manager.log.splitlines()
    assert f"INFO kattila.manager: listening on 127.0.0.1:{manager.port}, database {manager.database}" in lines
    assert len([line for line in lines if line.startswith("INFO kattila.manager: ")]) == 3
    assert not [line for line in lines if "granian" in line.lower()]
