"""Boots a lab: generates secrets, creates namespaces, boots nodes, configures tunnels."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fleet import access, certificate, files, naming, wireguard, wiring
from fleet.place import Place
from fleet.plan import Machine, Plan, forwards, tunnels
from fleet.system import LabError, group_folders, run, start

BOOT_SECONDS = 120
SUPERVISOR = Path(__file__).parent / "supervise.sh"
# Hubs and routers send no redirects: a shorter route would bypass the tunnels.
FORWARDING = (
    *("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"),
    *("net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0"),
)
Say = Callable[[str], None]


def up(plan: Plan, place: Place, lock: int, say: Say) -> None:
    """Boot the lab. Only its root file system may exist before.

    Raises:
        LabError: The lab did not come up. Its parts stay until `down`.
    """
    place.state.mkdir(mode=0o700)
    generated = generate_secrets(plan, place, lock)
    write_access(plan, place, generated)
    say(f"namespaces: {len(plan.machines)}, named {place.prefix}*")
    wire(plan, place, lock)
    say(f"nodes: {len(plan.nodes)}, booting")
    for node in plan.nodes:
        boot(plan, place, node, files.archive(plan, node, generated))
    keys = _in_parallel(_await_node, place, plan.nodes)
    public_keys = dict(zip((node.name for node in plan.nodes), keys, strict=True))
    say(f"WireGuard tunnels: {len(tunnels(plan))}")
    _in_parallel(lambda where, node: set_peers(plan, where, node, public_keys), place, plan.agents)
    place.complete.touch()


def generate_secrets(plan: Plan, place: Place, lock: int) -> files.Secrets:
    """Generate the lab's secrets; the SSH login key stays in the lab's folder for the control host."""
    login = _ssh_key(place.state / "login", "login", lock)
    (place.state / "hosts").mkdir()
    generated = files.Secrets(
        key=_random(),
        other_key=_random(),
        tsig=_random(),
        login_key=login[1],
        host_keys={node.name: _ssh_key(place.state / "hosts" / node.name, node.name, lock) for node in plan.nodes},
        machine_ids={node.name: uuid.uuid4().hex for node in plan.nodes},
        pages=certificate.generate(access.site_name(plan)),
    )
    shutil.rmtree(place.state / "hosts")
    return generated


def _random() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _ssh_key(path: Path, comment: str, lock: int) -> tuple[str, str]:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], lock)
    return path.read_text(), path.with_suffix(".pub").read_text()


def write_access(plan: Plan, place: Place, generated: files.Secrets) -> None:
    """Write the control host's files, readable only by root."""
    texts = {
        "ssh_config": access.ssh_settings(plan, place.state),
        "known_hosts": access.known_hosts(generated.host_keys),
        "inventory.yml": access.inventory(plan, place.state),
        "key": generated.key,
        "pages.pem": generated.pages.certificate,
        "update.key": naming.update_key(generated.tsig),
    }
    for name, text in texts.items():
        (place.state / name).write_text(text)
    resolver = Path("/etc/netns") / place.name(plan.control) / "resolv.conf"
    resolver.parent.mkdir(parents=True, exist_ok=True)
    resolver.write_text(naming.resolver_settings(plan, (4, 6)))


def wire(plan: Plan, place: Place, lock: int) -> None:
    """Create all namespaces and the links between them."""
    for machine in plan.machines:
        run(["ip", "netns", "add", place.name(machine.name)], lock)
    for machine in plan.machines:
        settings = ["net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.all.accept_ra=0"]
        if forwards(plan, machine):
            settings += FORWARDING
        run(["ip", "netns", "exec", place.name(machine.name), "sysctl", "-q", "-w", *settings], lock)
    for name, lines in wiring.batches(plan, place.name).items():
        run(["ip", "-n", place.name(name), "-batch", "-"], lock, stdin=lines.encode())


def boot(plan: Plan, place: Place, node: Machine, archive: bytes | None = None) -> None:
    """Start a node. archive: a tar archive of files to write to its disk first."""
    folder = place.node(node.name)
    folder.mkdir(parents=True, exist_ok=True)
    if archive is not None:
        (folder / "files.tar").write_bytes(archive)
    name = place.name(node.name)
    words = ["unshare", "--mount", "sh", str(SUPERVISOR), str(place.root), str(folder), name, node.name]
    start(words, group_folders(name), folder / "console")


def _await_node(place: Place, node: Machine) -> str:
    """Wait until a node is up, and return its WireGuard public key; empty if it has no tunnels."""
    deadline = time.monotonic() + BOOT_SECONDS
    await_ssh(place, node.name, deadline)
    state = remote(place, node.name, "systemctl is-system-running --wait || true").strip()
    if state != "running":
        failed = remote(place, node.name, "systemctl --failed --plain --no-legend").strip()
        raise LabError(f"{node.name} is {state}: {failed or 'no unit failed'}")
    return remote(place, node.name, f"cat {wireguard.FOLDER}/{wireguard.INTERFACE}.pub").strip() if node.site else ""


def await_ssh(place: Place, node: str, deadline: float) -> None:
    """Wait until SSH to a node works.

    Raises:
        LabError: It did not work before the deadline (of the monotonic clock).
    """
    while True:
        try:
            remote(place, node, "true")
        except LabError as refused:
            if time.monotonic() > deadline:
                console = place.node(node) / "console"
                raise LabError(f"{node} does not answer: {refused}; its console: {console}") from refused
            time.sleep(0.3)
        else:
            return


def set_peers(plan: Plan, place: Place, node: Machine, public_keys: Mapping[str, str]) -> str:
    """Configure a node's WireGuard peers."""
    interface, folder = wireguard.INTERFACE, wireguard.FOLDER
    text = wireguard.configuration(plan, node.name, public_keys)
    command = f"umask 077; cat >{folder}/{interface}.conf; systemctl reload wireguard-go@{interface}"
    return remote(place, node.name, command, text)


def remote(place: Place, node: str, command: str, stdin: str = "", seconds: float = 60) -> str:
    """Run a shell command on a node over SSH from the control host, and return its output."""
    settings = str(place.state / "ssh_config")
    return run([*inside(place, "control"), "ssh", "-F", settings, node, command], stdin=stdin.encode(), seconds=seconds)


def inside(place: Place, machine: str) -> tuple[str, ...]:
    """Return the command prefix that runs a command in a machine's network, with its resolver."""
    return "ip", "netns", "exec", place.name(machine)


def control_environment(place: Place) -> dict[str, str]:
    return access.environment(place.checkout, place.state, os.environ)


def _in_parallel(task: Callable[[Place, Machine], str], place: Place, machines: Iterable[Machine]) -> list[str]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda machine: task(place, machine), machines))
