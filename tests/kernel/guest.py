"""Runs in the virtual machine: checks the collectors against its kernel, and prints one line per check.

WireGuard devices of the kernel and of wireguard-go are in two network namespaces, and `wg show all dump` is the
reference. The last line is "checks: N passed, M failed, ...".
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernel.in_namespace import HELPER, NOBODY
from kernel.mesh import IN_NAMESPACE, Node, build, call, connect, ip, run, send_through, wg

SOCKET_UNIT = f"""[Socket]
ListenStream={HELPER}
SocketUser={NOBODY}
SocketMode=0600
Accept=yes
"""
# Runs in the namespace of the first node, whose interfaces are compared.
SERVICE_UNIT = """[Service]
NetworkNamespacePath=/run/netns/one
Environment=PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -m kattila_agent.helpers.wireguard_helper
StandardInput=socket
"""


class Checks:
    """Runs checks, prints one line for each, and counts them."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def run(self, title: str, check: Callable[[], str]) -> None:
        """Run a check. It returns figures to print, and raises any exception if it fails."""
        try:
            figures = check()
        except Exception as error:
            self.failed += 1
            print(f"FAILED  {title}: {type(error).__name__}: {str(error)[:4000]}", flush=True)
        else:
            self.passed += 1
            print(f"passed  {title}{': ' if figures else ''}{figures}", flush=True)


def assert_equal(found: dict[str, Any]) -> None:
    """Assert that both readers agree with the dump, field by field, and that neither failed."""
    assert not found["problems"], found["problems"]
    for reader in ("netlink", "helper"):
        assert [each["name"] for each in found[reader]] == [each["name"] for each in found["dump"]], reader
        for read, dumped in zip(found[reader], found["dump"], strict=True):
            for name, value in dumped.items():
                assert read[name] == value, f"{reader}: {dumped['name']}.{name}: {read[name]!r:.200} != {value!r:.200}"


def peer_of(found: dict[str, Any], device: str, key: str) -> list[Any]:
    interface = next(each for each in found["dump"] if each["name"] == device)
    peer: list[Any] = next(each for each in interface["peers"] if each[0] == key)
    return peer


def live_tunnels(two: Node, endpoints: dict[str, str]) -> str:
    found = call("one", "compare")
    assert_equal(found)
    ages = []
    for device, endpoint in endpoints.items():
        peer = peer_of(found, device, two.public_key)
        assert peer[1] == endpoint, peer[1]
        assert peer[3] > 0, "no handshake"
        assert peer[4] > 1_000, "nothing was received through the tunnel"
        assert peer[5] > 1_000, "nothing was sent"
        assert peer[7] is True, "no preshared key"
        ages.append(int(time.time()) - peer[3])
        # From now on the counters must not change.
        wg("one", "set", device, "peer", two.public_key, "persistent-keepalive", "off")
    return f"endpoints {', '.join(endpoints.values())}; handshakes {ages} s ago"


def many_peers(one: Node, count: int) -> str:
    one.add_device("many0", 51830)
    keys = [run("wg", "genkey").strip() for _ in range(count)]
    for at in range(0, count, 50):
        words: list[str] = []
        for number in range(at, min(at + 50, count)):
            address = f"10.200.{number >> 8}.{number & 255}/32"
            endpoint = ("endpoint", f"198.51.100.{number % 250 + 1}:{20_000 + number}") if number % 3 else ()
            words += ["peer", run("wg", "pubkey", stdin=keys[number]).strip(), "allowed-ips", address, *endpoint]
            words += ["persistent-keepalive", str(number % 5)]
        wg("one", "set", "many0", *words)
    found = call("one", "compare")
    assert_equal(found)
    assert len(next(each for each in found["netlink"] if each["name"] == "many0")["peers"]) == count
    assert found["messages"]["many0"] > 1, "the answer was not split"
    return f"{found['messages']['many0']} messages; all devices read in {found['ms']} ms of CPU"


def many_prefixes(one: Node, key: str, prefixes: list[str]) -> str:
    one.add_device("wide0", 51831)
    wg("one", "set", "wide0", "fwmark", "0xca6c", "peer", key, "allowed-ips", ",".join(prefixes))
    found = call("one", "compare")
    assert_equal(found)
    assert peer_of(found, "wide0", key)[2] == prefixes
    assert found["messages"]["wide0"] > 1, "the answer was not split"
    return f"{len(prefixes)} in {found['messages']['wide0']} messages"


def interface_without_key() -> str:
    ip("one", "link", "add", "bare0", "type", "wireguard")
    found = call("one", "compare")
    assert_equal(found)
    assert {"name": "bare0", "public_key": "", "listen_port": 0, "fwmark": 0, "peers": []} in found["netlink"]
    return ""


def kernel_and_wireguard_go_agree(one: Node) -> str:
    """Check that each reader returns the same for a kernel device and a wireguard-go device with equal settings."""
    names, count = ("twin0", "go0"), 50
    for name in names:
        one.make_device(name, 51840)
    for number in range(count):
        key = run("wg", "pubkey", stdin=run("wg", "genkey").strip()).strip()
        # No peer has both endpoint and keepalive: wireguard-go would send even while its link is down. No endpoint has
        # a scope, which wireguard-go drops.
        setting = (
            ("endpoint", f"192.0.2.{number}:9"),
            ("endpoint", f"[2001:db8::{number}]:9"),
            ("persistent-keepalive", str(number)),
        )[number % 3]
        peer = ["peer", key, *setting]
        peer += ["preshared-key", "/dev/stdin", "allowed-ips", f"10.201.{number}.0/24,2001:db8:{number:x}::/48"]
        secret = run("wg", "genpsk").strip()
        for name in names:
            wg("one", "set", name, "fwmark", "51820", *peer, stdin=secret)
    found = call("one", "compare")
    assert_equal(found)
    for reader in ("netlink", "helper"):
        kernel, other = (next(each for each in found[reader] if each["name"] == name) for name in names)
        assert other == kernel | {"name": "go0"}, reader
        assert len(kernel["peers"]) == count
    return f"{count} peers"


def unprivileged_agent(devices: set[str]) -> str:
    count, reasons, names, failures = call("one", "unprivileged")
    assert (count, failures) == (0, []), (count, failures)
    assert set(names) == devices, names
    assert len(reasons) == 1, reasons
    assert "needs root or the helper" in reasons[0], reasons
    return "through systemd's socket"


def vanished_device() -> str:
    outcomes = call("one", "missing")
    assert outcomes == ["vanished", "vanished"], outcomes
    return ""


def changing_device(key: str) -> str:
    interrupted, once, always = call("one", "changes", "wide0", key)
    assert interrupted == "the table changed while it was read", interrupted
    assert once == "2000 prefixes, keepalive 8", once
    assert always == "it kept changing while it was read", always
    return f"changed once: {once}; changed each time: {always}"


def collector_tests() -> str:
    """Run the tests that compare the collectors with `ip`, using this kernel's link types."""
    here = Path(__file__).parents[1]
    words = ["-m", "pytest", "-q", "-rP", "--tb=short", "--durations=5", "-p", "no:cacheprovider"]
    words += ["--import-mode=importlib", "--rootdir", "/tmp"]
    tests = [here / f"agent/collectors/test_{name}.py" for name in ("kernel", "l2tp", "unusual", "policy_routes")]
    done = subprocess.run([sys.executable, "-B", *words, *tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]
    assert " skipped" not in done.stdout, done.stdout[-3000:]
    missing = {line for line in done.stdout.splitlines() if line.startswith("this kernel has no")}
    return ", ".join([done.stdout.strip().rpartition("\n")[2], *missing])


def no_secret(secrets: list[str]) -> str:
    words = ["ip", "netns", "exec", "one", sys.executable, str(IN_NAMESPACE), "compare"]
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
    checks = Checks()
    endpoints = {
        "wg4": "192.0.2.2:51820",
        "wg6": "[2001:db8::2]:51821",
        "wgll": "[fe80::2%up0]:51822",
        "go5": "192.0.2.2:51823",
    }
    secrets = [one.private_key]
    for port, (device, endpoint) in enumerate(endpoints.items(), 51820):
        secrets.append(connect(one, two, device, port, endpoint, "persistent-keepalive", "25"))
        send_through(port)
    prefixes = [f"10.{100 + (number >> 8)}.{number & 255}.0/24" for number in range(1_000)]
    prefixes += [f"2001:db8:{number:x}::/48" for number in range(1, 1_001)]
    stranger = run("wg", "pubkey", stdin=run("wg", "genkey").strip()).strip()
    checks.run(
        "IPv4, IPv6 and link-local endpoints, and a wireguard-go device, with a handshake",
        lambda: live_tunnels(two, endpoints),
    )
    checks.run("a peer with 2,000 allowed_ips", lambda: many_prefixes(one, stranger, prefixes))
    checks.run("an interface without a key", interface_without_key)
    checks.run("300 peers", lambda: many_peers(one, 300))
    checks.run("a kernel device and a wireguard-go device read the same", lambda: kernel_and_wireguard_go_agree(one))
    checks.run("no private or preshared key in the output", lambda: no_secret(secrets))
    checks.run(
        "an unprivileged agent reads through the helper, and names the remedy without it",
        lambda: unprivileged_agent({*endpoints, "wide0", "bare0", "many0", "twin0", "go0"}),
    )
    checks.run("a missing interface, and one of another kind", vanished_device)
    checks.run("a device that changes while it is read", lambda: changing_device(stranger))
    checks.run("links, tunnels, routes, rules, neighbours and lookups match the output of ip", collector_tests)
    seconds = round(time.monotonic() - started)
    print(
        f"checks: {checks.passed} passed, {checks.failed} failed, Linux {os.uname().release}, {seconds} s", flush=True
    )
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
