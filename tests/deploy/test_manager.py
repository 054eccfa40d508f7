"""Checks on the manager's node."""

from __future__ import annotations

import re

import pytest
from testinfra.host import Host

from deploy.queries import (
    MANAGER_ENV,
    PAGES,
    RESTORE,
    SECRETS_IN_JOURNAL,
    exposure,
    journal,
    listen_addresses,
    manager_json,
    normalised,
    ownership,
    process_status,
    setting,
)

testinfra_hosts = ["ansible://kattila_managers"]

SERVE, PUBLISH, TIMER = "kattila-manager.service", "kattila-publish.service", "kattila-backup.timer"
BACKUP = "kattila-backup.service"
OWN = "kattila-manager kattila-manager"
FILES = {
    MANAGER_ENV: "root kattila-manager 640",
    "/etc/systemd/system/kattila-manager.service": "root root 644",
    "/etc/systemd/system/kattila-publish.service": "root root 644",
    "/opt/kattila-manager": "root root 755",
    "/var/lib/kattila-manager": f"{OWN} 700",
    "/var/lib/kattila-manager/kattila_manager.db": f"{OWN} 640",
    "/var/lib/kattila-manager/kattila_ring.json": f"{OWN} 600",
    "/var/backups/kattila-manager": f"{OWN} 700",
}


@pytest.mark.parametrize("unit", [SERVE, PUBLISH, TIMER])
def test_the_unit_runs(node: Host, unit: str) -> None:
    assert node.service(unit).is_running, journal(node, unit)


@pytest.mark.parametrize("unit", [SERVE, PUBLISH, TIMER])
def test_the_unit_starts_at_boot(node: Host, unit: str) -> None:
    assert node.service(unit).is_enabled


def test_the_manager_listens_only_on_the_configured_address(node: Host) -> None:
    configured = setting(node, MANAGER_ENV, "MANAGER_LISTEN", "*:5086")
    assert listen_addresses(node, "kattila-manager") == normalised([configured]), journal(node, SERVE)


def test_the_managers_user_cannot_log_in(node: Host) -> None:
    user = node.user("kattila-manager")
    assert user.shell.endswith("/nologin")
    assert user.password[:1] in ("!", "*")


@pytest.mark.parametrize("path", FILES)
def test_the_file_has_its_owner_and_mode(node: Host, path: str) -> None:
    assert ownership(node, path) == FILES[path]


@pytest.mark.parametrize("unit", [SERVE, PUBLISH])
def test_the_process_has_no_privileges_and_cannot_gain_any(node: Host, unit: str) -> None:
    status = process_status(node, unit)
    assert {int(status[name], 16) for name in status if name.startswith("Cap")} == {0}
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("unit", [SERVE, PUBLISH, BACKUP])
def test_the_units_exposure_level_is_low(node: Host, unit: str) -> None:
    assert exposure(node, unit) <= 1.5


@pytest.mark.parametrize("name", ["READ_TOKEN", "ADMIN_TOKEN"])
def test_a_token_was_generated(node: Host, name: str) -> None:
    assert len(setting(node, MANAGER_ENV, name, "")) >= 32


def test_the_journal_contains_no_secret(node: Host) -> None:
    assert node.check_output("python3 -c %s", SECRETS_IN_JOURNAL) == "0"


def test_the_manager_has_a_current_key(node: Host) -> None:
    assert re.fullmatch("[0-9a-f]{8}", manager_json(node, "keys", "--json")["current"])


def test_the_pages_are_recent(node: Host) -> None:
    every = float(re.findall(r"--every (\S+)", node.file(f"/etc/systemd/system/{PUBLISH}").content_string)[0])
    recent = node.check_output("find -L %s/index.html -newermt %s", PAGES, f"-{60 + every} seconds")
    assert recent != "", journal(node, PUBLISH)


def test_nginx_serves_the_pages_and_proxies_nothing(node: Host) -> None:
    site = node.file("/etc/nginx/conf.d/kattila.conf")
    if not site.exists:
        pytest.skip("kattila_manager_nginx is not set for this host")
    assert re.findall(r"^ *root (.*);", site.content_string, re.MULTILINE) == [PAGES]
    assert "_pass" not in site.content_string


def test_nginx_can_read_the_pages_and_not_the_database(node: Host) -> None:
    if not node.file("/etc/nginx/conf.d/kattila.conf").exists:
        pytest.skip("kattila_manager_nginx is not set for this host")
    account = node.check_output("ps -C nginx -o user= | grep -v root | sort -u")
    assert node.run("runuser --user=%s -- test -r %s/index.html", account, PAGES).rc == 0
    assert node.run("runuser --user=%s -- test -r /var/lib/kattila-manager/kattila_manager.db", account).rc == 1


def test_the_newest_backup_can_be_restored(node: Host) -> None:
    folder = setting(node, MANAGER_ENV, "BACKUP_DIR", "/var/lib/kattila-manager")
    if not node.file(folder).listdir():
        assert node.run("systemctl start %s", BACKUP).rc == 0, journal(node, BACKUP)
    restored = node.run("sh -c %s sh %s", RESTORE, folder)
    assert restored.rc == 0, restored.stderr
