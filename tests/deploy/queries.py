"""Queries that the checks run on a node. Secrets stay on the node: only counts, digests and names are returned."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from testinfra.host import Host

AGENT_ENV = "/etc/kattila/agent.env"
MANAGER_ENV = "/etc/kattila/manager.env"
MANAGER = "/usr/local/bin/kattila-manager"
PAGES = "/var/lib/kattila-pages"

# Prints how many journal lines of our units contain one of our secrets.
SECRETS_IN_JOURNAL = r"""
import json, pathlib, re, subprocess
secrets = set()
for ring in ("/var/lib/kattila-agent/ring.json", "/var/lib/kattila-manager/kattila_ring.json"):
    if pathlib.Path(ring).exists():
        keys = [entry["psk_hex"] for entry in json.loads(pathlib.Path(ring).read_text())["entries"]]
        secrets |= {*keys, *(bytes.fromhex(key).decode() for key in keys)}
settings = pathlib.Path("/etc/kattila/manager.env")
if settings.exists():
    secrets |= set(re.findall(r"^[A-Z]+_TOKEN='?([^'\s]+)", settings.read_text(), re.MULTILINE))
for column in ("private-key", "preshared-keys"):
    try:
        shown = subprocess.run(["wg", "show", "all", column], capture_output=True, text=True).stdout
    except FileNotFoundError:
        continue
    secrets |= {line.split()[-1] for line in shown.splitlines()} - {"(none)"}
journal = ["journalctl", "--no-pager", "--output=cat", "--unit=kattila-*"]
lines = subprocess.run(journal, capture_output=True, text=True, check=True).stdout.splitlines()
assert secrets and lines
print(sum(any(secret in line for secret in secrets) for line in lines))
"""

# Prints the wireguard-go sockets that accept a connection.
OPEN_SOCKETS = r"""
import pathlib, socket
for path in pathlib.Path("/run/wireguard").glob("*.sock"):
    try:
        socket.socket(socket.AF_UNIX).connect(str(path))
        print(path)
    except OSError:
        pass
"""

# Prints the user that it runs as, then runs a program. A missing program must not look like an empty output.
IDENTIFY_AND_RUN = 'id --user --name; command -v "$0" >/dev/null || exec echo "$0 does not exist"; exec "$0" "$@"'

# Prints the answer of the WireGuard helper.
READ_HELPER = r"""
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect("/run/kattila/wireguard.sock")
while received := connection.recv(65536):
    sys.stdout.write(received.decode())
"""


# Prints the HTTP status of a request for the manager's agents without a token.
REQUEST_WITHOUT_TOKEN = r"""
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1] + "/status/agents").status)
except urllib.error.HTTPError as refused:
    print(refused.code)
"""

# Restores the newest backup into a temporary folder, and reads the agents from it.
RESTORE = """
set -eu
scratch=$(mktemp -d /var/tmp/kattila-restore-XXXXXX)
trap 'rm -r "$scratch"' EXIT
chown kattila-manager "$scratch"
newest=$(ls -t "$1"/*.db | head -1)
export KATTILA_ENV=/etc/kattila/manager.env MANAGER_DB="$scratch/kattila_manager.db"
as="runuser --user=kattila-manager -- /opt/kattila-manager/current/bin/kattila-manager"
$as restore "$newest"
$as agents --json
"""


def journal(node: Host, unit: str) -> str:
    """Return a unit's last log lines, to explain a failed check."""
    return f"\n{node.run('journalctl --unit=%s --lines=20 --no-pager --output=short', unit).stdout}"


def setting(node: Host, file: str, name: str, default: str) -> str:
    """Return a setting from a settings file, or the default."""
    found = re.search(rf"^{name}='?([^'\n]+)", node.file(file).content_string, re.MULTILINE)
    return found[1] if found else default


def listen_addresses(node: Host, user: str) -> set[str]:
    """Return where a user's programs listen, as ADDRESS:PORT with * for all addresses."""
    number = node.check_output("id --user %s", user)
    lines = [line.split() for line in node.check_output("ss -Hltne").splitlines()]
    return normalised(words[3] for words in lines if f"uid:{number}" in words)


def normalised(addresses: Iterable[str]) -> set[str]:
    """Return ADDRESS:PORT texts with * for all addresses."""
    return {re.sub(r"^(0\.0\.0\.0|\[::\]):", "*:", address) for address in addresses}


def ownership(node: Host, path: str) -> str:
    """Return owner, group and mode of a file, for example `root root 755`."""
    return str(node.check_output("stat --format='%%U %%G %%a' %s", path))


def exposure(node: Host, unit: str) -> float:
    """Return the exposure level that systemd calculates for a unit, from 0 to 10."""
    output = node.check_output("systemd-analyze security --no-pager %s", unit)
    return float(re.findall(r"Overall exposure level for \S+: ([0-9.]+)", output)[0])


def agent_output(node: Host, *flags: str) -> str:
    """Run the node's agent with flags, with the interpreter of its unit, and return its output."""
    unit = node.file("/etc/systemd/system/kattila-agent.service").content_string
    (program,) = re.findall(r"^ExecStart=(.*)", unit, re.MULTILINE)
    return str(node.run(f"env KATTILA_ENV={AGENT_ENV} {program} {' '.join(flags)}").stdout)


def main_process(node: Host, unit: str) -> str:
    return str(node.check_output("systemctl show --property=MainPID --value %s", unit))


def process_status(node: Host, unit: str) -> dict[str, str]:
    """Return /proc/PID/status of a unit's main process by field: ids, capabilities and others."""
    status = node.check_output("cat /proc/%s/status", main_process(node, unit))
    return dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))


def run_as_agent(node: Host, *words: str) -> str:
    """Run a program in the agent's namespaces, as its user and without privileges; return its output.

    Fails if the program did not run as the agent's user, because an empty output would then prove nothing.
    """
    namespaces = ["nsenter", f"--target={main_process(node, 'kattila-agent')}", "--mount", "--net"]
    user = ["setpriv", "--reuid=kattila-agent", "--regid=kattila-agent", "--clear-groups", "--no-new-privs"]
    command = [*namespaces, *user, "--bounding-set=-all", "--inh-caps=-all", "--", "sh", "-c", IDENTIFY_AND_RUN, *words]
    output = str(node.run(" ".join(["%s"] * len(command)), *command).stdout)
    assert output.startswith("kattila-agent\n"), f"the program did not run as the agent's user: {output!r}"
    return output.removeprefix("kattila-agent\n")


def wireguard_column(node: Host, column: str) -> set[str]:
    """Return a column of `wg show all` for all interfaces."""
    return {line.split()[1] for line in node.run("wg show all %s", column).stdout.splitlines()} - {"(none)"}


def secret_digests(node: Host) -> set[str]:
    """Return the SHA-256 of each private and preshared key on the node."""
    return set(map(_digest, {*wireguard_column(node, "private-key"), *_preshared_keys(node)}))


def _preshared_keys(node: Host) -> Iterator[str]:
    for line in node.run("wg show all preshared-keys").stdout.splitlines():
        if (key := line.split()[-1]) != "(none)":
            yield key


def key_digests(text: str) -> set[str]:
    """Return the SHA-256 of each word in a text that has the form of a WireGuard key."""
    return set(map(_digest, re.findall(r"[A-Za-z0-9+/]{43}=", text)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def manager_json(manager: Host, *words: str) -> Any:
    """Run `kattila-manager` on the manager's node and return its JSON output."""
    command = " ".join(["%s"] * len(words))
    return json.loads(manager.check_output(f"{MANAGER} {command}", *words))
