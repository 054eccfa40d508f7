"""Runs nodes in network namespaces with an underlay and real WireGuard tunnels, and a real manager.

The underlay is one segment: a bridge in its own namespace, where the manager also runs. Each node has a wireguard-go
device with an address in one overlay, and a peer for each tunnel. The agents run as processes in the nodes' namespaces.
"""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.agent_folder import keep_ring, last_sample
from support.agent_process import AGENT, Daemon
from support.manager import Manager
from support.netns import Namespace, new_namespace
from support.reports import PSK, RING
from support.waiting import PATIENCE_SECONDS, wait_for
from support.wireguard import Device, new_device

MANAGER_ADDRESS = "198.51.100.1"
MANAGER_PORT = 5086
AGENT_PORT = 5087
# Fast enough for a test, slow enough for two cores and a few nodes.
INTERVAL_SECONDS = 1

# Matches the first segment of a POST request by the first 32 bits of its payload.
_COUNT_POSTS = (
    "add table inet count; add counter inet count posts; "
    "add chain inet count in { type filter hook input priority 0; }; "
    f"add rule inet count in tcp dport {AGENT_PORT} @ih,0,32 0x504f5354 counter name posts"
)


class MeshNode:
    """A node: its namespace, its two addresses, its device, its state folder, and its agent while that runs."""

    def __init__(self, number: int, name: str, namespace: Namespace, device: Device, folder: Path) -> None:
        """Take the parts of the node; `number` determines its addresses."""
        self.name = name
        self.namespace = namespace
        self.device = device
        self.folder = folder
        self.underlay = f"198.51.100.{10 + number}"
        self.overlay = f"203.0.113.{10 + number}"
        self.daemon: Daemon | None = None

    @property
    def agent_id(self) -> str:
        """The current agent id, empty if it has none."""
        file = self.folder / "agent_id.txt"
        return file.read_text().strip() if file.exists() else ""

    @property
    def waiting(self) -> list[int]:
        """The numbers of the samples in its spool."""
        return sorted(int(path.name) for path in (self.folder / "spool").glob("[0-9]" * 16))

    @property
    def last_sample(self) -> int:
        """The number of its agent's last sample, 0 before the first."""
        return last_sample(self.folder)

    @property
    def log(self) -> str:
        """The log of its agent since its last start."""
        return self.daemon.log if self.daemon else ""

    def settings(self, **more: str) -> dict[str, str]:
        """Return the settings of its agent."""
        return {
            "DNS": "kattila.example.org",
            "DNS_SERVER": "127.0.0.1:9",
            "MANAGER_URL": f"http://{MANAGER_ADDRESS}:{MANAGER_PORT}",
            "AGENT_LISTEN": f"*:{AGENT_PORT}",
            "INTERVAL": str(INTERVAL_SECONDS),
        } | more

    def start(self, program: Sequence[str] = AGENT, **more: str) -> None:
        """Start its agent, or another program instead."""
        under_its_name = ["unshare", "--uts", "sh", "-c", f'hostname {self.name}; exec "$@"', "sh"]
        command = self.namespace.command(*under_its_name, *program)
        self.daemon = Daemon(self.folder, program=command, **self.settings(**more))

    def stop(self) -> None:
        """Kill its agent (SIGKILL), if it runs."""
        if self.daemon is not None and self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()

    def block(self, address: str = MANAGER_ADDRESS) -> None:
        """Remove its route to an address of the underlay."""
        self.namespace.ip("route", "add", "blackhole", f"{address}/32")

    def unblock(self, address: str = MANAGER_ADDRESS) -> None:
        """Restore the route that `block` removed."""
        self.namespace.ip("route", "del", "blackhole", f"{address}/32")

    def drop(self, address: str = MANAGER_ADDRESS) -> None:
        """Silently drop its packets to an address in a firewall."""
        rules = (
            "add table inet block; add chain inet block out { type filter hook output priority 0; }; "
            f"add rule inet block out ip daddr {address} drop"
        )
        subprocess.run(self.namespace.command("nft", rules), check=True)

    def stop_dropping(self) -> None:
        """Remove the firewall rule of `drop`."""
        subprocess.run(self.namespace.command("nft", "delete", "table", "inet", "block"), check=True)

    def count_posts(self) -> None:
        """Start to count the POST requests to its agent in the kernel."""
        subprocess.run(self.namespace.command("nft", _COUNT_POSTS), check=True)

    def posts(self) -> int:
        """Return the number of POST requests since `count_posts`."""
        listed = subprocess.check_output(self.namespace.command("nft", "-j", "list", "counters"))
        [packets] = [entry["counter"]["packets"] for entry in json.loads(listed)["nftables"] if "counter" in entry]
        return int(packets)

    def connect(self, address: str, port: int = AGENT_PORT) -> http.client.HTTPConnection:
        """Return a connection from this node to an address, for `support.manager.exchange`."""
        connection = http.client.HTTPConnection(address, port, timeout=PATIENCE_SECONDS)
        with self.namespace.entered():
            connection.connect()
        # A reconnect would come from the namespace of the test.
        connection.auto_open = 0
        return connection


class Mesh:
    """The nodes by name, and the manager."""

    def __init__(self, folder: Path, middle: Namespace, nodes: Mapping[str, MeshNode], manager: Manager) -> None:
        """Take the parts that `new_mesh` created."""
        self.folder = folder
        self.middle = middle
        self.nodes = nodes
        self.manager = manager

    def __getitem__(self, name: str) -> MeshNode:
        return self.nodes[name]

    def start(self, **more: str) -> None:
        """Start the manager and all agents."""
        self.manager.start()
        for node in self.nodes.values():
            node.start(**more)

    def paths(self, name: str) -> dict[int, list[str]]:
        """Return the relays of each report of a node, by sample number."""
        names = {node.agent_id: node.name for node in self.nodes.values()}
        rows = self._reports("sample, reports.relay_path", name)
        return {sample: [names[relay] for relay in path.split(",")] if path else [] for sample, path in rows}

    def sampled_at(self, name: str) -> dict[int, int | None]:
        """Return when each late sample was measured, by the manager's clock, and None for samples in order."""
        return dict(self._reports("sample, reports.sampled_at", name))

    def late(self, name: str) -> dict[int, bool]:
        """Return whether each report of a node came late, by sample number."""
        return {sample: moment is not None for sample, moment in self.sampled_at(name).items()}

    def _reports(self, columns: str, name: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? ORDER BY sample"
        return self.manager.rows(query, self[name].agent_id)

    def wait_until(self, condition: Any) -> None:
        """Wait for a condition; a failure shows the logs of the agents."""
        wait_for(condition, self._logs)

    def _logs(self) -> str:
        return "".join(f"\n--- {node.name}\n{node.log[-3000:]}" for node in self.nodes.values())

    def has_all(self, name: str, last: int) -> None:
        """Wait until the manager has every sample of a node up to `last`, each once."""
        self.wait_until(lambda: set(self.paths(name)) >= set(range(1, last + 1)))
        samples = [sample for sample, _ in self._reports("sample, tick", name)]
        assert len(samples) == len(set(samples))

    def arrives(self, name: str, path: list[str]) -> int:
        """Wait for a new report with this relay path, and return its sample number."""
        before = max(self.paths(name), default=0)
        self.wait_until(lambda: path in [used for sample, used in self.paths(name).items() if sample > before])
        return max(sample for sample, used in self.paths(name).items() if used == path)

    def reports_directly(self, name: str, since: int = 0) -> bool:
        """Return whether the manager got a report newer than `since` directly from the node."""
        return any(sample > since and not path for sample, path in self.paths(name).items())


@contextmanager
def new_mesh(
    folder: Path,
    names: Iterable[str],
    tunnels: Iterable[tuple[str, str]],
    data_folder: Path | None = None,
    **settings: str,
) -> Iterator[Mesh]:
    """Create nodes with tunnels between them, and remove them at the end; no agent and no manager runs yet.

    The manager's database is in `data_folder`, by default in its own folder. `settings` are those of the manager.
    """
    with ExitStack() as stack:
        middle = stack.enter_context(new_namespace())
        middle.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
        middle.ip("address", "add", f"{MANAGER_ADDRESS}/24", "dev", "br0")
        middle.ip("link", "set", "br0", "up")
        middle.ip("link", "set", "lo", "up")
        nodes = {name: _new_node(stack, folder, middle, number, name) for number, name in enumerate(names, 1)}
        for first, second in tunnels:
            _add_peer(nodes[first], nodes[second])
            _add_peer(nodes[second], nodes[first])
        manager_folder = folder / "manager"
        manager_folder.mkdir()
        manager = Manager(
            manager_folder,
            within=middle,
            data_folder=data_folder,
            listen=MANAGER_ADDRESS,
            port=MANAGER_PORT,
            ring=RING,
            workers=2,
            **settings,
        )
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


def _add_peer(node: MeshNode, peer: MeshNode) -> None:
    words = ("peer", peer.device.public_key, "endpoint", f"{peer.underlay}:51820", "allowed-ips", f"{peer.overlay}/32")
    node.device.set(*words)
