"""Runs inside the virtual machine: proves the netlink readers against its kernel, and prints one line per proof.

Two network namespaces joined by a veth pair, kernel devices in both, and `wg show all dump` as the judge, taken apart
here anew. Standard library and the agent's own packages only. "compare" and the other words are what it calls itself
with inside a namespace. The last line is "proofs: N held, M failed".
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

sys.path[:0] = [str(Path(__file__).parent / "agent"), str(Path(__file__).parent / "protocol")]

from kattila_agent.collectors import genetlink, rtnetlink  # noqa: E402
from kattila_agent.collectors.unix_socket import UnreadableError  # noqa: E402
from kattila_agent.collectors.wireguard import collector, kernel, links  # noqa: E402
from kattila_agent.collectors.wireguard.gathering import Limits, VanishedError, told  # noqa: E402

HELPER = Path("/run/kattila/wireguard.sock")
NOWHERE = Path("/nonexistent.sock")
LIMITS = Limits(peers=2_000, allowed_ips=20_000)
NOBODY = 65534
# linux/genetlink.h, GENL_ID_CTRL
CONTROLLER = 16

SOCKET_UNIT = f"""[Socket]
ListenStream={HELPER}
SocketUser={NOBODY}
SocketMode=0600
Accept=yes
"""
# In the namespace of the first node, whose interfaces are compared.
SERVICE_UNIT = f"""[Service]
NetworkNamespacePath=/run/netns/one
Environment=PYTHONPATH={Path(__file__).parent}/agent PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -m kattila_agent.wireguard_helper
StandardInput=socket
"""


def run(*words: str, given: str = "") -> str:
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def ip(namespace: str, *words: str) -> None:
    run("ip", "-n", namespace, *words)


def wg(namespace: str, *words: str, given: str = "") -> str:
    return run("ip", "netns", "exec", namespace, "wg", *words, given=given)


def inside(namespace: str, *words: str) -> Any:
    """Call this program inside a namespace; returns what it prints as JSON."""
    return json.loads(run("ip", "netns", "exec", namespace, sys.executable, __file__, *words))


# --- The network.


class Node:
    """One namespace with one key for all its devices."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number
        self.private_key = run("wg", "genkey").strip()
        self.public_key = run("wg", "pubkey", given=self.private_key).strip()

    def add_device(self, name: str, port: int) -> None:
        ip(self.name, "link", "add", name, "type", "wireguard")
        words = ("set", name, "private-key", "/dev/stdin", "listen-port", str(port))
        wg(self.name, *words, given=self.private_key)
        ip(self.name, "address", "add", f"10.{port % 100}.0.{self.number}/24", "dev", name)
        ip(self.name, "link", "set", name, "up")


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


def join(one: Node, two: Node, device: str, port: int, endpoint: str, *more: str) -> str:
    """Make a tunnel over this endpoint of the second node, with a preshared key, and return that key."""
    preshared = run("wg", "genpsk").strip()
    for node, other in ((one, two), (two, one)):
        node.add_device(device, port)
        words = (
            "set",
            device,
            "peer",
            other.public_key,
            "preshared-key",
            "/dev/stdin",
            "allowed-ips",
            "0.0.0.0/0,::/0",
        )
        wg(node.name, *words, given=preshared)
    wg(one.name, "set", device, "peer", two.public_key, "endpoint", endpoint, *more)
    return preshared


def send_through(port: int) -> None:
    """Send from the first node through the tunnel to the second until its answer arrives: a live handshake."""
    answers = subprocess.Popen(
        ["ip", "netns", "exec", "two", sys.executable, __file__, "echo", f"10.{port % 100}.0.2"],
        stdout=subprocess.DEVNULL,
    )
    try:
        inside("one", "ask", f"10.{port % 100}.0.2")
    finally:
        answers.kill()
        answers.wait()


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


# --- The judge.


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
    """Return what the collector tells through one reader, as JSON has it, and what it cut and failed with."""
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
        before = run("wg", "show", "all", "dump")
        started = time.process_time()
        netlink, wrong = told_of(NOWHERE)
        seconds = time.process_time() - started
        helped, wrong_too = told_of(HELPER)
        if before == run("wg", "show", "all", "dump"):
            break
    else:
        raise RuntimeError("the devices never stood still")
    messages = {link.name: len(kernel.read(link.index)) for link in links.read("wireguard")}
    answer = {
        "dump": dumped(before),
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


# --- The proofs.


class Proofs:
    """Prints one line for each proof, and counts."""

    def __init__(self) -> None:
        self.held = self.failed = 0

    def show(self, what: str, prove: Callable[[], str]) -> None:
        """Prove it; `prove` returns figures, or raises AssertionError or anything else."""
        try:
            figures = prove()
        except Exception as error:
            self.failed += 1
            print(f"FAILED  {what}: {type(error).__name__}: {str(error)[:4000]}", flush=True)
        else:
            self.held += 1
            print(f"held    {what}{': ' if figures else ''}{figures}", flush=True)


def differences(found: dict[str, Any]) -> None:
    """Assert that both readers say what the judge says, field by field, and failed at nothing."""
    assert not found["wrong"], found["wrong"]
    for reader in ("netlink", "helper"):
        assert [each["name"] for each in found[reader]] == [each["name"] for each in found["dump"]], reader
        for said, judged in zip(found[reader], found["dump"], strict=True):
            for name, value in judged.items():
                assert said[name] == value, f"{reader}: {judged['name']}.{name}: {said[name]!r:.200} != {value!r:.200}"


def peer_of(found: dict[str, Any], device: str, key: str) -> list[Any]:
    interface = next(each for each in found["dump"] if each["name"] == device)
    peer: list[Any] = next(each for each in interface["peers"] if each[0] == key)
    return peer


def live_tunnels(two: Node, endpoints: dict[str, str]) -> str:
    found = inside("one", "compare")
    differences(found)
    ages = []
    for device, endpoint in endpoints.items():
        peer = peer_of(found, device, two.public_key)
        assert peer[1] == endpoint, peer[1]
        assert peer[3] > 0, "no handshake"
        assert peer[4] > 1_000, "nothing was received through the tunnel"
        assert peer[5] > 1_000, "nothing was sent"
        assert peer[7] is True, "no preshared key"
        ages.append(int(time.time()) - peer[3])
    return f"endpoints {', '.join(endpoints.values())}; handshakes {ages} s ago"


def many_peers(one: Node, count: int) -> str:
    one.add_device("many0", 51830)
    keys = [run("wg", "genkey").strip() for _ in range(count)]
    for at in range(0, count, 50):
        words: list[str] = []
        for number in range(at, min(at + 50, count)):
            address = f"10.200.{number >> 8}.{number & 255}/32"
            endpoint = ("endpoint", f"198.51.100.{number % 250 + 1}:{20_000 + number}") if number % 3 else ()
            words += ["peer", run("wg", "pubkey", given=keys[number]).strip(), "allowed-ips", address, *endpoint]
            words += ["persistent-keepalive", str(number % 5)]
        wg("one", "set", "many0", *words)
    found = inside("one", "compare")
    differences(found)
    assert len(next(each for each in found["netlink"] if each["name"] == "many0")["peers"]) == count
    assert found["messages"]["many0"] > 1, "the answer was not split"
    return f"{found['messages']['many0']} messages; all devices read in {found['ms']} ms of CPU"


def many_prefixes(one: Node, key: str, prefixes: list[str]) -> str:
    one.add_device("wide0", 51831)
    wg("one", "set", "wide0", "fwmark", "0xca6c", "peer", key, "allowed-ips", ",".join(prefixes))
    found = inside("one", "compare")
    differences(found)
    assert peer_of(found, "wide0", key)[2] == prefixes
    assert found["messages"]["wide0"] > 1, "the answer was not split"
    return f"{len(prefixes)} in {found['messages']['wide0']} messages"


def no_key_of_its_own() -> str:
    ip("one", "link", "add", "bare0", "type", "wireguard")
    found = inside("one", "compare")
    differences(found)
    assert {"name": "bare0", "public_key": "", "listen_port": 0, "fwmark": 0, "peers": []} in found["netlink"]
    return ""


def no_privilege(devices: set[str]) -> str:
    count, reasons, names, failures = inside("one", "unprivileged")
    assert (count, failures) == (0, []), (count, failures)
    assert set(names) == devices, names
    assert len(reasons) == 1, reasons
    assert "needs root, or the helper" in reasons[0], reasons
    return "behind systemd's socket"


def vanished() -> str:
    outcomes = inside("one", "gone")
    assert outcomes == ["vanished", "vanished"], outcomes
    return ""


def changing_device(key: str) -> str:
    interrupted, once, always = inside("one", "unrest", "wide0", key)
    assert interrupted == "the table changed while it was read", interrupted
    assert once == "2000 prefixes, keepalive 8", once
    assert always == "it kept changing while it was read", always
    return f"changed once: {once}; changed each time: {always}"


def as_ip_shows_it() -> str:
    """Run the tests that compare what the collectors tell with what `ip` tells, with the links of this kernel."""
    here = Path(__file__).parent
    paths = [here / name for name in ("agent", "protocol", "tests", "site")]
    # The agent that they start has an environment of its own.
    Path("/usr/lib/python3/dist-packages/kattila.pth").write_text("".join(f"{path}\n" for path in paths))
    words = ["-m", "pytest", "-q", "-rP", "--tb=short", "--durations=5", "-p", "no:cacheprovider"]
    words += ["--import-mode=importlib", "--rootdir", "/tmp"]
    tests = [here / f"tests/agent/test_collectors_{name}.py" for name in ("kernel", "l2tp", "odd", "policy")]
    done = subprocess.run([sys.executable, "-B", *words, *tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]
    assert " skipped" not in done.stdout, done.stdout[-3000:]
    missing = {line for line in done.stdout.splitlines() if line.startswith("this kernel has no")}
    return ", ".join([done.stdout.strip().rpartition("\n")[2], *missing])


def no_secret(secrets: list[str]) -> str:
    words = ["ip", "netns", "exec", "one", sys.executable, __file__, "compare"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    private = [line.split("\t")[1] for line in wg("one", "show", "all", "dump").splitlines() if line.count("\t") == 4]
    assert set(secrets) >= set(private) - {"(none)"}
    assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
    return f"{len(secrets)} keys"


def start_helper() -> None:
    folder = Path("/run/systemd/system")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kattila-wireguard.socket").write_text(SOCKET_UNIT)
    (folder / "kattila-wireguard@.service").write_text(SERVICE_UNIT)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "kattila-wireguard.socket")


def main() -> int:
    started = time.monotonic()
    one, two = build()
    start_helper()
    proofs = Proofs()
    endpoints = {"wg4": "192.0.2.2:51820", "wg6": "[2001:db8::2]:51821", "wgll": "[fe80::2%up0]:51822"}
    secrets = [one.private_key]
    for port, (device, endpoint) in enumerate(endpoints.items(), 51820):
        secrets.append(join(one, two, device, port, endpoint, "persistent-keepalive", "25"))
        send_through(port)
    prefixes = [f"10.{100 + (number >> 8)}.{number & 255}.0/24" for number in range(1_000)]
    prefixes += [f"2001:db8:{number:x}::/48" for number in range(1, 1_001)]
    stranger = run("wg", "pubkey", given=run("wg", "genkey").strip()).strip()
    proofs.show("IPv4, IPv6 and link-local endpoints with a live handshake", lambda: live_tunnels(two, endpoints))
    proofs.show("a peer with 2,000 allowed_ips", lambda: many_prefixes(one, stranger, prefixes))
    proofs.show("an interface without a key", no_key_of_its_own)
    proofs.show("300 peers", lambda: many_peers(one, 300))
    proofs.show("no private or preshared key in what is told", lambda: no_secret(secrets))
    proofs.show(
        "an agent without privilege reads through the helper, and without it says what to do",
        lambda: no_privilege({*endpoints, "wide0", "bare0", "many0"}),
    )
    proofs.show("an interface that vanished, or is of another kind", vanished)
    proofs.show("a device that changes while it is read", lambda: changing_device(stranger))
    proofs.show("links, tunnels, routes, rules, neighbours and lookups are as ip shows them", as_ip_shows_it)
    took = round(time.monotonic() - started)
    print(f"proofs: {proofs.held} held, {proofs.failed} failed, Linux {os.uname().release}, {took} s", flush=True)
    return 1 if proofs.failed else 0


WORDS: dict[str, Callable[..., None]] = {
    "compare": compare,
    "unprivileged": unprivileged,
    "gone": gone,
    "unrest": unrest,
    "echo": echo,
    "ask": ask,
}

if __name__ == "__main__":
    if sys.argv[1:]:
        WORDS[sys.argv[1]](*sys.argv[2:])
    else:
        sys.exit(main())
