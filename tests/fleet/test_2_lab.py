"""The running lab matches its plan: nodes, tunnels, names and routes."""

from __future__ import annotations

import hashlib
import re
import subprocess

import pytest

from fleet.nodes import AGENTS, NODES, Fleet
from fleet.plan import ADMIN, LAB, overlay_addresses, tunnels, underlay
from fleet.system import LabError


def _own_network() -> set[str]:
    """Return the links, addresses, routes and rules of this machine's own network, one line each."""
    objects = [("link",), ("-4", "address"), ("-6", "address"), ("-4", "route"), ("-6", "route"), ("rule",)]
    commands = [["ip", "-o", *words] for words in objects]
    texts = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in commands]
    return {line for text in texts for line in text.splitlines()}


@pytest.fixture(scope="session")
def own_network_before() -> set[str]:
    return _own_network()


def test_all_units_run_on_every_node(own_network_before: set[str], fleet: Fleet) -> None:
    assert set(fleet.on_all(NODES, "systemctl is-system-running").values()) == {"running"}


def test_roots_umask_on_every_node_is_077(fleet: Fleet) -> None:
    assert fleet.on_all(NODES, "umask") == dict.fromkeys(NODES, "0077")


def test_ansible_logs_in_as_root_on_some_nodes_and_uses_sudo_on_others(fleet: Fleet) -> None:
    show_user = "ansible.builtin.shell", "-a", "echo ${SUDO_USER:-root} is $(id --user --name)"
    output = fleet.control("ansible", "all", "--one-line", "-m", *show_user).stdout
    logins = {node.name: node.login for node in LAB.nodes if node.name in (LAB.manager, *AGENTS)}
    assert dict(re.findall(r"^(\S+) \|.* (\w+) is root$", output, re.MULTILINE)) == logins
    assert set(logins.values()) == {"root", ADMIN}


def test_the_lab_does_not_touch_this_machines_own_network(own_network_before: set[str], fleet: Fleet) -> None:
    ips = [str(ip) for machine in LAB.machines if machine.ports for ip in underlay(LAB, machine)]
    links = [network.name for network in LAB.networks] + [f"to-{machine.name}" for machine in LAB.machines]
    added = _own_network() - own_network_before
    assert [line for line in added for word in (*ips, *links) if word in re.split(r"[\s/:@]+", line)] == []


@pytest.mark.parametrize("command", ["cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "hostname"])
def test_every_node_has_a_unique_identity(fleet: Fleet, command: str) -> None:
    assert len(set(fleet.on_all(NODES, command).values())) == len(NODES)


def test_every_agent_reaches_every_other_through_the_tunnels(fleet: Fleet) -> None:
    ips = " ".join(str(ip) for node in LAB.agents for ip in overlay_addresses(LAB, node))
    # Two nodes that begin a handshake at the same time retry after five seconds.
    command = f"for ip in {ips}; do (ping -q -c 1 -w 40 $ip >/dev/null || echo no answer from $ip) & done; wait"
    failures = {node: output for node, output in fleet.on_all(AGENTS, command).items() if output}
    assert failures == {}, fleet.on_all(tuple(failures), "wg show; ip -stats link; ip neighbour; journalctl --lines=50")


def test_every_tunnel_has_had_a_handshake_at_both_ends(fleet: Fleet) -> None:
    outputs = fleet.on_all(AGENTS, "wg show wg0 latest-handshakes")
    times = [line.split()[1] for text in outputs.values() for line in text.splitlines()]
    assert len(times) == 2 * len(tunnels(LAB))
    assert "0" not in times


def test_private_keys_stay_on_their_nodes(fleet: Fleet) -> None:
    keys = fleet.on_all(AGENTS, "cat /etc/wireguard/wg0.key")
    assert len(set(keys.values())) == len(AGENTS)
    lab_files = [path.read_text(errors="replace") for path in fleet.place.state.glob("*") if path.is_file()]
    assert not any(key in text for key in keys.values() for text in lab_files)


def test_every_node_can_query_the_key_record(fleet: Fleet) -> None:
    expected = hashlib.sha256(f'"kattila={(fleet.place.state / "key").read_text()}"'.encode()).hexdigest()
    digests = fleet.on_all(NODES, f"kdig +short TXT {LAB.key_record} | tr -d '\\n' | sha256sum | cut -d' ' -f1")
    assert digests == dict.fromkeys(NODES, expected)


def test_the_other_dns_server_has_a_different_record(fleet: Fleet) -> None:
    command = "kdig +short @{} TXT {}"
    other = fleet.on("south-web", command.format("203.0.113.54", LAB.key_record))
    assert other.startswith('"kattila=')
    assert other != fleet.on("south-web", command.format("203.0.113.53", LAB.key_record))


def test_a_signed_update_changes_the_record(fleet: Fleet) -> None:
    before = (fleet.place.state / "key").read_text()
    fleet.set_key("kattila=for-a-moment-only")
    records = fleet.on_all(NODES, f"kdig +short TXT {LAB.key_record}")
    fleet.set_key(f"kattila={before}")
    assert records == dict.fromkeys(NODES, '"kattila=for-a-moment-only"')


def test_an_unsigned_update_is_refused(fleet: Fleet) -> None:
    lines = f"server 203.0.113.53\nzone {LAB.zone}\ndel {LAB.key_record} TXT\nsend\n"
    with pytest.raises(LabError, match="NOTAUTH"):
        fleet.on("south-web", "knsupdate", lines)


def test_the_ipv6_only_node_reaches_the_manager_by_name(fleet: Fleet) -> None:
    assert fleet.on("south-six", "ip -4 -o address show eth0") == ""
    address = fleet.on("south-six", f"getent ahostsv6 {LAB.manager}.{LAB.zone} | head -1 | cut -d' ' -f1")
    assert fleet.on("south-six", f"ping -q -c 1 -W 5 {address} >/dev/null && echo answered") == "answered"


def test_the_manager_has_addresses_of_both_families(fleet: Fleet) -> None:
    lines = fleet.on("north-db", f"getent ahosts {LAB.manager}.{LAB.zone}").splitlines()
    assert {line.split()[0] for line in lines} == {"203.0.113.10", "2001:db8:0:1::a"}


def test_the_spokes_only_default_route_leads_through_its_hub(fleet: Fleet) -> None:
    assert fleet.on("north-spoke", "ip -4 route show default; ip -6 route show default").count("default") == 2
    for hub, manager in (("198.51.100.129", "203.0.113.10"), ("2001:db8:1:2::1", "2001:db8:0:1::a")):
        assert f"From {hub} " in fleet.on("north-spoke", f"ping -c 1 -W 5 -t 1 {manager} || true")


def test_tunnels_work_again_after_a_reboot(fleet: Fleet) -> None:
    before = fleet.on("south-db", "cat /etc/machine-id /proc/sys/kernel/random/boot_id").split()
    fleet.reboot("south-db")
    after = fleet.on("south-db", "cat /etc/machine-id /proc/sys/kernel/random/boot_id").split()
    assert (after[0], after[1] != before[1]) == (before[0], True)
    assert "1 received" in fleet.on("south-db", "ping -q -c 1 -w 20 203.0.113.139")
