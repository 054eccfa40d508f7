"""Wrong inputs end a roll-out with a clear failure, before anything is changed on any node."""

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
# Where Python looks for lines to run at its start: so every program that asks this Python is told an older version.
HOOK = "/usr/lib/python3/dist-packages/older.pth"
OLDER = (
    "import sys, collections; "
    "named = collections.namedtuple('version_info', 'major minor micro releaselevel serial'); "
    "sys.version_info = named(3, 10, 12, 'final', 0); "
    "sys.version = '3.10.12' + sys.version[sys.version.index(' '):]\n"
)


def refusal(fleet: Fleet, *words: str) -> str:
    """Roll out, which has to fail and change nothing; return what it said, in one line."""
    before = {node: fleet.disk(node) for node in NODES}
    ran = fleet.playbook("site.yml", *words)
    assert ran.code != 0, ran.text
    assert {node: fleet.disk(node).items() ^ before[node].items() for node in NODES} == {node: set() for node in NODES}
    return re.sub(r"\s+", " ", ran.text)


@contextmanager
def file_on(fleet: Fleet, node: str, path: str, text: str, mode: str = "644") -> Iterator[None]:
    """A file that was not there, for as long as it takes."""
    fleet.on(node, f"cat >{path}; chmod {mode} {path}", text)
    try:
        yield
    finally:
        fleet.on(node, f"rm {path}")


def test_record_is_missing(fleet: Fleet) -> None:
    fleet.set_key()
    try:
        said = refusal(fleet)
    finally:
        fleet.set_key(f"kattila={fleet.key()}")
    assert LAB.key_record in said


def test_one_node_sees_another_record(fleet: Fleet) -> None:
    usual = naming.resolver_settings(LAB, families(LAB.machine(VICTIM)))
    other = "".join(f"nameserver {ip}\n" for ip in addresses(LAB, LAB.other_resolver))
    fleet.on(VICTIM, "cat >/etc/resolv.conf", other)
    try:
        said = refusal(fleet)
    finally:
        fleet.on(VICTIM, "cat >/etc/resolv.conf", usual)
    assert VICTIM in said
    assert "fingerprint" in said
    assert not [secret for secret in fleet.secrets() if secret in said]


@contextmanager
def unreachable(fleet: Fleet, node: str) -> Iterator[None]:
    """A node has no way to the manager."""
    namespace = fleet.place.name(node)
    ways = [f"{ip}/{ip.max_prefixlen}" for ip in underlay(LAB, LAB.machine(LAB.manager))]
    for way in ways:
        run(["ip", "-n", namespace, "route", "add", "unreachable", way])
    try:
        yield
    finally:
        for way in ways:
            run(["ip", "-n", namespace, "route", "delete", "unreachable", way])


@contextmanager
def taken(fleet: Fleet, node: str, port: int) -> Iterator[None]:
    """A port of a node is taken by another program."""
    fleet.on(node, f"systemd-run --quiet --unit=taker python3 -m http.server --directory /var/empty {port}")
    fleet.on(node, f"until ss -Hltn sport = :{port} | grep -q .; do sleep 0.1; done")
    try:
        yield
    finally:
        with suppress(LabError):
            fleet.on(node, "systemctl stop taker")


@pytest.fixture(scope="module")
def unfit(fleet: Fleet) -> str:
    """What is said of three nodes, each of which is unfit in its own way."""
    with file_on(fleet, "north-db", HOOK, OLDER), unreachable(fleet, "south-web"), taken(fleet, "south-db", 5087):
        return refusal(fleet)


def test_python_is_too_old(unfit: str) -> None:
    assert re.search(r"north-db: \S+ cannot run the agent, which needs Python 3\.11 .{,400}3\.10\.12", unfit)


def test_manager_cannot_be_reached_from_one_node(unfit: str) -> None:
    assert re.search(rf"south-web: .{{,40}}{LAB.manager}\.{LAB.zone}", unfit)


def test_port_of_an_agent_is_taken(unfit: str) -> None:
    assert re.search("south-db: .{,40}5087", unfit)


def test_architecture_is_unknown(fleet: Fleet) -> None:
    python = "/usr/local/bin/python3-of-i686"
    with file_on(fleet, VICTIM, python, '#!/bin/sh\nexec setarch i686 /usr/bin/python3 "$@"\n', "755"):
        hosts = fleet.place.state / "i686.yml"
        hosts.write_text(f"all: {{hosts: {{{VICTIM}: {{ansible_python_interpreter: {python}}}}}}}\n")
        said = refusal(fleet, "-i", str(fleet.place.state / "inventory.yml"), "-i", str(hosts))
    assert f"{VICTIM}: the architecture is i686" in said


def test_port_of_the_manager_is_taken(fleet: Fleet) -> None:
    with taken(fleet, LAB.manager, 5086):
        said = refusal(fleet)
    assert re.search(rf"{LAB.manager}.*port 5086 is taken", said)
