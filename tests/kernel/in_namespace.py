"""Commands that run in a namespace of the virtual machine: `in_namespace.py COMMAND ARGUMENT...` prints JSON.

The output of `wg show all dump` is the reference for the agent's readers. It is parsed here, independently of them.
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

from kattila_agent.collectors import link_table
from kattila_agent.collectors.netlink import genetlink, transport
from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.collectors.wireguard import collector, kernel
from kattila_agent.collectors.wireguard.builder import PeerLimits, VanishedError, build
from kernel.mesh import run

HELPER = Path("/run/kattila/wireguard.sock")
NOWHERE = Path("/nonexistent.sock")
LIMITS = PeerLimits(peers=2_000, allowed_ips=20_000)
NOBODY = 65534
# linux/genetlink.h, GENL_ID_CTRL
CONTROLLER = 16


def echo(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 7007))
        while True:
            server.sendto(*server.recvfrom(2048))


def send(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        for _ in range(60):
            client.sendto(bytes(1000), (address, 7007))
            try:
                print(json.dumps(len(client.recv(2048))))
                return
            except TimeoutError:
                continue
    raise RuntimeError(f"no answer from {address} through the tunnel")


def parse_dump(text: str) -> list[dict[str, Any]]:
    """Return the output of `wg show all dump` as a report has it, with peers sorted by public key."""
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


def collect(helper: Path) -> tuple[list[dict[str, Any]], tuple[Any, ...]]:
    """Return the collector's interfaces as JSON values, and its cuts and failures."""
    found = collector.collect(helper, LIMITS, lambda: 7)
    shown = [
        {name: getattr(interface, name) for name in ("name", "public_key", "listen_port", "fwmark", "peers")}
        for interface in sorted(found.items, key=lambda interface: interface.name)
    ]
    as_json: list[dict[str, Any]] = json.loads(json.dumps(shown))
    return as_json, (*found.cuts, *found.failures)


def compare() -> None:
    """Print the output of both readers and the dump, taken while nothing changed."""
    logging.basicConfig(level=logging.DEBUG)
    for _ in range(20):
        # Compare parsed dumps: wireguard-go lists its peers in a different order each time.
        before = parse_dump(run("wg", "show", "all", "dump"))
        started = time.process_time()
        netlink, problems = collect(NOWHERE)
        seconds = time.process_time() - started
        try:
            helped, helper_problems = collect(HELPER)
        except UnreadableError:
            # Under emulation on a busy machine the helper may exceed the agent's timeout.
            continue
        if before == parse_dump(run("wg", "show", "all", "dump")):
            break
    else:
        raise RuntimeError("the devices kept changing, or the helper never answered")
    messages = {link.name: len(kernel.read(link.index)) for link in link_table.read_kind("wireguard")}
    answer = {
        "dump": before,
        "netlink": netlink,
        "helper": helped,
        "problems": [str(each) for each in (*problems, *helper_problems)],
    }
    print(json.dumps(answer | {"messages": messages, "ms": round(seconds * 1000, 1)}))


def unprivileged() -> None:
    """Print what an unprivileged agent reads without and with the helper."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    alone = collector.collect(NOWHERE, LIMITS, lambda: 7)
    helped = collector.collect(HELPER, LIMITS, lambda: 7)
    print(json.dumps([len(alone.items), list(alone.failures), [each.name for each in helped.items], helped.failures]))


def missing() -> None:
    """Print the outcome of reading a missing device, and a link of another kind."""
    outcomes = []
    for index in (4_000, socket.if_nametoindex("up0")):
        try:
            outcomes.append(f"{len(kernel.read(index))} messages")
        except VanishedError:
            outcomes.append("vanished")
    print(json.dumps(outcomes))


class ChangingSocket(socket.socket):
    """A netlink socket that changes the device as soon as the first message of its dump arrives."""

    changes: ClassVar[list[list[str]]] = []

    def recvmsg(self, *arguments: int) -> Any:
        received = super().recvmsg(*arguments)
        # Not for the controller's answer, which holds the number of the WireGuard family.
        if int.from_bytes(received[0][4:6], sys.byteorder) > CONTROLLER and not self.changed and self.changes:
            self.changed = True
            run(*self.changes.pop())
        return received

    changed = False


def read_while_changing(device: str, public_key: str) -> None:
    """Read a device that changes between two messages of its dump: once, and every time."""
    index = next(link.index for link in link_table.read_kind("wireguard") if link.name == device)
    genetlink.open_socket = open_changing_socket
    change = ["wg", "set", device, "peer", public_key, "persistent-keepalive"]
    outcomes: list[str] = []
    for changes in ([[*change, "7"]], [[*change, "8"]], [[*change, str(number)] for number in range(10, 15)]):
        ChangingSocket.changes = changes
        read = kernel._dump if len(outcomes) == 0 else kernel.read
        try:
            builder = kernel.parse(index, device, read(index), LIMITS)
            peer = build([builder], LIMITS).items[0].peers[0]
            outcomes.append(f"{len(peer.allowed_ips)} prefixes, keepalive {peer.persistent_keepalive}")
        except (transport.Interrupted, UnreadableError) as error:
            outcomes.append(str(error))
    print(json.dumps(outcomes))


def open_changing_socket() -> socket.socket:
    opened = ChangingSocket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
    opened.settimeout(5)
    return opened


COMMANDS: dict[str, Callable[..., None]] = {
    "compare": compare,
    "unprivileged": unprivileged,
    "missing": missing,
    "changes": read_while_changing,
    "echo": echo,
    "send": send,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
