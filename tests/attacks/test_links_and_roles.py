"""The roles run as root on nodes whose services' users put links into their folders."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, FileSystemLoader

from kattila_manager.pages.index_page import build
from kattila_manager.publishing.website import Website
from support.knot import free_port
from support.modules import PYTHON, ROOT, SKIPPED, tasks_in
from support.service_folder import USER, file_of_root, folder_of_service, give, link, open_path
from support.snapshots import agent, seen, snapshot
from support.waiting import PATIENCE_SECONDS, wait_for

__all__ = ["open_path"]

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_ansible = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def rendered(name: str, **variables: object) -> str:
    templates = Environment(loader=FileSystemLoader(ROOT / "roles/kattila_manager/templates"), trim_blocks=True)
    return templates.get_template(name).render(variables)


def play(folder: Path, tasks: list[dict[str, Any]], **variables: object) -> str:
    """Run tasks of a role on this machine with real Ansible, and return all that it shows."""
    (folder / "inventory.ini").write_text(
        "[kattila_agents]\nnode ansible_connection=local\n[kattila_managers]\nmanager ansible_connection=local\n"
    )
    given = variables | {"ansible_python_interpreter": str(PYTHON)}
    plays = [{"hosts": "kattila_agents", "gather_facts": False, "vars": given, "tasks": tasks}]
    (folder / "play.yml").write_text(yaml.safe_dump(plays))
    done = subprocess.run(
        [PYTHON.with_name("ansible-playbook"), "-vvv", "-i", "inventory.ini", "play.yml"],
        cwd=folder,
        env=os.environ | {"ANSIBLE_LOCALHOST_WARNING": "no"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_ansible
def test_the_id_of_a_removed_agent_is_a_link_to_a_secret(open_path: Path) -> None:
    secret = file_of_root(open_path, b"root:$6$hush", mode=0o600)
    state, called = folder_of_service(open_path), open_path / "called"
    link(state / "agent_id.txt", secret.path)
    write_program(open_path / "kattila-manager", f'echo "$@" >{called}')
    names = ("Look for the node's id", "Read the node's id", "Let the manager forget the node")
    tasks = [task for task in tasks_in(ROOT / "roles/kattila_agent/tasks/absent.yml") if task["name"] in names]
    shown = play(
        open_path,
        tasks,
        __kattila_agent_id_file=str(state / "agent_id.txt"),
        __kattila_agent_manager_command=str(open_path / "kattila-manager"),
    )
    # "cm9vdDokNiRodXNo" is the secret in base64.
    assert "hush" not in shown and "cm9vdDokNiRodXNo" not in shown
    assert not called.exists()


def test_the_operators_command_runs_as_the_user_of_the_services(open_path: Path) -> None:
    folder_of_service(open_path)
    program = open_path / "programs/current/bin/kattila-manager"
    write_program(program, 'echo "$(id -u) $KATTILA_ENV $*"')
    variables = {
        "__kattila_manager_environment_file": "/etc/kattila/manager.env",
        "__kattila_manager_programs": str(open_path / "programs"),
        "__kattila_manager_account": "nobody",
    }
    (open_path / "command").write_text(rendered("kattila-manager.j2", **variables))
    command = ["sh", str(open_path / "command"), "report", "two words", "--json"]
    shown = f"{USER} /etc/kattila/manager.env report two words --json\n"
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == shown
    # Another user runs it as before, without rights on the database.
    as_user = subprocess.run(
        command, user=USER, group=USER, extra_groups=[], capture_output=True, text=True, check=True
    )
    assert as_user.stdout == shown


@needs_ansible
def test_a_downgrade_reads_the_database_as_the_user_of_the_services(open_path: Path) -> None:
    state = folder_of_service(open_path)
    write_program(open_path / "release/bin/kattila-manager", f"id -u >{state / 'user'}; cat {open_path}/hidden")
    (open_path / "hidden").write_text("hush")
    (open_path / "hidden").chmod(0o600)
    tasks = [
        task
        for task in tasks_in(ROOT / "roles/kattila_manager/tasks/downgrade.yml")
        if task["name"] == "Check whether this release can read the database"
    ]
    release = open_path / "release"
    variables = yaml.safe_load((ROOT / "roles/kattila_manager/vars/main.yml").read_text())
    play(
        open_path,
        tasks,
        **{name: value for name, value in variables.items() if name == "__kattila_manager_as_account"},
        __kattila_manager_account="nobody",
        __kattila_manager_folder=str(release),
        __kattila_manager_environment_file="/dev/null",
    )
    assert (state / "user").read_text() == f"{USER}\n"


@contextmanager
def nginx(folder: Path, pages: Path) -> Iterator[int]:
    """Run nginx with the site that the role writes, as the user nobody; yield its port."""
    if NGINX is None:
        pytest.skip("nginx is missing: apt-get install --no-install-recommends nginx")
    port = free_port()
    variables = {
        "kattila_manager_nginx_name": "localhost",
        "kattila_manager_nginx_allow": ["all"],
        "__kattila_manager_has_tls": False,
        "__kattila_manager_pages": str(pages),
    }
    site = rendered("kattila.conf.j2", **variables).replace("listen 80;", f"listen 127.0.0.1:{port};")
    site = site.replace("    listen [::]:80;\n", "")
    own = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"user nobody nogroup; pid {folder}/pid; daemon off; events {{}} http {{ access_log off; {own}\n{site} }}"
    )
    log = folder / "nginx.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([NGINX, "-e", "stderr", "-c", str(folder / "nginx.conf")], stderr=stream)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return _listens(port)

    try:
        wait_for(is_ready, log.read_text)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_nginx_serves_pages_but_no_link_to_a_file_of_root(open_path: Path) -> None:
    secret = file_of_root(open_path, b"hush")
    pages = folder_of_service(open_path)
    assert Website(pages).publish(build(seen(snapshot(agent(1))))).changed == 1
    give(pages)
    link(pages / "leak.html", secret.path)
    with nginx(open_path, pages) as port:
        status, page = _get(port, "/")
        assert (status, page.startswith(b"<!DOCTYPE html>")) == (200, True)
        status, leaked = _get(port, "/leak.html")
    assert status in (403, 404)
    assert b"hush" not in leaked
