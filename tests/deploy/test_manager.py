"""What is promised of the manager's node."""

from __future__ import annotations

import re

import pytest
from testinfra.host import Host

from deploy.asking import (
    MANAGER_ENV,
    PAGES,
    RESTORE,
    SECRETS_IN_JOURNAL,
    addresses,
    belongs,
    exposure,
    journal,
    listening,
    manager_says,
    setting,
    standing_of,
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
def test_it_runs(node: Host, unit: str) -> None:
    assert node.service(unit).is_running, journal(node, unit)


@pytest.mark.parametrize("unit", [SERVE, PUBLISH, TIMER])
def test_it_starts_with_the_node(node: Host, unit: str) -> None:
    assert node.service(unit).is_enabled


def test_it_listens_where_it_was_set_to_and_nowhere_else(node: Host) -> None:
    wanted = setting(node, MANAGER_ENV, "MANAGER_LISTEN", "*:5086")
    assert listening(node, "kattila-manager") == addresses([wanted]), journal(node, SERVE)


def test_nobody_can_log_in_as_its_user(node: Host) -> None:
    user = node.user("kattila-manager")
    assert user.shell.endswith("/nologin")
    assert user.password[:1] in ("!", "*")


@pytest.mark.parametrize("path", FILES)
def test_a_file_belongs_to_whom_it_should(node: Host, path: str) -> None:
    assert belongs(node, path) == FILES[path]


@pytest.mark.parametrize("unit", [SERVE, PUBLISH])
def test_its_processes_have_no_privilege_and_gain_none(node: Host, unit: str) -> None:
    standing = standing_of(node, unit)
    assert {int(standing[name], 16) for name in standing if name.startswith("Cap")} == {0}
    assert standing["NoNewPrivs"] == "1"


@pytest.mark.parametrize("unit", [SERVE, PUBLISH, BACKUP])
def test_systemd_finds_little_exposed(node: Host, unit: str) -> None:
    assert exposure(node, unit) <= 1.5


@pytest.mark.parametrize("name", ["READ_TOKEN", "ADMIN_TOKEN"])
def test_a_token_was_drawn(node: Host, name: str) -> None:
    assert len(setting(node, MANAGER_ENV, name, "")) >= 32


def test_no_secret_is_in_the_journal(node: Host) -> None:
    assert node.check_output("python3 -c %s", SECRETS_IN_JOURNAL) == "0"


def test_it_knows_the_key(node: Host) -> None:
    assert re.fullmatch("[0-9a-f]{8}", manager_says(node, "keys", "--json")["current"])


def test_the_pages_are_there_and_recent(node: Host) -> None:
    every = float(re.findall(r"--every (\S+)", node.file(f"/etc/systemd/system/{PUBLISH}").content_string)[0])
    recent = node.check_output("find -L %s/index.html -newermt %s", PAGES, f"-{60 + every} seconds")
    assert recent != "", journal(node, PUBLISH)


def test_nginx_shows_pages_and_hands_on_nothing(node: Host) -> None:
    site = node.file("/etc/nginx/conf.d/kattila.conf")
    if not site.exists:
        pytest.skip("the pages have no site here: kattila_manager_nginx is not set")
    assert re.findall(r"^ *root (.*);", site.content_string, re.MULTILINE) == [PAGES]
    assert "_pass" not in site.content_string


def test_nginx_may_read_the_pages_and_not_the_database(node: Host) -> None:
    if not node.file("/etc/nginx/conf.d/kattila.conf").exists:
        pytest.skip("the pages have no site here: kattila_manager_nginx is not set")
    account = node.check_output("ps -C nginx -o user= | grep -v root | sort -u")
    assert node.run("runuser --user=%s -- test -r %s/index.html", account, PAGES).rc == 0
    assert node.run("runuser --user=%s -- test -r /var/lib/kattila-manager/kattila_manager.db", account).rc == 1


def test_there_is_a_backup_from_which_it_can_be_restored(node: Host) -> None:
    folder = setting(node, MANAGER_ENV, "BACKUP_DIR", "/var/lib/kattila-manager")
    if not node.file(folder).listdir():
        assert node.run("systemctl start %s", BACKUP).rc == 0, journal(node, BACKUP)
    restored = node.run("sh -c %s sh %s", RESTORE, folder)
    assert restored.rc == 0, restored.stderr
