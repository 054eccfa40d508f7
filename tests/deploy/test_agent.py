"""Checks on a node with an agent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

from deploy.queries import (
    AGENT_ENV,
    OPEN_SOCKETS,
    READ_HELPER,
    REQUEST_WITHOUT_TOKEN,
    SECRETS_IN_JOURNAL,
    agent_output,
    exposure,
    journal,
    key_digests,
    listen_addresses,
    normalised,
    ownership,
    process_status,
    run_as_agent,
    secret_digests,
    setting,
    wireguard_column,
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
def skip_without_agent(host: Host) -> None:
    if host.ansible.get_variables().get("kattila_agent_state") == "absent":
        pytest.skip("kattila_agent_state is absent for this host")


@pytest.fixture(scope="module")
def status(node: Host) -> dict[str, str]:
    return process_status(node, AGENT)


@pytest.mark.parametrize("unit", [AGENT, *SOCKETS])
def test_the_unit_runs(node: Host, unit: str) -> None:
    assert node.service(unit).is_running, journal(node, unit)


@pytest.mark.parametrize("unit", [AGENT, *SOCKETS])
def test_the_unit_starts_at_boot(node: Host, unit: str) -> None:
    assert node.service(unit).is_enabled


def test_the_agent_listens_only_on_the_configured_addresses(node: Host) -> None:
    configured = setting(node, AGENT_ENV, "AGENT_LISTEN", "*:5087")
    assert listen_addresses(node, "kattila-agent") == normalised(configured.split(",")), journal(node, AGENT)


def test_the_agents_user_cannot_log_in(node: Host) -> None:
    user = node.user("kattila-agent")
    assert user.shell.endswith("/nologin")
    assert user.password[:1] in ("!", "*")


@pytest.mark.parametrize("path", FILES)
def test_the_file_has_its_owner_and_mode(node: Host, path: str) -> None:
    assert ownership(node, path) == FILES[path]


def test_the_process_runs_as_the_agents_user(node: Host, status: dict[str, str]) -> None:
    assert set(status["Uid"].split()) == {node.check_output("id --user kattila-agent")}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_process_has_no_capability(status: dict[str, str], capability: str) -> None:
    assert int(status[capability], 16) == 0


def test_the_process_cannot_gain_privileges(status: dict[str, str]) -> None:
    assert status["NoNewPrivs"] == "1"


def test_the_agent_cannot_read_files_with_wireguard_keys(node: Host) -> None:
    folders = ("/etc/wireguard", "/etc/systemd/network")
    assert run_as_agent(node, "find", "/etc/wireguard", "-name", "*.key", "-readable") == ""
    assert run_as_agent(node, "grep", "-rliE", "^ *(PrivateKey|PresharedKey)", *folders) == ""


def test_the_agent_cannot_read_keys_with_wg(node: Host) -> None:
    if not node.exists("wg"):
        pytest.skip("wg is not installed on this node")
    assert run_as_agent(node, "wg", "show", "all", "private-key") == ""


def test_the_agent_cannot_connect_to_sockets_of_wireguard_go(node: Host) -> None:
    assert run_as_agent(node, "python3", "-c", OPEN_SOCKETS) == ""


def test_the_helper_returns_all_peers_and_no_secret_key(node: Host) -> None:
    returned = key_digests(run_as_agent(node, "python3", "-c", READ_HELPER))
    assert returned >= key_digests("\n".join(wireguard_column(node, "peers")))
    assert not returned & secret_digests(node)


def test_the_agents_exposure_level_is_low(node: Host) -> None:
    assert exposure(node, AGENT) <= 1.2


@pytest.mark.parametrize("unit", HELPERS)
def test_the_helpers_exposure_level_is_low(node: Host, unit: str) -> None:
    assert exposure(node, unit) <= 1.5


def test_the_journal_contains_no_secret(node: Host) -> None:
    assert node.check_output("python3 -c %s", SECRETS_IN_JOURNAL) == "0"


def test_the_agent_gets_the_managers_key_from_dns(node: Host, current_key: str) -> None:
    assert json.loads(agent_output(node, "-check", "-json"))["key"]["fingerprint"] == current_key


def test_the_node_cannot_read_other_agents_reports_from_the_manager(node: Host) -> None:
    url = setting(node, AGENT_ENV, "MANAGER_URL", "")
    assert node.check_output("python3 -c %s %s", REQUEST_WITHOUT_TOKEN, url) == "401"


def test_the_agent_reports(node: Host, known: dict[str, Any]) -> None:
    assert known["state"] in ("reporting", "relayed"), journal(node, AGENT)


def test_the_newest_report_is_recent(node: Host, known: dict[str, Any]) -> None:
    assert known["age_seconds"] <= 3 * int(setting(node, AGENT_ENV, "INTERVAL", "30")), journal(node, AGENT)


def test_reports_are_signed_with_the_managers_current_key(known: dict[str, Any], current_key: str) -> None:
    assert known["fingerprint"] == current_key


def test_the_report_contains_all_wireguard_peers(node: Host, report: dict[str, Any]) -> None:
    reported = {peer[0] for interface in report["telemetry"].get("wireguard", []) for peer in interface["peers"]}
    assert reported == wireguard_column(node, "peers")


def test_the_report_contains_no_secret_key(node: Host, report: dict[str, Any]) -> None:
    assert not key_digests(json.dumps(report)) & secret_digests(node)


def test_the_report_contains_no_failure(report: dict[str, Any]) -> None:
    assert "failures" not in report["telemetry"]


def test_the_manager_knows_the_agents_version(node: Host, known: dict[str, Any]) -> None:
    assert known["agent_version"] in agent_output(node, "-version")


def test_the_report_contains_the_configured_labels(node: Host, report: dict[str, Any]) -> None:
    labels = ",".join(f"{name}={value}" for name, value in sorted(report["telemetry"]["system"]["labels"].items()))
    assert labels == setting(node, AGENT_ENV, "LABELS", "")
