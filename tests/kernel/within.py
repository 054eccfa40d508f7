"""What runs inside of a namespace of the virtual machine: `within.py WORD ARGUMENT...` prints JSON.

May live here: reading devices there, with `wg show all dump` as the judge, taken apart here anew. Standard library and
the agent's own packages only.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from kattila_agent.collectors.netlink import genetlink, rtnetlink
from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.collectors.wireguard import collector, kernel, links
from kattila_agent.collectors.wireguard.gathering import Limits, VanishedError, told
from kernel.mesh import run

HELPER = Path("/run/kattila/wireguard.sock")
NOWHERE = Path("/nonexistent.sock")
LIMITS = Limits(peers=2_000, allowed_ips=20_000)
NOBODY = 65534
# linux/genetlink.h, GENL_ID_CTRL
CONTROLLER = 16


def echo(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind((address, 7007))
        while True:
            heard.sendto(*heard.recvfrom(2048))


def ask(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(0.5)
        for _ in range(60):
            asked.sendto(bytes(1000), (address, 7007))
            try:
                print(json.dumps(len(asked.recv(2048))))
                return
            except TimeoutError:
                continue
    raise RuntimeError(f"no answer from {address} through the tunnel")


def dumped(text: str) -> list[dict[str, Any]]:
    """Return what `wg show all dump` says, in the words of a report, peers by public key."""
    found: dict[str, dict[str, Any]] = {}
    for columns in (line.split("\t") for line in text.splitlines()):
        if len(columns) == 5:
            name, _, public_key, port, fwmark = columns
            found[name] = {
                "name": name,
                "public_key": "" if public_key == "(none)" else public_key,
                "listen_port": int(port),
                "fwmark": 0 if fwmark == "off" else int(fwmark, 16),
                "peers": [],
            }
        else:
            name, public_key, preshared, endpoint, allowed, handshake, received, sent, keepalive = columns
            prefixes = [] if allowed == "(none)" else allowed.split(",")
            numbers = [int(handshake), int(received), int(sent), 0 if keepalive == "off" else int(keepalive)]
            at = None if endpoint == "(none)" else endpoint
            found[name]["peers"].append([public_key, at, prefixes, *numbers, preshared != "(none)"])
    for interface in found.values():
        interface["peers"].sort()
    return sorted(found.values(), key=lambda interface: str(interface["name"]))


def told_of(helper: Path) -> tuple[list[dict[str, Any]], tuple[Any, ...]]:
    """Return what the collector tells with the helper or without, as JSON has it, and what it cut and failed with."""
    found = collector.collect(helper, LIMITS)
    shown = [
        {name: getattr(interface, name) for name in ("name", "public_key", "listen_port", "fwmark", "peers")}
        for interface in sorted(found.items, key=lambda interface: interface.name)
    ]
    as_json: list[dict[str, Any]] = json.loads(json.dumps(shown))
    return as_json, (*found.cuts, *found.failures)


def compare() -> None:
    """Print what the readers and the judge say of this namespace at one moment: with nothing changed meanwhile."""
    logging.basicConfig(level=logging.DEBUG)
    for _ in range(20):
        # Taken apart before they are compared: wireguard-go tells its peers in another order each time.
        before = dumped(run("wg", "show", "all", "dump"))
        started = time.process_time()
        netlink, wrong = told_of(NOWHERE)
        seconds = time.process_time() - started
        try:
            helped, wrong_too = told_of(HELPER)
        except UnreadableError:
            # Emulated on a busy machine, it may take longer than an agent waits.
            continue
        if before == dumped(run("wg", "show", "all", "dump")):
            break
    else:
        raise RuntimeError("the devices never stood still, or the helper never answered")
    messages = {link.name: len(kernel.read(link.index)) for link in links.read("wireguard")}
    answer = {
        "dump": before,
        "netlink": netlink,
        "helper": helped,
        "wrong": [str(each) for each in (*wrong, *wrong_too)],
    }
    print(json.dumps(answer | {"messages": messages, "ms": round(seconds * 1000, 1)}))


def unprivileged() -> None:
    """Print what an unprivileged agent is told without and with the helper, and where the link is another's."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    alone = collector.collect(NOWHERE, LIMITS)
    helped = collector.collect(HELPER, LIMITS)
    print(json.dumps([len(alone.items), list(alone.failures), [each.name for each in helped.items], helped.failures]))


def gone() -> None:
    """Print what becomes of a device that is gone, and of a link of another kind, in the place of one."""
    outcomes = []
    for index in (4_000, socket.if_nametoindex("up0")):
        try:
            outcomes.append(f"{len(kernel.read(index))} messages")
        except VanishedError:
            outcomes.append("vanished")
    print(json.dumps(outcomes))


class Meddling(socket.socket):
    """A netlink socket; whenever it is given the first message of a device, somebody changes that device."""

    changes: ClassVar[list[list[str]]] = []

    def recvmsg(self, *arguments: int) -> Any:
        received = super().recvmsg(*arguments)
        # Not the answer to which number the family has, which is the controller's.
        if int.from_bytes(received[0][4:6], sys.byteorder) > CONTROLLER and not self.meddled and self.changes:
            self.meddled = True
            run(*self.changes.pop())
        return received

    meddled = False


def unrest(device: str, public_key: str) -> None:
    """Read a device that changes between two messages of its answer: once, and every time."""
    index = next(link.index for link in links.read("wireguard") if link.name == device)
    genetlink.open_socket = meddling
    change = ["wg", "set", device, "peer", public_key, "persistent-keepalive"]
    outcomes: list[str] = []
    for changes in ([[*change, "7"]], [[*change, "8"]], [[*change, str(number)] for number in range(10, 15)]):
        Meddling.changes = changes
        read = kernel._dump if len(outcomes) == 0 else kernel.read
        try:
            gathering = kernel.parse(index, device, read(index), LIMITS)
            peer = told([gathering], LIMITS).items[0].peers[0]
            outcomes.append(f"{len(peer.allowed_ips)} prefixes, keepalive {peer.persistent_keepalive}")
        except (rtnetlink.Interrupted, UnreadableError) as error:
            outcomes.append(str(error))
    print(json.dumps(outcomes))


def meddling() -> socket.socket:
    opened = Meddling(socket.AF_NETLINK, socket.SOCK_RAW, 16)
    opened.settimeout(5)
    return opened


WORDS: dict[str, Callable[..., None]] = {
    "compare": compare,
    "unprivileged": unprivileged,
    "gone": gone,
    "unrest": unrest,
    "echo": echo,
    "ask": ask,
}

if __name__ == "__main__":
    WORDS[sys.argv[1]](*sys.argv[2:])
