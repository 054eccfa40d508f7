"""The promises are about the nodes of an inventory: make verify INVENTORY=…, or pytest --ansible-inventory=…"""

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

from deploy.asking import manager_says


def pytest_configure(config: pytest.Config) -> None:
    """Let all that is asked of a node go through one connection, which testinfra does only where that has a name.

    Ansible's own name for it is not known here. One for all that use `ansible.cfg` would be too long in some homes.
    """
    folder = tempfile.mkdtemp(prefix="kattila-")
    config.add_cleanup(lambda: shutil.rmtree(folder))
    read = ansible_runner.get_ansible_config

    def with_name() -> ConfigParser:
        settings: ConfigParser = read()
        if not settings.get("ssh_connection", "control_path", fallback="", raw=True):
            settings.read_dict({"ssh_connection": {"control_path": "%(directory)s/%%C"}})
            settings.read_dict({"persistent_connection": {"control_path_dir": folder}})
        return settings

    ansible_runner.get_ansible_config = with_name


@pytest.fixture(scope="module")
def node(host: Host) -> Iterator[Host]:
    """A node, as root."""
    with _as_root(host):
        yield host


@pytest.fixture(scope="session")
def manager(pytestconfig: pytest.Config) -> Iterator[Host]:
    """The manager's node, as root, for promises about the others."""
    inventory = pytestconfig.getoption("ansible_inventory")
    (name, *_) = AnsibleRunner.get_runner(inventory).get_hosts("kattila_managers")
    host = testinfra.get_host(f"ansible://{name}", ansible_inventory=inventory)
    with _as_root(host):
        yield host


@pytest.fixture(scope="session")
def current_key(manager: Host) -> str:
    """The fingerprint of the key that the manager takes for the fleet's."""
    return str(manager_says(manager, "keys", "--json")["current"])


@pytest.fixture(scope="module")
def agent_id(node: Host) -> str:
    return str(node.check_output("cat /var/lib/kattila-agent/agent_id.txt"))


@pytest.fixture(scope="session")
def agents(manager: Host) -> dict[str, dict[str, Any]]:
    """What the manager knows of all, by their ids."""
    return {agent["agent_id"]: agent for agent in manager_says(manager, "agents", "--json")["agents"]}


@pytest.fixture(scope="module")
def known(agents: dict[str, dict[str, Any]], agent_id: str) -> dict[str, Any]:
    """What the manager knows of the node."""
    return agents.get(agent_id, {"state": "never heard of"})


@pytest.fixture(scope="module")
def report(manager: Host, agent_id: str) -> Any:
    """What the node said last."""
    return manager_says(manager, "report", agent_id)


def _as_root(host: Host) -> Any:
    return nullcontext() if host.user().name == "root" else host.sudo()
