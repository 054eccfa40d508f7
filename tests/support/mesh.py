"""Nodes in network namespaces, joined by an underlay and by real WireGuard tunnels, and a real manager among them.

The underlay is one segment: a bridge in a namespace of its own, where the manager is, too. Each node has a wireguard-go
device with an address in one overlay, and a peer for each tunnel; agents run in the nodes' namespaces, as processes.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.agent_folder import keep_ring
from support.agent_process import AGENT, Daemon
from support.manager import Manager
from support.netns import Namespace, new_namespace
from support.reports import PSK
from support.wireguard import Device, new_device

MANAGER_ADDRESS = "198.51.100.1"
MANAGER_PORT = 5086
# Fast enough for a test, slow enough for two cores.
INTERVAL_SECONDS = 2


class MeshNode:
    """One node: its namespace, its two addresses, its device, its state folder, and its agent once that runs."""

    def __init__(self, number: int, name: str, namespace: Namespace, device: Device, folder: Path) -> None:
        """Take what was made for it; `number` tells its addresses."""
        self.name = name
        self.namespace = namespace
        self.device = device
        self.folder = folder
        self.underlay = f"198.51.100.{10 + number}"
        self.overlay = f"203.0.113.{10 + number}"
        self.daemon: Daemon | None = None

    @property
    def agent_id(self) -> str:
        """Return the id that it has now, empty while it has none."""
        kept = self.folder / "agent_id.txt"
        return kept.read_text().strip() if kept.exists() else ""

    @property
    def waiting(self) -> list[int]:
        """Return the numbers of the samples that wait on its disk."""
        return sorted(int(path.name) for path in (self.folder / "spool").glob("[0-9]" * 16))

    @property
    def log(self) -> str:
        """Return what its agent logged so far."""
        return self.daemon.log if self.daemon else ""

    def settings(self, **more: str) -> dict[str, str]:
        """Return the settings of its agent."""
        return {
            "DNS": "kattila.example.org",
            "DNS_SERVER": "127.0.0.1:9",
            "MANAGER_URL": f"http://{MANAGER_ADDRESS}:{MANAGER_PORT}",
            "AGENT_LISTEN": "*:5087",
            "INTERVAL": str(INTERVAL_SECONDS),
        } | more

    def start(self, **more: str) -> None:
        """Start its agent."""
        program = self.namespace.command("unshare", "--uts", "sh", "-c", f'hostname {self.name}; exec "$@"', "sh")
        self.daemon = Daemon(self.folder, program=[*program, *AGENT], **self.settings(**more))

    def stop(self) -> None:
        """Kill its agent, if it runs."""
        if self.daemon is not None and self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()

    def block(self, address: str = MANAGER_ADDRESS) -> None:
        """Let it have no route to an address of the underlay."""
        self.namespace.ip("route", "add", "blackhole", f"{address}/32")

    def unblock(self, address: str = MANAGER_ADDRESS) -> None:
        """Take that back."""
        self.namespace.ip("route", "del", "blackhole", f"{address}/32")

    def drop(self, address: str = MANAGER_ADDRESS) -> None:
        """Let a firewall drop what it sends to an address, without a word."""
        rules = (
            "add table inet block; add chain inet block out { type filter hook output priority 0; }; "
            f"add rule inet block out ip daddr {address} drop"
        )
        subprocess.run(self.namespace.command("nft", rules), check=True)

    def stop_dropping(self) -> None:
        """Take that back."""
        subprocess.run(self.namespace.command("nft", "delete", "table", "inet", "block"), check=True)


class Mesh:
    """The nodes by name, and the manager."""

    def __init__(self, folder: Path, middle: Namespace, nodes: Mapping[str, MeshNode], manager: Manager) -> None:
        """Take what `new_mesh` made."""
        self.folder = folder
        self.middle = middle
        self.nodes = nodes
        self.manager = manager

    def __getitem__(self, name: str) -> MeshNode:
        return self.nodes[name]

    def start(self, **more: str) -> None:
        """Start the manager, and all agents."""
        self.manager.start()
        for node in self.nodes.values():
            node.start(**more)

    def paths(self, name: str) -> dict[int, list[str]]:
        """Return of each report of a node, by its sample, the names of the relays that it came through."""
        names = {node.agent_id: node.name for node in self.nodes.values()}
        rows = self._reports("sample, reports.relay_path", name)
        return {sample: [names[relay] for relay in path.split(",")] if path else [] for sample, path in rows}

    def late(self, name: str) -> dict[int, bool]:
        """Tell of each report of a node, by its sample, whether it came late."""
        return {
            sample: sampled_at is not None for sample, sampled_at in self._reports("sample, reports.sampled_at", name)
        }

    def _reports(self, columns: str, name: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? ORDER BY sample"
        return self.manager.rows(query, self[name].agent_id)

    def wait_until(self, condition: Any, seconds: float) -> None:
        """Wait until something holds, and say what the agents logged if it does not."""
        deadline = time.monotonic() + seconds
        while not condition():
            logs = "".join(f"--- {node.name}\n{node.log[-3000:]}\n" for node in self.nodes.values())
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{logs}"
            time.sleep(0.1)

    def has_all(self, name: str, last: int, seconds: float) -> None:
        """Wait until the manager has every sample of a node up to the last, each once."""
        self.wait_until(lambda: set(self.paths(name)) >= set(range(1, last + 1)), seconds)
        samples = [sample for sample, _ in self._reports("sample, tick", name)]
        assert len(samples) == len(set(samples))

    def arrives(self, name: str, path: list[str], seconds: float) -> int:
        """Wait for a report newer than all there are that came this way, and return its sample."""
        before = max(self.paths(name), default=0)
        self.wait_until(lambda: path in [way for sample, way in self.paths(name).items() if sample > before], seconds)
        return max(sample for sample, way in self.paths(name).items() if way == path)


def full_mesh(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return a tunnel for each pair."""
    ordered = sorted(names)
    return [(first, second) for first in ordered for second in ordered if first < second]


@contextmanager
def new_mesh(folder: Path, names: Iterable[str], tunnels: Iterable[tuple[str, str]]) -> Iterator[Mesh]:
    """Make nodes and tunnels between them; nothing runs yet, and nothing stays."""
    with ExitStack() as stack:
        middle = stack.enter_context(new_namespace())
        middle.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
        middle.ip("address", "add", f"{MANAGER_ADDRESS}/24", "dev", "br0")
        middle.ip("link", "set", "br0", "up")
        middle.ip("link", "set", "lo", "up")
        nodes = {name: _new_node(stack, folder, middle, number, name) for number, name in enumerate(names, 1)}
        for first, second in tunnels:
            _join(nodes[first], nodes[second])
            _join(nodes[second], nodes[first])
        place = folder / "manager"
        place.mkdir()
        manager = Manager(place, listen=MANAGER_ADDRESS, within=middle, port=MANAGER_PORT)
        stack.callback(manager.kill)
        yield Mesh(folder, middle, nodes, manager)


def _new_node(stack: ExitStack, folder: Path, middle: Namespace, number: int, name: str) -> MeshNode:
    namespace = stack.enter_context(new_namespace())
    node = MeshNode(number, name, namespace, stack.enter_context(new_device(namespace)), folder / name)
    stack.callback(node.stop)
    node.folder.mkdir()
    keep_ring(node.folder, PSK)
    namespace.ip("link", "set", "lo", "up")
    namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", f"to{number}", "netns", middle.name)
    middle.ip("link", "set", f"to{number}", "master", "br0", "up")
    namespace.ip("address", "add", f"{node.underlay}/24", "dev", "eth0")
    namespace.ip("link", "set", "eth0", "up")
    node.device.set("listen-port", "51820")
    namespace.ip("address", "add", f"{node.overlay}/24", "dev", node.device.name)
    namespace.ip("link", "set", node.device.name, "up")
    return node


def _join(node: MeshNode, peer: MeshNode) -> None:
    words = ("peer", peer.device.public_key, "endpoint", f"{peer.underlay}:51820", "allowed-ips", f"{peer.overlay}/32")
    node.device.set(*words)
