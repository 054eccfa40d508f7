"""A rollout with wrong inputs fails with a clear message before it changes any node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from fleet import naming
from fleet.nodes import NODES, Fleet
from fleet.plan import LAB, addresses, families, underlay
from fleet.system import LabError, run

VICTIM = "south-web"
# Python runs the lines of a .pth file when it starts. These make it pretend to be an older version.
PTH_FILE = "/usr/lib/python3/dist-packages/older.pth"
PRETEND_OLDER_VERSION = (
    "import sys, collections; "
    "named = collections.namedtuple('version_info', 'major minor micro releaselevel serial'); "
    "sys.version_info = named(3, 10, 12, 'final', 0); "
    "sys.version = '3.10.12' + sys.version[sys.version.index(' '):]\n"
)


def refusal(fleet: Fleet, *words: str) -> str:
    """Run a rollout that has to fail and change nothing; return its output as one line."""
    before = {node: fleet.disk(node) for node in NODES}
    ran = fleet.playbook("site.yml", *words)
    assert ran.code != 0, ran.text
    assert {node: fleet.disk(node).items() ^ before[node].items() for node in NODES} == {node: set() for node in NODES}
    return re.sub(r"\s+", " ", ran.text)


@contextmanager
def file_on(fleet: Fleet, node: str, path: str, text: str, mode: str = "644") -> Iterator[None]:
    """Create a file on a node for a while."""
    fleet.on(node, f"cat >{path}; chmod {mode} {path}", text)
    try:
        yield
    finally:
        fleet.on(node, f"rm {path}")


def test_a_missing_record_is_refused(fleet: Fleet) -> None:
    fleet.set_key()
    try:
        output = refusal(fleet)
    finally:
        fleet.set_key(f"kattila={fleet.key()}")
    assert LAB.key_record in output


def test_a_node_that_gets_a_different_key_is_refused(fleet: Fleet) -> None:
    usual = naming.resolver_settings(LAB, families(LAB.machine(VICTIM)))
    other = "".join(f"nameserver {ip}\n" for ip in addresses(LAB, LAB.other_resolver))
    fleet.on(VICTIM, "cat >/etc/resolv.conf", other)
    try:
        output = refusal(fleet)
    finally:
        fleet.on(VICTIM, "cat >/etc/resolv.conf", usual)
    assert VICTIM in output
    assert "fingerprint" in output
    assert not [secret for secret in fleet.secrets() if secret in output]


@contextmanager
def unreachable(fleet: Fleet, node: str) -> Iterator[None]:
    """Remove a node's routes to the manager for a while."""
    namespace = fleet.place.name(node)
    routes = [f"{ip}/{ip.max_prefixlen}" for ip in underlay(LAB, LAB.machine(LAB.manager))]
    for route in routes:
        run(["ip", "-n", namespace, "route", "add", "unreachable", route])
    try:
        yield
    finally:
        for route in routes:
            run(["ip", "-n", namespace, "route", "delete", "unreachable", route])


@contextmanager
def taken(fleet: Fleet, node: str, port: int) -> Iterator[None]:
    """Run another program on a port of a node for a while."""
    fleet.on(node, f"systemd-run --quiet --unit=taker python3 -m http.server --directory /var/empty {port}")
    fleet.on(node, f"until ss -Hltn sport = :{port} | grep -q .; do sleep 0.1; done")
    try:
        yield
    finally:
        with suppress(LabError):
            fleet.on(node, "systemctl stop taker")


@pytest.fixture(scope="module")
def unfit(fleet: Fleet) -> str:
    """Return the output of one refused rollout to three nodes, each with a different problem."""
    old_python = file_on(fleet, "north-db", PTH_FILE, PRETEND_OLDER_VERSION)
    with old_python, unreachable(fleet, "south-web"), taken(fleet, "south-db", 5087):
        return refusal(fleet)


def test_an_old_python_is_refused(unfit: str) -> None:
    assert re.search(r"north-db: \S+ cannot run the agent, which needs Python 3\.11 .{,400}3\.10\.12", unfit)


def test_a_node_that_cannot_reach_the_manager_is_refused(unfit: str) -> None:
    assert re.search(rf"south-web: .{{,40}}{LAB.manager}\.{LAB.zone}", unfit)


def test_a_taken_agent_port_is_refused(unfit: str) -> None:
    assert re.search("south-db: .{,40}5087", unfit)


def test_an_unknown_architecture_is_refused(fleet: Fleet) -> None:
    python = "/usr/local/bin/python3-of-i686"
    with file_on(fleet, VICTIM, python, '#!/bin/sh\nexec setarch i686 /usr/bin/python3 "$@"\n', "755"):
        hosts = fleet.place.state / "i686.yml"
        hosts.write_text(f"all: {{hosts: {{{VICTIM}: {{ansible_python_interpreter: {python}}}}}}}\n")
        output = refusal(fleet, "-i", str(fleet.place.state / "inventory.yml"), "-i", str(hosts))
    assert f"{VICTIM}: the architecture is i686" in output


def test_a_taken_manager_port_is_refused(fleet: Fleet) -> None:
    with taken(fleet, LAB.manager, 5086):
        output = refusal(fleet)
    assert re.search(rf"{LAB.manager}.*port 5086 is taken", output)
