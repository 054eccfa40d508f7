"""The example inventory uses only variables that the rollout reads, and only documentation addresses."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parent.parent.parent
EXAMPLE = CHECKOUT / "inventory.example"
# RFC 5737, RFC 3849, and loopback.
DOCUMENTATION = tuple(map(ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "127.0.0.0/8")))
V6_DOCUMENTATION = ip_network("2001:db8::/32")


def files() -> dict[str, Any]:
    return {str(path.relative_to(EXAMPLE)): yaml.safe_load(path.read_text()) for path in EXAMPLE.rglob("*.yml")}


def names(value: Any) -> set[str]:
    """Return all names of variables and groups that begin with kattila_."""
    if not isinstance(value, dict):
        return set()
    return {name for name in value if str(name).startswith("kattila_")} | set().union(*map(names, value.values()))


def known() -> set[str]:
    """Return the names that roles, playbooks and the example itself read."""
    folders = ("roles", "playbooks", "inventory.example")
    texts = [path.read_text() for folder in folders for path in (CHECKOUT / folder).rglob("*.yml")]
    used = set(re.findall(r"{{[^}]*?\b(kattila_\w+)", "\n".join(texts)))
    specs = [yaml.safe_load(path.read_text()) for path in CHECKOUT.glob("roles/*/meta/argument_specs.yml")]
    groups = {"kattila_agents", "kattila_managers"}
    return used | groups | {name for spec in specs for name in spec["argument_specs"]["main"]["options"]}


def test_every_variable_in_the_example_is_used() -> None:
    assert set().union(*map(names, files().values())) - known() == set()


def test_group_vars_belong_to_groups_of_hosts() -> None:
    children = files()["hosts.yml"]["all"]["children"]
    groups = {"all", *children, *children["kattila_agents"]["children"]}
    assert {Path(name).stem for name in files() if name.startswith("group_vars/")} <= groups


def test_the_example_has_several_sites_and_a_spoke_behind_a_hub() -> None:
    sites = files()["hosts.yml"]["all"]["children"]["kattila_agents"]["children"]
    roles = [host.get("kattila_role") for site in sites.values() for host in site["hosts"].values()]
    assert len(sites) > 1
    assert {"hub", "spoke"} <= set(roles)


def test_addresses_and_names_are_reserved_for_documentation() -> None:
    text = "\n".join(path.read_text() for path in EXAMPLE.rglob("*.yml"))
    v4 = re.findall(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])", text)
    v6 = re.findall(r"[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,}", text)
    assert [address for address in v4 if not any(ip_network(address).subnet_of(net) for net in DOCUMENTATION)] == []  # type: ignore[arg-type] # both are IPv4
    assert [address for address in v6 if not ip_network(address).subnet_of(V6_DOCUMENTATION)] == []  # type: ignore[arg-type] # both are IPv6
    assert set(re.findall(r"[\w.-]+\.(?:com|net|org)\b", text)) == {
        name for name in re.findall(r"[\w.-]+", text) if name.endswith(".example.com")
    }
