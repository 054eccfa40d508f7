"""How the control host reaches the nodes: SSH, the inventory, the environment of Ansible. Pure texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fleet import certificate
from fleet.plan import Machine, Plan, underlay

MANAGER_PORT = 5086
# The network to which the pages are shown: that of the manager and the DNS server.
READERS = "operations"


def ssh_settings(plan: Plan, state: Path) -> str:
    """An ssh_config that knows the nodes by their names and trusts only this lab's host keys.

    By address, so that the nodes can be reached while the lab's DNS is out of order.
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
    """Where the socket of a login's one connection to a node is: a new one costs more than most questions do."""
    return f"{state}/ssh-%r@%n"


def known_hosts(host_keys: Mapping[str, tuple[str, str]]) -> str:
    """host_keys: by node, the texts of the private and the public file; only the latter is used."""
    return "".join(f"{name} {' '.join(public.split()[:2])}\n" for name, (_, public) in sorted(host_keys.items()))


def inventory(plan: Plan, state: Path) -> str:
    """The inventory of the lab, in YAML, in the form of inventory.example."""
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
    """The name of the site that shows the pages."""
    return f"{plan.manager}.{plan.zone}"


def _site(plan: Plan) -> dict[str, Any]:
    shown_to = next(network for network in plan.networks if network.name == READERS)
    return {
        "kattila_manager_nginx": True,
        "kattila_manager_nginx_name": site_name(plan),
        "kattila_manager_nginx_allow": [str(shown_to.ipv4), str(shown_to.ipv6)],
        "kattila_manager_nginx_certificate": f"/{certificate.FILE}",
        "kattila_manager_nginx_certificate_key": f"/{certificate.KEY_FILE}",
    }


def _host(node: Machine) -> dict[str, Any]:
    return {"kattila_agent_labels": dict(node.labels)} | _login(node)


def _login(node: Machine) -> dict[str, Any]:
    return {} if node.login == "root" else {"ansible_user": node.login, "ansible_become": True}


def environment(checkout: Path, state: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """What programs on the control host see. Ansible keeps all it writes in the lab's folder."""
    found = f"{checkout}/.venv-deploy/bin:{inherited.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    return dict(inherited) | {
        "PATH": found,
        "ANSIBLE_HOME": f"{state}/ansible",
        "ANSIBLE_INVENTORY": f"{state}/inventory.yml",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "LC_ALL": "C.UTF-8",
    }
