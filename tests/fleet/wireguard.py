"""Turns the plan into each node's WireGuard configuration. Pure. Nodes generate their private keys and keep them."""

from __future__ import annotations

from collections.abc import Mapping

from fleet.plan import KEEPALIVE_SECONDS, LISTEN_PORT, Machine, Plan, families, overlay_addresses, tunnels, underlay

INTERFACE = "wg0"
FOLDER = "/etc/wireguard"

UNIT = f"""[Unit]
Description=Userspace WireGuard, as the kernel may have none: %i
After=network.target
[Service]
ExecStartPre=/bin/sh -c 'umask 077; [ -s {FOLDER}/%i.key ] || wg genkey >{FOLDER}/%i.key; \\
    wg pubkey <{FOLDER}/%i.key >{FOLDER}/%i.pub'
ExecStart=/usr/bin/wireguard-go -f %i
ExecStartPost={FOLDER}/up %i
ExecReload={FOLDER}/up %i
[Install]
WantedBy=multi-user.target
"""

# setconf removes a private key that is missing from the file, so the key is set afterwards.
UP = f"""#!/bin/sh
set -eu
tries=0
until wg show "$1" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ]
    sleep 0.1
done
[ ! -s {FOLDER}/"$1".conf ] || wg setconf "$1" {FOLDER}/"$1".conf
wg set "$1" listen-port {LISTEN_PORT} private-key {FOLDER}/"$1".key
ip -batch {FOLDER}/"$1".ip
"""


def address_lines(plan: Plan, machine: Machine) -> str:
    """Return `ip -batch` lines that bring a node's tunnel interface up."""
    lengths = {4: plan.overlay.ipv4.prefixlen, 6: plan.overlay.ipv6.prefixlen}
    lines = [f"address replace {ip}/{lengths[ip.version]} dev {INTERFACE}" for ip in overlay_addresses(plan, machine)]
    return "\n".join([*lines, f"link set {INTERFACE} up"]) + "\n"


def configuration(plan: Plan, name: str, public_keys: Mapping[str, str]) -> str:
    """Return a node's peers in the format of `wg setconf`."""
    sections = [f"[Interface]\nListenPort = {LISTEN_PORT}"]
    for tunnel in tunnels(plan):
        if name in (tunnel.first, tunnel.second):
            peer = tunnel.second if name == tunnel.first else tunnel.first
            sections.append(_peer(plan, name, peer, public_keys[peer]))
    return "\n\n".join(sections) + "\n"


def _peer(plan: Plan, name: str, peer: str, public_key: str) -> str:
    lines = ["[Peer]", f"PublicKey = {public_key}", f"Endpoint = {endpoint(plan, name, peer)}"]
    if plan.hub_of(name) == peer:
        lines.append(f"PersistentKeepalive = {KEEPALIVE_SECONDS}")
    return "\n".join([*lines, f"AllowedIPs = {', '.join(allowed_ips(plan, name, peer))}"])


def allowed_ips(plan: Plan, name: str, peer: str) -> list[str]:
    """Return a peer's AllowedIPs: the whole overlay for a spoke's hub, otherwise the peer and the spokes behind it."""
    if plan.hub_of(name) == peer:
        return [str(plan.overlay.ipv4), str(plan.overlay.ipv6)]
    behind = [spoke for spoke, hub in plan.spokes if hub == peer and spoke != name]
    reached = [plan.machine(each) for each in (peer, *behind)]
    return [f"{ip}/{ip.max_prefixlen}" for machine in reached for ip in overlay_addresses(plan, machine)]


def endpoint(plan: Plan, name: str, peer: str) -> str:
    """Return a peer's endpoint, with IPv4 if both ends have it."""
    common = min(set(families(plan.machine(name))) & set(families(plan.machine(peer))))
    ip = next(ip for ip in underlay(plan, plan.machine(peer)) if ip.version == common)
    return f"{ip}:{LISTEN_PORT}" if common == 4 else f"[{ip}]:{LISTEN_PORT}"
