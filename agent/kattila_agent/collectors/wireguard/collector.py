"""Chooses the reader of each WireGuard interface, and says why an interface could not be read.

If the helper's socket exists, everything is read through the helper: its agent runs without privilege. Otherwise kernel
devices are read over netlink, and userspace devices through their own sockets.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kattila_agent.collectors import link_table
from kattila_agent.collectors.limits import Bounded, some
from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.collectors.wireguard import helper, kernel, userspace
from kattila_agent.collectors.wireguard.builder import InterfaceBuilder, PeerLimits, VanishedError, build
from kattila_protocol.report import WireguardInterface

_NOT_REPORTED = "the WireGuard helper did not report this interface: does it run in this network namespace?"
_NEEDS_PRIVILEGE = (
    "reading WireGuard needs root or the helper, whose socket {} does not exist: install the helper's units, or set "
    "WIREGUARD_HELPER"
)
_AT_ONCE = 4

# The interfaces that were read, and why others could not be, by name.
_Interfaces = tuple[list[InterfaceBuilder], dict[str, str]]


@dataclass(frozen=True, order=True, slots=True)
class Device:
    """A WireGuard interface: its index, its name as reported, and its socket if it is a userspace device."""

    index: int
    name: str
    socket: Path | None = None


def collect(
    helper_socket: Path, limits: PeerLimits, now: Callable[[], int], folder: Path = userspace.FOLDER
) -> Bounded[WireguardInterface]:
    """Read all WireGuard interfaces of this network namespace, in the kernel's order.

    `now` is the node's clock (ms UTC). `folder` contains the sockets of userspace devices.

    Raises:
        UnreadableError: the helper's socket exists, but the helper gives no usable answer.
        OSError, ValueError: the links cannot be read, see `link_table.read_kind`.
    """
    devices = _read_devices(folder)
    if not devices:
        return Bounded(())
    if _may_exist(helper_socket):
        builders, reasons = _read_helper(helper_socket, devices, limits, now, lambda: _read_devices(folder))
    else:
        builders, reasons = _read_with_privilege(helper_socket, devices, limits, now)
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        names[reason].append(name)
    failures = tuple(f"{some(failed)}: {reason}" for reason, failed in names.items())
    return replace(build(builders, limits), failures=failures)


def _read_devices(folder: Path) -> list[Device]:
    devices = [Device(link.index, link.name) for link in link_table.read_kind("wireguard")]
    for link in link_table.read_kind("tun"):
        raw_name = link.message.raw("IFLA_IFNAME").partition(b"\0")[0]
        path = folder / f"{raw_name.decode('utf-8', 'surrogateescape')}.sock"
        if _may_exist(path):
            devices.append(Device(link.index, link.name, path))
    return sorted(devices)


def _may_exist(path: Path) -> bool:
    # Since Python 3.14, Path.exists() also returns False if the folder must not be searched.
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read_helper(
    path: Path,
    devices: Collection[Device],
    limits: PeerLimits,
    now: Callable[[], int],
    read_devices: Callable[[], Collection[Device]],
) -> _Interfaces:
    try:
        answer = helper.read(path)
        read_at = now()
        found, unreadable = helper.parse(answer, limits)
    except ValueError as error:
        raise UnreadableError(f"the WireGuard helper's dump is malformed: {error}") from None
    # Sockets of userspace devices know no network namespaces, so only interfaces that have a link here are reported.
    builders = [replace(found[device.name], read_at=read_at) for device in devices if device.name in found]
    missing = [device for device in devices if device.name not in found]
    # An interface that was removed meanwhile is not a failure.
    still_there = {device.name for device in read_devices()} if missing else set()
    reasons = {
        device.name: unreadable.get(device.name, _NOT_REPORTED) for device in missing if device.name in still_there
    }
    return builders, reasons


def _read_with_privilege(
    helper_socket: Path, devices: Sequence[Device], limits: PeerLimits, now: Callable[[], int]
) -> _Interfaces:
    """Read the devices, several userspace devices at once, so that the slowest one determines how long it takes."""
    found: dict[Device, InterfaceBuilder] = {}
    reasons: dict[Device, str] = {}
    waiting = iter(devices)

    def work() -> None:
        for device in waiting:
            try:
                builder = (
                    kernel.parse(device.index, device.name, kernel.read(device.index), limits)
                    if device.socket is None
                    else userspace.parse(device.name, userspace.read(device.socket), limits)
                )
                found[device] = replace(builder, read_at=now())
            except VanishedError:
                continue
            except PermissionError:
                reasons[device] = _NEEDS_PRIVILEGE.format(helper_socket)
            except Exception as error:
                reasons[device] = str(error)

    userspace_devices = sum(device.socket is not None for device in devices)
    others = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, userspace_devices) - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    # In the order of the devices, not of the threads.
    return [found[each] for each in devices if each in found], {each.name: reasons[each] for each in sorted(reasons)}
