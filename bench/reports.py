"""Makes up nodes and their signed reports. Pure: the same seed and time give the same bytes."""

from __future__ import annotations

import base64
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from kattila_protocol import canonical
from kattila_protocol.envelope import seal
from kattila_protocol.report import Interface, Report, Route, System, Telemetry, WireguardInterface, WireguardPeer
from kattila_protocol.signing import Key

# A node reports every 30 s.
INTERVAL_MS = 30_000
# All timestamps of a run are within four minutes, well below the ten that a manager tolerates.
SPREAD_MS = 240_000
# A busy tunnel has a handshake every 120 s, so with every fourth report.
HANDSHAKE_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a node. The first `busy_peers` of its peers exchange packets all the time."""

    interfaces: int = 5
    routes: int = 20
    peers: int = 20
    busy_peers: int = 10


SHAPES = {
    # The node in the manager's performance target.
    "full": Shape(),
    # About 2 kB of DATA.
    "small": Shape(interfaces=3, routes=5, peers=4, busy_peers=2),
}

_HANDSHAKE, _RX, _TX = map(WireguardPeer._fields.index, ("latest_handshake", "transfer_rx", "transfer_tx"))


def bodies(shape: Shape, agents: int, samples: int, key: Key, now: int, chance: random.Random) -> Iterator[bytes]:
    """Yield the signed bodies of `samples` reports from each of `agents` nodes: sample 1 of all nodes, then sample 2 ….

    The last samples are signed at `now` (ms UTC), each earlier sample at most 30 s before the next.
    """
    nodes = [_plain(first_report(shape, number, now, chance)) for number in range(agents)]
    spacing = min(INTERVAL_MS, SPREAD_MS // samples)
    for sample in range(1, samples + 1):
        signed_at = now - (samples - sample) * spacing
        for node in nodes:
            _advance(node, shape, sample, signed_at, chance)
            yield seal(canonical.encode(node), key).to_bytes()


def first_report(shape: Shape, number: int, now: int, chance: random.Random) -> Report:
    """Return the first report of a made-up node, not yet signed."""
    return Report(
        agent_id=_uuid(chance),
        sample=1,
        tick=1,
        nonce=chance.randbytes(16).hex(),
        timestamp=now,
        sampled_at=now,
        boot_id=_uuid(chance),
        telemetry=Telemetry(
            system=_system(number, chance),
            interfaces=tuple(_interface(number, index, chance) for index in range(shape.interfaces)),
            routes=tuple(_route(number, index) for index in range(shape.routes)),
            wireguard=(_wireguard(shape, number, now, chance),),
        ),
    )


def _system(number: int, chance: random.Random) -> System:
    return System(
        hostname=f"node-{number:04}.example.net",
        os="Debian GNU/Linux 12 (bookworm)",
        kernel="6.1.0-28-amd64",
        machine="x86_64",
        uptime_seconds=chance.randrange(10_000, 10_000_000),
        load=(10, 12, 8),
        cpus=4,
        memory_total=8_331_550_720,
        memory_available=chance.randrange(2_000_000_000, 6_000_000_000),
        agent_version="0.1.0",
        labels={"site": f"site-{number % 12}", "role": "edge"},
    )


def _interface(number: int, index: int, chance: random.Random) -> Interface:
    """Return an interface: loopback for index 0, the tunnel for index 1, otherwise Ethernet."""
    if index == 0:
        return Interface(
            1, "lo", None, ("LOOPBACK", "UP", "LOWER_UP"), "UNKNOWN", 65536, None, ("127.0.0.1/8", "::1/128")
        )
    rx, tx = chance.randrange(10**11), chance.randrange(10**11)
    third, fourth = divmod(number, 250)
    if index == 1:
        flags = ("POINTOPOINT", "NOARP", "UP", "LOWER_UP")
        address = f"10.77.{third}.{fourth + 1}/16"
        return Interface(2, "wg0", "wireguard", flags, "UNKNOWN", 1420, None, (address,), None, None, rx, tx)
    flags = ("BROADCAST", "MULTICAST", "UP", "LOWER_UP")
    hardware = "02:00:" + chance.randbytes(4).hex(":")
    addresses = (f"192.0.2.{fourth + 1}/24", f"2001:db8:{index}:{number:x}::1/64")
    return Interface(index + 1, f"eth{index - 2}", None, flags, "UP", 1500, hardware, addresses, None, None, rx, tx)


def _route(number: int, index: int) -> Route:
    if index == 0:
        return Route("0.0.0.0/0", "192.0.2.254", "eth0", None, 100, "dhcp", "unicast")
    destination, gateway = f"10.{100 + index}.{number % 250}.0/24", f"192.0.2.{200 + index}"
    return Route(destination, gateway, "eth0", None, 20, "static", "unicast")


def _wireguard(shape: Shape, number: int, now: int, chance: random.Random) -> WireguardInterface:
    peers = tuple(_peer(index < shape.busy_peers, number, index, now, chance) for index in range(shape.peers))
    return WireguardInterface("wg0", _public_key(chance), 51820, 0, peers)


def _peer(busy: bool, number: int, index: int, now: int, chance: random.Random) -> WireguardPeer:
    third, fourth = divmod((number + index + 1) % 10_000, 250)
    endpoint = f"198.51.100.{chance.randrange(1, 255)}:51820"
    allowed_ips = (f"10.77.{third}.{fourth + 1}/32",)
    handshake = now // 1000 - chance.randrange(120) if busy else now // 1000 - chance.randrange(10_000, 1_000_000)
    rx, tx = chance.randrange(10**10), chance.randrange(10**10)
    return WireguardPeer(_public_key(chance), endpoint, allowed_ips, handshake, rx, tx, 25, has_preshared_key=False)


def _advance(node: dict[str, Any], shape: Shape, sample: int, signed_at: int, chance: random.Random) -> None:
    """Change a node's report into its next one."""
    node["sample"] = node["tick"] = sample
    node["nonce"] = chance.randbytes(16).hex()
    node["timestamp"], node["sampled_at"] = signed_at, signed_at - chance.randrange(5, 50)
    telemetry = node["telemetry"]
    system = telemetry["system"]
    system["uptime_seconds"] += INTERVAL_MS // 1000
    system["load"] = [chance.randrange(5, 90) for _ in range(3)]
    system["memory_available"] += chance.randrange(-9_000_000, 9_000_000) // 4096 * 4096
    for interface in telemetry["interfaces"][1:]:
        interface["rx_bytes"] += chance.randrange(2_000, 9_000_000)
        interface["tx_bytes"] += chance.randrange(2_000, 9_000_000)
    for number, peer in enumerate(telemetry["wireguard"][0]["peers"][: shape.busy_peers]):
        if (sample + number) % HANDSHAKE_SAMPLES == 0:
            peer[_HANDSHAKE] = signed_at // 1000 - chance.randrange(INTERVAL_MS // 1000)
        peer[_RX] += chance.randrange(148, 900_000)
        peer[_TX] += chance.randrange(148, 900_000)


def _plain(value: Any) -> Any:
    """Return dataclasses as mutable dictionaries, as an agent encodes them: in order, without defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        members = ((field.name, getattr(value, field.name), field.default) for field in fields(value))
        return {name: _plain(member) for name, member, default in members if member != default}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _uuid(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _public_key(chance: random.Random) -> str:
    return base64.b64encode(chance.randbytes(32)).decode("ascii")
