"""Which reader reads which interface, and what becomes of one that cannot be read.

May live here: the choice, in one place. Where the helper's socket is, everything is read through it: an agent that has
one runs without privilege. Else kernel devices are read over netlink and userspace devices through their own socket.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from kattila_agent.collectors.bounds import Bounded, some
from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.collectors.wireguard import helper, kernel, links, userspace
from kattila_agent.collectors.wireguard.gathering import Gathering, Limits, VanishedError, told
from kattila_agent.collectors.wireguard.links import Link
from kattila_protocol.report import WireguardInterface

_NOT_TOLD = "the WireGuard helper does not tell of it: does it run in this network namespace?"
_AT_ONCE = 4


def collect(helper_socket: Path, limits: Limits, folder: Path = userspace.FOLDER) -> Bounded[WireguardInterface]:
    """Read all WireGuard interfaces of this network namespace, in the order of the kernel's links.

    `folder` is where userspace devices have their sockets.

    Raises:
        UnreadableError: the helper's socket is there but the helper gives no usable answer.
        OSError, ValueError: the kernel does not tell its links.
    """
    devices = _devices(folder)
    if not devices:
        return Bounded(())
    if _may_exist(helper_socket):
        gathered, reasons = _through_helper(helper_socket, devices, limits, lambda: _devices(folder))
    else:
        gathered, reasons = _with_privilege(helper_socket, devices, limits)
    return replace(told(gathered, limits), failures=_failures(reasons))


def _devices(folder: Path) -> dict[Link, Path | None]:
    """Return the WireGuard links, kernel devices with None, userspace devices with their socket."""
    found: dict[Link, Path | None] = dict.fromkeys(links.read("wireguard"))
    for link in links.read("tun"):
        path = folder / f"{link.raw_name.decode('utf-8', 'surrogateescape')}.sock"
        if _may_exist(path):
            found[link] = path
    return dict(sorted(found.items()))


def _may_exist(path: Path) -> bool:
    # Path.exists() takes a folder that may not be searched for an empty one, since Python 3.14.
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _through_helper(
    path: Path, devices: Iterable[Link], limits: Limits, devices_now: Callable[[], Iterable[Link]]
) -> tuple[list[Gathering], dict[str, str]]:
    # Of what the helper tells only what has a link here: userspace sockets know no network namespaces.
    try:
        found, unreadable = helper.parse(helper.read(path), limits)
    except ValueError as error:
        raise UnreadableError(f"the WireGuard helper's dump is malformed: {error}") from None
    gathered = [found[link.name] for link in devices if link.name in found]
    missing = [link for link in devices if link.name not in found]
    # What went away meanwhile is no failure.
    still_there = {link.name for link in devices_now()} if missing else set()
    reasons = {link.name: unreadable.get(link.name, _NOT_TOLD) for link in missing if link.name in still_there}
    return gathered, reasons


def _with_privilege(
    helper_socket: Path, devices: Mapping[Link, Path | None], limits: Limits
) -> tuple[list[Gathering], dict[str, str]]:
    gathered: list[Gathering] = []
    reasons: dict[str, str] = {}
    for link, outcome in _outcomes(devices, limits):
        match outcome:
            case Gathering():
                gathered.append(outcome)
            case VanishedError():
                continue
            case PermissionError():
                reasons[link.name] = (
                    f"reading WireGuard needs root, or the helper, whose socket {helper_socket} is not there: "
                    "install its units, or set WIREGUARD_HELPER"
                )
            case _:
                reasons[link.name] = str(outcome)
    return gathered, reasons


def _outcomes(devices: Mapping[Link, Path | None], limits: Limits) -> list[tuple[Link, Gathering | Exception]]:
    """Read the devices; one that never answers keeps the others waiting no longer than itself."""
    found: dict[Link, Gathering | Exception] = {}
    waiting = iter(devices.items())

    def work() -> None:
        for link, path in waiting:
            found[link] = _outcome(_reader(link, path, limits))

    userspace_devices = sum(path is not None for path in devices.values())
    others = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, userspace_devices) - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    return [(link, found[link]) for link in devices]


def _outcome(reader: Callable[[], Gathering]) -> Gathering | Exception:
    try:
        return reader()
    except Exception as error:
        return error


def _reader(link: Link, path: Path | None, limits: Limits) -> Callable[[], Gathering]:
    if path is None:
        return lambda: kernel.parse(link.index, link.name, kernel.read(link.index), limits)
    return lambda: userspace.parse(link.name, userspace.read(path), limits)


def _failures(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Say each reason once, with the interfaces that it holds for."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        names[reason].append(name)
    return tuple(f"{some(those)}: {reason}" for reason, those in names.items())
