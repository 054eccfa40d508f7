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


def test_manager_cannot_be_reached_from_one_node(fleet: Fleet) -> None:
    namespace = fleet.place.name(VICTIM)
    ways = [f"{ip}/{ip.max_prefixlen}" for ip in underlay(LAB, LAB.machine(LAB.manager))]
    for way in ways:
        run(["ip", "-n", namespace, "route", "add", "unreachable", way])
    try:
        said = refusal(fleet)
    finally:
        for way in ways:
            run(["ip", "-n", namespace, "route", "delete", "unreachable", way])
    assert re.search(rf"{VICTIM}.*{LAB.manager}\.{LAB.zone}", said)


def test_architecture_is_unknown(fleet: Fleet) -> None:
    python = "/usr/local/bin/python3-of-i686"
    with file_on(fleet, VICTIM, python, '#!/bin/sh\nexec setarch i686 /usr/bin/python3 "$@"\n', "755"):
        hosts = fleet.place.state / "i686.yml"
        hosts.write_text(f"all: {{hosts: {{{VICTIM}: {{ansible_python_interpreter: {python}}}}}}}\n")
        said = refusal(fleet, "-i", str(fleet.place.state / "inventory.yml"), "-i", str(hosts))
    assert "i686" in said
    assert VICTIM in said


def test_python_is_too_old(fleet: Fleet) -> None:
    with file_on(fleet, VICTIM, HOOK, OLDER):
        said = refusal(fleet)
    assert "3.10.12" in said
    assert "3.11" in said


@pytest.mark.parametrize(("node", "port"), [(VICTIM, 5087), (LAB.manager, 5086)])
def test_port_is_taken(fleet: Fleet, node: str, port: int) -> None:
    fleet.on(node, f"systemd-run --quiet --unit=taker python3 -m http.server --directory /var/empty {port}")
    fleet.on(node, f"until ss -Hltn sport = :{port} | grep -q .; do sleep 0.1; done")
    try:
        said = refusal(fleet)
    finally:
        with suppress(LabError):
            fleet.on(node, "systemctl stop taker")
    assert re.search(rf"{node}.*{port}", said)
