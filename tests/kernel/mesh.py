"""Two nodes in the virtual machine, connected by a veth pair and by WireGuard devices (kernel and wireguard-go)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

IN_NAMESPACE = Path(__file__).with_name("in_namespace.py")
SOCKETS = Path("/var/run/wireguard")


def run(*words: str, stdin: str = "") -> str:
    """Run a command and return its output; raises RuntimeError with its error output."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def ip(namespace: str, *words: str) -> None:
    """Run `ip` in a namespace."""
    run("ip", "-n", namespace, *words)


def wg(namespace: str, *words: str, stdin: str = "") -> str:
    """Run `wg` in a namespace."""
    return run("ip", "netns", "exec", namespace, "wg", *words, stdin=stdin)


def call(namespace: str, *words: str) -> Any:
    """Run a command of in_namespace.py in a namespace, and return its JSON output."""
    return json.loads(run("ip", "netns", "exec", namespace, sys.executable, str(IN_NAMESPACE), *words))


class Node:
    """A namespace with one key for all its devices."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number
        self.private_key = run("wg", "genkey").strip()
        self.public_key = run("wg", "pubkey", stdin=self.private_key).strip()

    def make_device(self, name: str, port: int) -> None:
        """Create a device with the node's key that is down; by wireguard-go if its name begins with "go"."""
        if name.startswith("go"):
            start_wireguard_go(self.name, name)
        else:
            ip(self.name, "link", "add", name, "type", "wireguard")
        words = ("set", name, "private-key", "/dev/stdin", "listen-port", str(port))
        wg(self.name, *words, stdin=self.private_key)

    def add_device(self, name: str, port: int) -> None:
        """Create a device that is up and has an address."""
        self.make_device(name, port)
        ip(self.name, "address", "add", f"10.{port % 100}.0.{self.number}/24", "dev", name)
        ip(self.name, "link", "set", name, "up")


def start_wireguard_go(namespace: str, name: str) -> None:
    """Start wireguard-go and wait for its socket; it runs until the virtual machine is off."""
    command = ["ip", "netns", "exec", namespace, "wireguard-go", "-f", name]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (SOCKETS / f"{name}.sock").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"wireguard-go created no socket for {name} (exit code {process.poll()})")
        time.sleep(0.1)


def build() -> tuple[Node, Node]:
    for name in ("one", "two"):
        run("ip", "netns", "add", name)
    run("ip", "-n", "one", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", "two")
    nodes = Node("one", 1), Node("two", 2)
    for node in nodes:
        ip(node.name, "link", "set", "lo", "up")
        ip(node.name, "address", "add", f"192.0.2.{node.number}/24", "dev", "up0")
        ip(node.name, "address", "add", f"2001:db8::{node.number}/64", "dev", "up0", "nodad")
        ip(node.name, "link", "set", "up0", "addrgenmode", "none")
        ip(node.name, "link", "set", "up0", "up")
        ip(node.name, "address", "add", f"fe80::{node.number}/64", "dev", "up0", "nodad")
    return nodes


def connect(one: Node, two: Node, device: str, port: int, endpoint: str, *more: str) -> str:
    """Create a tunnel to an endpoint of the second node, with a preshared key, and return that key."""
    preshared = run("wg", "genpsk").strip()
    secret = ("preshared-key", "/dev/stdin", "allowed-ips", "0.0.0.0/0,::/0")
    # wireguard-go keeps the sockets of all namespaces in one folder, so only one end can be a wireguard-go device.
    for node, other, name in ((one, two, device), (two, one, device.replace("go", "wg"))):
        node.add_device(name, port)
        wg(node.name, "set", name, "peer", other.public_key, *secret, stdin=preshared)
    wg(one.name, "set", device, "peer", two.public_key, "endpoint", endpoint, *more)
    return preshared


def send_through(port: int) -> None:
    """Send from the first node through the tunnel until the second answers, so that a handshake takes place."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", "two", sys.executable, str(IN_NAMESPACE), "echo", f"10.{port % 100}.0.2"],
        stdout=subprocess.DEVNULL,
    )
    try:
        call("one", "send", f"10.{port % 100}.0.2")
    finally:
        server.kill()
        server.wait()
