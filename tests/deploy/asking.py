"""What the promises ask of a node. Secrets stay there: what comes back is a count, or names that are none."""

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

# Prints how many lines there are in the journal of our units that hold one of our secrets.
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
for what in ("private-key", "preshared-keys"):
    try:
        shown = subprocess.run(["wg", "show", "all", what], capture_output=True, text=True).stdout
    except FileNotFoundError:
        continue
    secrets |= {line.split()[-1] for line in shown.splitlines()} - {"(none)"}
journal = ["journalctl", "--no-pager", "--output=cat", "--unit=kattila-*"]
lines = subprocess.run(journal, capture_output=True, text=True, check=True).stdout.splitlines()
assert secrets and lines
print(sum(any(secret in line for secret in secrets) for line in lines))
"""

# Prints which of the sockets of userspace WireGuard let it in.
OPEN_SOCKETS = r"""
import pathlib, socket
for path in pathlib.Path("/run/wireguard").glob("*.sock"):
    try:
        socket.socket(socket.AF_UNIX).connect(str(path))
        print(path)
    except OSError:
        pass
"""

# Prints who it is, and then does what it is told, which has to be there.
AND_WHO_IT_IS = 'id --user --name; command -v "$0" >/dev/null || exec echo "$0 is not there"; exec "$0" "$@"'

# Prints what the helper tells.
ASK_HELPER = r"""
import socket, sys
asking = socket.socket(socket.AF_UNIX)
asking.connect("/run/kattila/wireguard.sock")
while got := asking.recv(65536):
    sys.stdout.write(got.decode())
"""


# Prints the status of the answer to who asks the manager for its agents and shows no token.
ASK_WITHOUT_TOKEN = r"""
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1] + "/status/agents").status)
except urllib.error.HTTPError as refused:
    print(refused.code)
"""

# Restores the newest backup, to a place where it does no harm, and looks at all that is in it.
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
    """The last that a unit said, for who has to find out why it is down."""
    return f"\n{node.run('journalctl --unit=%s --lines=20 --no-pager --output=short', unit).stdout}"


def setting(node: Host, file: str, name: str, default: str) -> str:
    """What a file of settings says."""
    found = re.search(rf"^{name}='?([^'\n]+)", node.file(file).content_string, re.MULTILINE)
    return found[1] if found else default


def listening(node: Host, user: str) -> set[str]:
    """Where a user's programs take connections, as ADDRESS:PORT with * for all addresses."""
    number = node.check_output("id --user %s", user)
    lines = [line.split() for line in node.check_output("ss -Hltne").splitlines()]
    return addresses(words[3] for words in lines if f"uid:{number}" in words)


def addresses(told: Iterable[str]) -> set[str]:
    """ADDRESS:PORT in one spelling."""
    return {re.sub(r"^(0\.0\.0\.0|\[::\]):", "*:", each) for each in told}


def belongs(node: Host, path: str) -> str:
    """Owner, group and mode of a file, as in `root root 755`."""
    return str(node.check_output("stat --format='%%U %%G %%a' %s", path))


def exposure(node: Host, unit: str) -> float:
    """How open a unit is, from 0 to 10, in the judgement of systemd."""
    said = node.check_output("systemd-analyze security --no-pager %s", unit)
    return float(re.findall(r"Overall exposure level for \S+: ([0-9.]+)", said)[0])


def agent(node: Host, *flags: str) -> str:
    """What the agent prints that is on the node, run as its unit runs it."""
    unit = node.file("/etc/systemd/system/kattila-agent.service").content_string
    (program,) = re.findall(r"^ExecStart=(.*)", unit, re.MULTILINE)
    return str(node.run(f"env KATTILA_ENV={AGENT_ENV} {program} {' '.join(flags)}").stdout)


def main_process(node: Host, unit: str) -> str:
    return str(node.check_output("systemctl show --property=MainPID --value %s", unit))


def standing_of(node: Host, unit: str) -> dict[str, str]:
    """What the kernel says of a unit's main process: its ids, capabilities and what else /proc/PID/status has."""
    status = node.check_output("cat /proc/%s/status", main_process(node, unit))
    return dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))


def as_agent(node: Host, *words: str) -> str:
    """What a program prints that runs where the agent does, as its user and without privilege, as the agent is.

    That it does is asked as well: of a program that does not run at all, nothing can be learned.
    """
    where = ["nsenter", f"--target={main_process(node, 'kattila-agent')}", "--mount", "--net"]
    who = ["setpriv", "--reuid=kattila-agent", "--regid=kattila-agent", "--clear-groups", "--no-new-privs"]
    command = [*where, *who, "--bounding-set=-all", "--inh-caps=-all", "--", "sh", "-c", AND_WHO_IT_IS, *words]
    said = str(node.run(" ".join(["%s"] * len(command)), *command).stdout)
    assert said.startswith("kattila-agent\n"), f"nothing runs as the agent does: {said!r}"
    return said.removeprefix("kattila-agent\n")


def wireguard(node: Host, what: str) -> set[str]:
    """A column of `wg show all`, of all interfaces."""
    return {line.split()[1] for line in node.run("wg show all %s", what).stdout.splitlines()} - {"(none)"}


def secret_digests(node: Host) -> set[str]:
    """SHA-256 of each private and preshared key on the node."""
    return set(map(_digest, {*wireguard(node, "private-key"), *_preshared(node)}))


def _preshared(node: Host) -> Iterator[str]:
    for line in node.run("wg show all preshared-keys").stdout.splitlines():
        if (key := line.split()[-1]) != "(none)":
            yield key


def key_digests(text: str) -> set[str]:
    """SHA-256 of all in a text that looks like a key of WireGuard."""
    return set(map(_digest, re.findall(r"[A-Za-z0-9+/]{43}=", text)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def manager_says(manager: Host, *words: str) -> Any:
    """What `kattila-manager` answers, on its node."""
    command = " ".join(["%s"] * len(words))
    return json.loads(manager.check_output(f"{MANAGER} {command}", *words))
