"""Text of the control host's files: ssh_config, known_hosts, the inventory, and Ansible's environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fleet import certificate
from fleet.plan import Machine, Plan, underlay

MANAGER_PORT = 5086
# The network that may read the pages. The manager and the DNS server are in it.
READERS = "operations"


def ssh_settings(plan: Plan, state: Path) -> str:
    """Return an ssh_config with all nodes that trusts only this lab's host keys.

    It lists addresses, so that the nodes can be reached while the lab's DNS does not work.
    """
    sections = [
        f"Host {node.name}\n    HostName {underlay(plan, node)[0]}\n    HostKeyAlias {node.name}" for node in plan.nodes
    ]
    everywhere = f"""Host *
    User root
    IdentityFile "{state}/login"
    IdentitiesOnly yes
    UserKnownHostsFile "{state}/known_hosts"
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 5
    ServerAliveInterval 5
    ControlMaster auto
    ControlPersist 60
    ControlPath "{_shared_connections(state)}"
    LogLevel ERROR"""
    return "\n".join([*sections, everywhere]) + "\n"


def _shared_connections(state: Path) -> str:
    """Return the path of the socket for shared SSH connections; a new connection costs more than most commands."""
    return f"{state}/ssh-%r@%n"


def known_hosts(host_keys: Mapping[str, tuple[str, str]]) -> str:
    """Return the text of known_hosts.

    host_keys: by node, the texts of the private and the public key file. Only the public one is used.
    """
    return "".join(f"{name} {' '.join(public.split()[:2])}\n" for name, (_, public) in sorted(host_keys.items()))


def inventory(plan: Plan, state: Path) -> str:
    """Return the inventory of the lab as YAML, structured like inventory.example."""
    sites = {site: {"hosts": {node.name: _host(node) for node in plan.agents if node.site == site}}
             for site in plan.sites}  # fmt: skip
    tree: dict[str, Any] = {
        "vars": {
            "ansible_ssh_common_args": f"-F '{state}/ssh_config' -o ControlPath='{_shared_connections(state)}'",
            "kattila_dns": plan.key_record,
            "kattila_manager_url": f"http://{plan.manager}.{plan.zone}:{MANAGER_PORT}",
        },
        "children": {
            "kattila_managers": {"hosts": {plan.manager: _site(plan) | _login(plan.machine(plan.manager))}},
            "kattila_agents": {"children": sites},
        },
    }
    return str(yaml.safe_dump({"all": tree}, sort_keys=False))


def site_name(plan: Plan) -> str:
    """Return the server name of the nginx site that serves the pages."""
    return f"{plan.manager}.{plan.zone}"


def _site(plan: Plan) -> dict[str, Any]:
    readers = next(network for network in plan.networks if network.name == READERS)
    return {
        "kattila_manager_nginx": True,
        "kattila_manager_nginx_name": site_name(plan),
        "kattila_manager_nginx_allow": [str(readers.ipv4), str(readers.ipv6)],
        "kattila_manager_nginx_certificate": f"/{certificate.FILE}",
        "kattila_manager_nginx_certificate_key": f"/{certificate.KEY_FILE}",
    }


def _host(node: Machine) -> dict[str, Any]:
    return {"kattila_agent_labels": dict(node.labels)} | _login(node)


def _login(node: Machine) -> dict[str, Any]:
    return {} if node.login == "root" else {"ansible_user": node.login, "ansible_become": True}


def environment(checkout: Path, state: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of programs on the control host. Ansible writes only to the lab's folder."""
    path = f"{checkout}/.venv-deploy/bin:{inherited.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    return dict(inherited) | {
        "PATH": path,
        "ANSIBLE_HOME": f"{state}/ansible",
        "ANSIBLE_INVENTORY": f"{state}/inventory.yml",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "LC_ALL": "C.UTF-8",
    }
