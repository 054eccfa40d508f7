"""`kattila-manager serve`: start-up errors and log lines."""

from __future__ import annotations

import socket
from pathlib import Path

from support.commands import failed, with_dns
from support.knot import running_knot
from support.manager import Manager
from support.reports import PSK, RING


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
