"""Turns the plan and the secrets of a lab into the files that each node has before it boots. Pure."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from fleet import certificate, naming, wireguard
from fleet.plan import ADMIN, Machine, Plan, families

SYSTEM_UNITS = "etc/systemd/system"


@dataclass(frozen=True)
class Secrets:
    """Secrets that are generated for each lab.

    key: the fleet's PSK. other_key: the PSK in the other DNS server's record. tsig: base64. login_key: the public SSH
    key that may log in. host_keys: by node, the texts of the private and the public SSH key file. pages: the
    certificate of the nginx site.
    """

    key: str
    other_key: str
    tsig: str
    login_key: str
    host_keys: dict[str, tuple[str, str]]
    machine_ids: dict[str, str]
    pages: certificate.Certificate


@dataclass(frozen=True)
class File:
    """A file on a node.

    path: relative to the node's root folder. group: the name of a group on the node.
    """

    path: str
    text: str
    mode: int = 0o644
    group: str = "root"


def node_files(plan: Plan, machine: Machine, secrets: Secrets) -> tuple[File, ...]:
    return (
        *_identity(plan, machine, secrets),
        *(_tunnel(plan, machine) if machine.overlay is not None else ()),
        *(_name_servers(plan, secrets) if machine.name == plan.resolver else ()),
        *(_certificate(secrets) if machine.name == plan.manager else ()),
    )


def _identity(plan: Plan, machine: Machine, secrets: Secrets) -> Iterator[File]:
    private, public = secrets.host_keys[machine.name]
    yield File("etc/hostname", f"{machine.name}\n")
    yield File("etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {machine.name}\n")
    yield File("etc/machine-id", f"{secrets.machine_ids[machine.name]}\n", 0o444)
    yield File("etc/resolv.conf", naming.resolver_settings(plan, families(machine)))
    yield File("root/.ssh/authorized_keys", secrets.login_key, 0o600)
    yield File(f"home/{ADMIN}/.ssh/authorized_keys", secrets.login_key)
    yield File("etc/ssh/ssh_host_ed25519_key", private, 0o600)
    yield File("etc/ssh/ssh_host_ed25519_key.pub", public)


def _tunnel(plan: Plan, machine: Machine) -> Iterator[File]:
    folder = wireguard.FOLDER.lstrip("/")
    yield File(f"{SYSTEM_UNITS}/wireguard-go@.service", wireguard.UNIT)
    yield File(f"{folder}/up", wireguard.UP, 0o755)
    yield File(f"{folder}/{wireguard.INTERFACE}.ip", wireguard.address_lines(plan, machine))


def _name_servers(plan: Plan, secrets: Secrets) -> Iterator[File]:
    first, other = naming.servers(plan)
    yield File(f"{SYSTEM_UNITS}/knot-other.service", naming.OTHER_UNIT)
    yield File("etc/knot/knot.conf", naming.knot_settings(plan, first, secrets.tsig), 0o640, "knot")
    yield File("etc/knot/other.conf", naming.knot_settings(plan, other, secrets.tsig), 0o640, "knot")
    yield File("etc/knot/update.key", naming.update_key(secrets.tsig), 0o600)
    yield File(f"var/lib/{first.folder}/{plan.zone}.zone", naming.zone(plan, secrets.key), 0o660, "knot")
    yield File(f"var/lib/{other.folder}/{plan.zone}.zone", naming.zone(plan, secrets.other_key), 0o660, "knot")


def _certificate(secrets: Secrets) -> Iterator[File]:
    yield File(certificate.FILE, secrets.pages.certificate)
    yield File(certificate.KEY_FILE, secrets.pages.key, 0o600)


def enabled_units(plan: Plan, machine: Machine) -> tuple[str, ...]:
    """Return the units to enable in addition to those of the root file system."""
    tunnel = (f"wireguard-go@{wireguard.INTERFACE}.service",) if machine.overlay is not None else ()
    return tunnel + (("knot.service", "knot-other.service") if machine.name == plan.resolver else ())


def archive(plan: Plan, machine: Machine, secrets: Secrets) -> bytes:
    """Return the files as a tar archive with owners by name; existing folders on the node stay unchanged."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for file in node_files(plan, machine, secrets):
            _add(tar, file)
        for unit in enabled_units(plan, machine):
            template = unit.partition("@")[0] + "@.service" if "@" in unit else unit
            link = tarfile.TarInfo(f"{SYSTEM_UNITS}/multi-user.target.wants/{unit}")
            link.type, link.linkname = tarfile.SYMTYPE, _unit_path(template)
            tar.addfile(link)
    return target.getvalue()


def _unit_path(unit: str) -> str:
    return f"/lib/systemd/system/{unit}" if unit == "knot.service" else f"/{SYSTEM_UNITS}/{unit}"


def _add(tar: tarfile.TarFile, file: File) -> None:
    content = file.text.encode()
    entry = tarfile.TarInfo(file.path)
    entry.size, entry.mode = len(content), file.mode
    entry.uname, entry.gname = "root", file.group
    tar.addfile(entry, io.BytesIO(content))
