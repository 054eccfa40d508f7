"""The manager's node: backups, pages served by nginx, upgrade and downgrade."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from fleet import releases
from fleet.access import site_name
from fleet.nodes import Fleet, Run
from fleet.plan import LAB
from fleet.system import LabError

PROGRAMS = "/opt/kattila-manager"
BACKUPS = "/var/backups/kattila-manager"
DATABASE = "/var/lib/kattila-manager/kattila_manager.db"
STARTED = "systemctl show --property=InvocationID --value kattila-manager kattila-publish"
SERVICES = "kattila-manager kattila-publish kattila-backup.timer"
NAME = site_name(LAB)
REQUEST = """
import http.client, ssl, sys
method, scheme, name, path, certificate = sys.argv[1:]
if scheme == "https":
    connection = http.client.HTTPSConnection(name, context=ssl.create_default_context(cadata=certificate), timeout=60)
else:
    connection = http.client.HTTPConnection(name, timeout=60)
connection.request(method, path)
answer = connection.getresponse()
print(answer.status, answer.headers.get("Location", answer.read().decode()))
"""

pytestmark = pytest.mark.usefixtures("rolled_out")


def roll_out(fleet: Fleet, **variables: Any) -> Run:
    ran = fleet.playbook("manager.yml", "-e", json.dumps(variables))
    assert ran.code == 0, ran.text[-5000:]
    return ran


def on_manager(fleet: Fleet, command: str) -> str:
    return fleet.on(LAB.manager, command)


def agents(fleet: Fleet) -> set[str]:
    """Return the ids that the manager knows."""
    return {agent["agent_id"] for agent in fleet.manager("agents")["agents"]}


def stored(fleet: Fleet, database: str, query: str) -> set[str]:
    """Return the first column of a query on a database or backup."""
    script = "import sqlite3, sys; print(*(row[0] for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2])))"
    return set(on_manager(fleet, shlex.join(["python3", "-c", script, database, query])).split())


def schema(fleet: Fleet) -> str:
    return stored(fleet, DATABASE, "SELECT version_num FROM alembic_version").pop()


def names(fleet: Fleet, pattern: str) -> list[str]:
    """Return the paths that match a pattern, sorted by name: backups oldest first."""
    return on_manager(fleet, f"ls -d {pattern} 2>/dev/null || true").split()


def current(fleet: Fleet) -> str:
    return on_manager(fleet, f"readlink {PROGRAMS}/current")


def request(fleet: Fleet, node: str, url: str, method: str = "GET", certificate: str = "") -> tuple[int, str]:
    """Send a request from a node; return the status, and the redirect's target or else the body."""
    scheme, _, rest = url.partition("://")
    name, _, path = rest.partition("/")
    words = [method, scheme, name, f"/{path}", certificate]
    status, _, text = fleet.on(node, f"python3 - {shlex.join(words)}", REQUEST).partition(" ")
    return int(status), text


@pytest.fixture(scope="module")
def newer(newer_manager: Future[Path]) -> Path:
    """Return the folder with a newer release than the running one."""
    return newer_manager.result()


def test_changes_of_an_aborted_run_take_effect_in_the_next(fleet: Fleet) -> None:
    before = on_manager(fleet, STARTED).split()
    on_manager(fleet, "touch /etc/kattila/manager.env")
    roll_out(fleet)
    assert not set(on_manager(fleet, STARTED).split()) & set(before)


def test_a_backup_is_made_and_restored_as_the_readme_describes(fleet: Fleet) -> None:
    known = agents(fleet)
    on_manager(fleet, "systemctl start kattila-backup")
    assert names(fleet, f"{BACKUPS}/*.db")
    on_manager(fleet, "systemctl stop kattila-publish kattila-manager")
    output = on_manager(fleet, "kattila-manager restore --latest")
    on_manager(fleet, "systemctl start kattila-manager kattila-publish")
    assert f"kept as {DATABASE}.before-" in output
    assert agents(fleet) >= known


def test_nginx_serves_the_pages_over_tls_and_nothing_else(fleet: Fleet) -> None:
    certificate = (fleet.place.state / "pages.pem").read_text()
    reader, site = LAB.resolver, f"https://{NAME}"
    status, page = request(fleet, reader, f"{site}/", certificate=certificate)
    assert (status, page[:15]) == (200, "<!DOCTYPE html>")
    assert request(fleet, reader, f"http://{NAME}/") == (301, f"{site}/")
    for path in ("status/agents", "status/healthcheck", ".current/index.html", ".versions/"):
        assert request(fleet, reader, f"{site}/{path}", certificate=certificate)[0] == 404
    assert request(fleet, reader, f"{site}/", method="POST", certificate=certificate)[0] == 403
    assert request(fleet, "south-web", f"{site}/", certificate=certificate)[0] == 403


def test_an_upgrade_keeps_database_tokens_and_the_previous_release(fleet: Fleet, newer: Path) -> None:
    known, secrets, before, old = agents(fleet), fleet.secrets(), schema(fleet), current(fleet)
    on_manager(fleet, f"mkdir {PROGRAMS}/0.0.1-00000000")
    roll_out(fleet, kattila_manager_tarballs=str(newer), kattila_manager_nginx=False)
    assert current(fleet).startswith(f"{releases.VERSION}-")
    assert schema(fleet) == releases.REVISION
    assert agents(fleet) >= known
    assert fleet.secrets() == secrets
    assert names(fleet, f"{BACKUPS}/*-schema-{before}.db")
    assert on_manager(fleet, f"readlink {PROGRAMS}/previous") == old
    assert {Path(path).name for path in names(fleet, f"{PROGRAMS}/*-*")} == {old, current(fleet)}


def test_a_disabled_site_is_removed(fleet: Fleet, newer: Path) -> None:
    assert names(fleet, "/etc/nginx/conf.d/*") == []
    with pytest.raises(LabError, match="refused"):
        request(fleet, LAB.resolver, f"https://{NAME}/")


def test_a_downgrade_without_a_backup_leaves_the_newer_release_running(fleet: Fleet, newer: Path) -> None:
    on_manager(fleet, f"mkdir {BACKUPS}.moved; mv {BACKUPS}/* {BACKUPS}.moved/")
    ran = fleet.playbook("manager.yml")
    on_manager(fleet, f"mv {BACKUPS}.moved/* {BACKUPS}/; rmdir {BACKUPS}.moved")
    assert ran.code != 0
    assert "has no backup with schema" in ran.text
    assert current(fleet).startswith(f"{releases.VERSION}-")
    assert on_manager(fleet, f"systemctl is-active {SERVICES}").split() == ["active"] * 3


def test_a_downgrade_restores_the_backup_and_keeps_the_newer_database(fleet: Fleet, newer: Path) -> None:
    known = stored(fleet, names(fleet, f"{BACKUPS}/*")[-1], "SELECT agent_id FROM agents")
    before = set(names(fleet, f"{DATABASE}.before-*"))
    ran = roll_out(fleet)
    (kept,) = set(names(fleet, f"{DATABASE}.before-*")) - before
    assert kept in ran.text
    assert schema(fleet) < releases.REVISION
    assert agents(fleet) >= known
    assert on_manager(fleet, f"systemctl is-active {SERVICES}").split() == ["active"] * 3
