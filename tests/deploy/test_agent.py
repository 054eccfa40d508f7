"""What is promised of a node with an agent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

from deploy.asking import (
    AGENT_ENV,
    ASK_HELPER,
    ASK_WITHOUT_TOKEN,
    OPEN_SOCKETS,
    SECRETS_IN_JOURNAL,
    addresses,
    agent,
    as_agent,
    belongs,
    exposure,
    journal,
    key_digests,
    listening,
    secret_digests,
    setting,
    standing_of,
    wireguard,
)

testinfra_hosts = ["ansible://kattila_agents"]

AGENT = "kattila-agent.service"
SOCKETS = ("kattila-wireguard.socket", "kattila-clock.socket")
HELPERS = ("kattila-wireguard@0.service", "kattila-clock@0.service")
FILES = {
    "/opt/kattila-agent/kattila-agent": "root root 755",
    "/etc/systemd/system/kattila-agent.service": "root root 644",
    "/etc/systemd/system/kattila-wireguard.socket": "root root 644",
    "/etc/systemd/system/kattila-wireguard@.service": "root root 644",
    "/etc/systemd/system/kattila-clock.socket": "root root 644",
    "/etc/systemd/system/kattila-clock@.service": "root root 644",
    AGENT_ENV: "root kattila-agent 640",
    "/var/lib/kattila-agent": "kattila-agent kattila-agent 700",
    "/var/lib/kattila-agent/ring.json": "kattila-agent kattila-agent 600",
    "/run/kattila/wireguard.sock": "kattila-agent kattila-agent 600",
    "/run/kattila/clock.sock": "kattila-agent kattila-agent 600",
}
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@pytest.fixture(scope="module", autouse=True)
def wanted(host: Host) -> None:
    if host.ansible.get_variables().get("kattila_agent_state") == "absent":
        pytest.skip("the inventory wants no agent here")


@pytest.fixture(scope="module")
def standing(node: Host) -> dict[str, str]:
    return standing_of(node, AGENT)


@pytest.mark.parametrize("unit", [AGENT, *SOCKETS])
def test_it_runs(node: Host, unit: str) -> None:
    assert node.service(unit).is_running, journal(node, unit)


@pytest.mark.parametrize("unit", [AGENT, *SOCKETS])
def test_it_starts_with_the_node(node: Host, unit: str) -> None:
    assert node.service(unit).is_enabled


def test_it_listens_where_it_was_set_to_and_nowhere_else(node: Host) -> None:
    wanted = setting(node, AGENT_ENV, "AGENT_LISTEN", "*:5087")
    assert listening(node, "kattila-agent") == addresses(wanted.split(",")), journal(node, AGENT)


def test_nobody_can_log_in_as_its_user(node: Host) -> None:
    user = node.user("kattila-agent")
    assert user.shell.endswith("/nologin")
    assert user.password[:1] in ("!", "*")


@pytest.mark.parametrize("path", FILES)
def test_a_file_belongs_to_whom_it_should(node: Host, path: str) -> None:
    assert belongs(node, path) == FILES[path]


def test_its_process_runs_as_its_user(node: Host, standing: dict[str, str]) -> None:
    assert set(standing["Uid"].split()) == {node.check_output("id --user kattila-agent")}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_its_process_has_no_capability(standing: dict[str, str], capability: str) -> None:
    assert int(standing[capability], 16) == 0


def test_its_process_can_gain_no_privilege(standing: dict[str, str]) -> None:
    assert standing["NoNewPrivs"] == "1"


def test_it_cannot_read_a_file_with_a_wireguard_key(node: Host) -> None:
    assert as_agent(node, "find", "/etc/wireguard", "-name", "*.key", "-readable") == ""
    assert (
        as_agent(node, "grep", "-rliE", "^ *(PrivateKey|PresharedKey)", "/etc/wireguard", "/etc/systemd/network") == ""
    )


def test_it_cannot_ask_wireguard_itself(node: Host) -> None:
    if not node.exists("wg"):
        pytest.skip("there is no wg here to ask with")
    assert as_agent(node, "wg", "show", "all", "private-key") == ""


def test_it_cannot_connect_to_a_socket_of_wireguard_go(node: Host) -> None:
    assert as_agent(node, "python3", "-c", OPEN_SOCKETS) == ""


def test_the_helper_tells_it_all_peers_and_no_key(node: Host) -> None:
    told = key_digests(as_agent(node, "python3", "-c", ASK_HELPER))
    assert told >= key_digests("\n".join(wireguard(node, "peers")))
    assert not told & secret_digests(node)


def test_systemd_finds_little_exposed_of_the_agent(node: Host) -> None:
    assert exposure(node, AGENT) <= 1.2


@pytest.mark.parametrize("unit", HELPERS)
def test_systemd_finds_little_exposed_of_a_helper(node: Host, unit: str) -> None:
    assert exposure(node, unit) <= 1.5


def test_no_secret_is_in_the_journal(node: Host) -> None:
    assert node.check_output("python3 -c %s", SECRETS_IN_JOURNAL) == "0"


def test_it_sees_the_key_that_the_manager_has(node: Host, current_key: str) -> None:
    assert json.loads(agent(node, "-check", "-json"))["key"]["fingerprint"] == current_key


def test_it_may_not_read_from_the_manager_what_others_report(node: Host) -> None:
    url = setting(node, AGENT_ENV, "MANAGER_URL", "")
    assert node.check_output("python3 -c %s %s", ASK_WITHOUT_TOKEN, url) == "401"


def test_it_reports(node: Host, known: dict[str, Any]) -> None:
    assert known["state"] in ("reporting", "relayed"), journal(node, AGENT)


def test_its_reports_are_fresh(node: Host, known: dict[str, Any]) -> None:
    assert known["age_seconds"] <= 3 * int(setting(node, AGENT_ENV, "INTERVAL", "30")), journal(node, AGENT)


def test_it_signs_with_the_key_that_the_manager_has(known: dict[str, Any], current_key: str) -> None:
    assert known["fingerprint"] == current_key


def test_its_report_names_all_wireguard_peers(node: Host, report: dict[str, Any]) -> None:
    told = {peer[0] for interface in report["telemetry"]["wireguard"] for peer in interface["peers"]}
    assert told == wireguard(node, "peers")


def test_no_private_key_is_in_its_report(node: Host, report: dict[str, Any]) -> None:
    assert not key_digests(json.dumps(report)) & secret_digests(node)


def test_nothing_failed_while_it_measured(report: dict[str, Any]) -> None:
    assert report["telemetry"]["failures"] == []


def test_it_tells_its_version(node: Host, known: dict[str, Any]) -> None:
    assert known["agent_version"] in agent(node, "-version")


def test_its_labels_are_those_that_were_set(node: Host, report: dict[str, Any]) -> None:
    told = report["telemetry"]["system"]["labels"]
    assert ",".join(f"{name}={value}" for name, value in sorted(told.items())) == setting(node, AGENT_ENV, "LABELS", "")
