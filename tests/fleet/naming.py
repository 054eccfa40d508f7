"""Text of the DNS servers' files: knot's configuration and the zone. Pure.

Two servers run on one node. All nodes query the first. The other has a different key in its record, for tests in which
one node gets a different key. Only the first accepts updates (RFC 2136), signed with TSIG and only of the TXT record.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleet.plan import Plan, Port, addresses, underlay

TSIG_KEY = "fleet-update"
FIRST_SERIAL = 1
OTHER_UNIT = """[Unit]
Description=DNS server with a different key record
After=network.target
[Service]
User=knot
Group=knot
AmbientCapabilities=CAP_NET_BIND_SERVICE
RuntimeDirectory=knot-other
StateDirectory=knot-other
ExecStart=/usr/sbin/knotd --config /etc/knot/other.conf
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Server:
    """One DNS server: the name of its folders in /var/lib and /run, and where it listens."""

    folder: str
    port: Port
    takes_updates: bool


def servers(plan: Plan) -> tuple[Server, Server]:
    """Return the server that all nodes query, and the other one."""
    first = Server("knot", plan.machine(plan.resolver).ports[0], takes_updates=True)
    return first, Server("knot-other", plan.other_resolver, takes_updates=False)


def zone(plan: Plan, key: str) -> str:
    """Return the zone file, with the addresses of all machines and the record with the fleet's key."""
    lines = [
        "$TTL 5",
        f"$ORIGIN {plan.zone}.",
        f"@ SOA {plan.resolver} hostmaster {FIRST_SERIAL} 3600 600 86400 5",
        f"@ NS {plan.resolver}",
        f'{plan.key_record}. TXT "kattila={key}"',
    ]
    for machine in plan.machines:
        if machine.ports:
            lines += [f"{machine.name} {_type(ip.version)} {ip}" for ip in underlay(plan, machine)]
    return "\n".join(lines) + "\n"


def _type(family: int) -> str:
    return "A" if family == 4 else "AAAA"


def knot_settings(plan: Plan, server: Server, tsig_secret: str) -> str:
    listen = ", ".join(f"{ip}@53" for ip in addresses(plan, server.port))
    text = f"""server:
    listen: [ {listen} ]
    rundir: /run/{server.folder}
    user: knot:knot
log:
  - target: syslog
    any: info
database:
    storage: /var/lib/{server.folder}
"""
    if server.takes_updates:
        text += f"""key:
  - id: {TSIG_KEY}
    algorithm: hmac-sha256
    secret: {tsig_secret}
acl:
  - id: update
    key: {TSIG_KEY}
    action: update
    update-owner: name
    update-owner-name: [ {plan.key_record}. ]
    update-type: [ TXT ]
"""
    text += f"""zone:
  - domain: {plan.zone}
    storage: /var/lib/{server.folder}
    file: {plan.zone}.zone
"""
    return text + ("    acl: update\n" if server.takes_updates else "")


def update_key(tsig_secret: str) -> str:
    """Return the TSIG key as a line for `knsupdate -k`."""
    return f"hmac-sha256:{TSIG_KEY}:{tsig_secret}\n"


def resolver_settings(plan: Plan, machine_families: tuple[int, ...]) -> str:
    """Return the text of /etc/resolv.conf for a machine with these address families."""
    ips = underlay(plan, plan.machine(plan.resolver))
    lines = [f"nameserver {ip}" for ip in ips if ip.version in machine_families]
    return "\n".join([*lines, f"search {plan.zone}", "options timeout:2 attempts:2"]) + "\n"
