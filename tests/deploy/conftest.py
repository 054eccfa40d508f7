"""Fixtures for the checks on an inventory's nodes: make verify INVENTORY=…, or pytest --ansible-inventory=…"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import nullcontext
from typing import Any

import pytest
import testinfra
from testinfra.host import Host
from testinfra.utils import ansible_runner
from testinfra.utils.ansible_runner import AnsibleRunner

from deploy.queries import manager_json


def pytest_configure(config: pytest.Config) -> None:
    """Give testinfra a control path, so that all queries to a node share one SSH connection.

    Without a configured control path testinfra connects again for each query. The path is set here and not in
    ansible.cfg, because there it would be too long below some home folders.
    """
    folder = tempfile.mkdtemp(prefix="kattila-")
    config.add_cleanup(lambda: shutil.rmtree(folder))
    read = ansible_runner.get_ansible_config

    def with_control_path() -> ConfigParser:
        settings: ConfigParser = read()
        if not settings.get("ssh_connection", "control_path", fallback="", raw=True):
            settings.read_dict({"ssh_connection": {"control_path": "%(directory)s/%%C"}})
            settings.read_dict({"persistent_connection": {"control_path_dir": folder}})
        return settings

    ansible_runner.get_ansible_config = with_control_path


@pytest.fixture(scope="module")
def node(host: Host) -> Iterator[Host]:
    """Return a node, accessed as root."""
    with _as_root(host):
        yield host


@pytest.fixture(scope="session")
def manager(pytestconfig: pytest.Config) -> Iterator[Host]:
    """Return the manager's node, accessed as root, for checks on agents' nodes."""
    inventory = pytestconfig.getoption("ansible_inventory")
    (name, *_) = AnsibleRunner.get_runner(inventory).get_hosts("kattila_managers")
    host = testinfra.get_host(f"ansible://{name}", ansible_inventory=inventory)
    with _as_root(host):
        yield host


@pytest.fixture(scope="session")
def current_key(manager: Host) -> str:
    """Return the fingerprint of the manager's current key."""
    return str(manager_json(manager, "keys", "--json")["current"])


@pytest.fixture(scope="module")
def agent_id(node: Host) -> str:
    return str(node.check_output("cat /var/lib/kattila-agent/agent_id.txt"))


@pytest.fixture(scope="session")
def agents(manager: Host) -> dict[str, dict[str, Any]]:
    """Return the manager's list of agents by id."""
    return {agent["agent_id"]: agent for agent in manager_json(manager, "agents", "--json")["agents"]}


@pytest.fixture(scope="module")
def known(agents: dict[str, dict[str, Any]], agent_id: str) -> dict[str, Any]:
    """Return the manager's entry for the node's agent."""
    return agents.get(agent_id, {"state": "unknown to the manager"})


@pytest.fixture(scope="module")
def report(manager: Host, agent_id: str) -> Any:
    """Return the node's newest report."""
    return manager_json(manager, "report", agent_id)


def _as_root(host: Host) -> Any:
    return nullcontext() if _user(host) == "root" else host.sudo()


def _user(host: Host) -> str:
    """Return the user that Ansible logs in as; the first query to a node."""
    try:
        return str(host.user().name)
    except RuntimeError as error:
        # testinfra raises it with the result of ssh. Its own text is cut off before the cause.
        cause = getattr(error.args[0], "stderr", error)
        pytest.fail(f"{host.backend.host} cannot be reached: {str(cause).strip()}", pytrace=False)
