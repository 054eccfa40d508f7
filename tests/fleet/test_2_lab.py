"""The lab is what its plan says: nodes, tunnels, names, ways."""

from __future__ import annotations

import hashlib
import re
import subprocess

import pytest

from fleet.nodes import AGENTS, NODES, Fleet
from fleet.plan import ADMIN, LAB, overlay_addresses, tunnels, underlay
from fleet.system import LabError


def _own_network() -> set[str]:
    """What this machine's own network is made of, one line each."""
    shown = [("link",), ("-4", "address"), ("-6", "address"), ("-4", "route"), ("-6", "route"), ("rule",)]
    texts = [subprocess.run(["ip", "-o", *words], capture_output=True, text=True, check=True).stdout for words in shown]
    return {line for text in texts for line in text.splitlines()}


@pytest.fixture(scope="session")
def own_network_before() -> set[str]:
    return _own_network()


def test_every_node_runs_with_all_its_units(own_network_before: set[str], fleet: Fleet) -> None:
    assert set(fleet.on_all(NODES, "systemctl is-system-running").values()) == {"running"}


def test_what_root_makes_on_a_node_is_for_root_alone(fleet: Fleet) -> None:
    assert fleet.on_all(NODES, "umask") == dict.fromkeys(NODES, "0077")


def test_ansible_is_root_on_some_nodes_and_becomes_it_by_sudo_on_others(fleet: Fleet) -> None:
    who = "ansible.builtin.shell", "-a", "echo ${SUDO_USER:-root} is $(id --user --name)"
    said = fleet.control("ansible", "all", "--one-line", "-m", *who).stdout
    logins = {node.name: node.login for node in LAB.nodes if node.name in (LAB.manager, *AGENTS)}
    assert dict(re.findall(r"^(\S+) \|.* (\w+) is root$", said, re.MULTILINE)) == logins
    assert set(logins.values()) == {"root", ADMIN}


def test_this_machines_own_network_gets_nothing_of_the_lab(own_network_before: set[str], fleet: Fleet) -> None:
    ips = [str(ip) for machine in LAB.machines if machine.ports for ip in underlay(LAB, machine)]
    links = [network.name for network in LAB.networks] + [f"to-{machine.name}" for machine in LAB.machines]
    added = _own_network() - own_network_before
    assert [line for line in added for word in (*ips, *links) if word in re.split(r"[\s/:@]+", line)] == []


@pytest.mark.parametrize("what", ["cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "hostname"])
def test_nodes_are_told_apart_by(fleet: Fleet, what: str) -> None:
    assert len(set(fleet.on_all(NODES, what).values())) == len(NODES)


def test_every_agent_reaches_every_other_through_the_tunnels(fleet: Fleet) -> None:
    ips = " ".join(str(ip) for node in LAB.agents for ip in overlay_addresses(LAB, node))
    # Two that begin a handshake at the same moment try again after five seconds.
    command = f"for ip in {ips}; do (ping -q -c 1 -w 40 $ip >/dev/null || echo no answer from $ip) & done; wait"
    silent = {node: said for node, said in fleet.on_all(AGENTS, command).items() if said}
    assert silent == {}, fleet.on_all(tuple(silent), "wg show; ip -stats link; ip neighbour; journalctl --lines=50")


def test_every_tunnel_has_had_a_handshake_at_both_ends(fleet: Fleet) -> None:
    shown = fleet.on_all(AGENTS, "wg show wg0 latest-handshakes")
    moments = [line.split()[1] for text in shown.values() for line in text.splitlines()]
    assert len(moments) == 2 * len(tunnels(LAB))
    assert "0" not in moments


def test_a_private_key_is_on_its_node_alone(fleet: Fleet) -> None:
    keys = fleet.on_all(AGENTS, "cat /etc/wireguard/wg0.key")
    assert len(set(keys.values())) == len(AGENTS)
    kept = [path.read_text(errors="replace") for path in fleet.place.state.glob("*") if path.is_file()]
    assert not any(key in text for key in keys.values() for text in kept)


def test_every_node_sees_the_key_record(fleet: Fleet) -> None:
    expected = hashlib.sha256(f'"kattila={(fleet.place.state / "key").read_text()}"'.encode()).hexdigest()
    seen = fleet.on_all(NODES, f"kdig +short TXT {LAB.key_record} | tr -d '\\n' | sha256sum | cut -d' ' -f1")
    assert seen == dict.fromkeys(NODES, expected)


def test_the_other_dns_server_has_another_record(fleet: Fleet) -> None:
    command = "kdig +short @{} TXT {}"
    other = fleet.on("south-web", command.format("203.0.113.54", LAB.key_record))
    assert other.startswith('"kattila=')
    assert other != fleet.on("south-web", command.format("203.0.113.53", LAB.key_record))


def test_a_signed_update_changes_the_record_for_all(fleet: Fleet) -> None:
    before = (fleet.place.state / "key").read_text()
    fleet.set_key("kattila=for-a-moment-only")
    seen = fleet.on_all(NODES, f"kdig +short TXT {LAB.key_record}")
    fleet.set_key(f"kattila={before}")
    assert seen == dict.fromkeys(NODES, '"kattila=for-a-moment-only"')


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


def test_the_spokes_only_way_out_leads_through_its_hub(fleet: Fleet) -> None:
    assert fleet.on("north-spoke", "ip -4 route show default; ip -6 route show default").count("default") == 2
    for hub, manager in (("198.51.100.129", "203.0.113.10"), ("2001:db8:1:2::1", "2001:db8:0:1::a")):
        assert f"From {hub} " in fleet.on("north-spoke", f"ping -c 1 -W 5 -t 1 {manager} || true")


def test_a_node_that_reboots_comes_back_with_its_tunnels(fleet: Fleet) -> None:
    before = fleet.on("south-db", "cat /etc/machine-id /proc/sys/kernel/random/boot_id").split()
    fleet.reboot("south-db")
    after = fleet.on("south-db", "cat /etc/machine-id /proc/sys/kernel/random/boot_id").split()
    assert (after[0], after[1] != before[1]) == (before[0], True)
    assert "1 received" in fleet.on("south-db", "ping -q -c 1 -w 20 203.0.113.139")
