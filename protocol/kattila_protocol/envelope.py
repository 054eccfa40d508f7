"""The envelope of a report: parses and builds a request body, and signs and verifies its two MACs.

DATA stays the bytes that its origin signed. Neither relay nor manager encodes it again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from kattila_protocol.errors import Malformed, RelayLoop, TooLarge, TooManyHops
from kattila_protocol.names import MANAGER, UUID
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose

VERSION = 1
# A node with 300 peers and the maximum of routes stays well below.
MAX_BODY_BYTES = 1024 * 1024
MAX_HOPS = 3

_HEAD = b'{"data":'
_TAIL = re.compile(
    rb',"hmac":"([0-9a-f]{64})","hop_hmac":"([0-9a-f]{64})","relay_path":(\[[^\]]{0,256}\]),"version":(0|[1-9][0-9]{0,8})\}\Z'
)
_PATH = re.compile(rf'\[(?:"{UUID}"(?:,"{UUID}")*)?\]')
_ID = re.compile(UUID)
# The longest possible tail: fixed text, two MACs, 256 characters of path, nine digits.
_TAIL_WINDOW = 512


@dataclass(frozen=True, slots=True)
class Envelope:
    """A report in transit: DATA as signed, its MAC, the MAC of the last hop, and the relays, oldest first."""

    data: bytes
    mac: str
    hop_mac: str
    relay_path: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the request body."""
        path = json.dumps(self.relay_path, separators=(",", ":"))
        tail = f',"hmac":"{self.mac}","hop_hmac":"{self.hop_mac}","relay_path":{path},"version":{VERSION}}}'
        return _HEAD + self.data + tail.encode("ascii")


def seal(data: bytes, key: Key, recipient: str = MANAGER) -> Envelope:
    """Return DATA signed by its origin for the first recipient: "manager" or the id of a relay."""
    mac = key.sign(Purpose.REPORT, data)
    return Envelope(data, mac, key.sign(Purpose.HOP, hop_message(mac, (), recipient)))


def parse(body: bytes) -> Envelope:
    """Split a request body into its parts without parsing DATA.

    Raises:
        TooLarge: over 1 MiB.
        Malformed: other members, another order, white space between them, or a path that is not a list of ids.
        TooManyHops: more than three relays.
    """
    if len(body) > MAX_BODY_BYTES:
        raise TooLarge(f"the body has {len(body)} bytes; the limit is {MAX_BODY_BYTES}")
    tail = _TAIL.search(body, max(0, len(body) - _TAIL_WINDOW))
    if tail is None or not body.startswith(_HEAD + b"{") or body[tail.start() - 1 : tail.start()] != b"}":
        raise Malformed(
            'the body is not {"data":{…},"hmac":"…","hop_hmac":"…","relay_path":[…],"version":1} '
            "with its members in this order and no white space between them"
        )
    mac, hop_mac, path, version = tail.groups()
    if int(version) != VERSION:
        raise Malformed(f"version {int(version)} is not supported: this is version {VERSION}")
    data = body[len(_HEAD) : tail.start()]
    return Envelope(data, mac.decode("ascii"), hop_mac.decode("ascii"), _parse_path(path.decode("ascii", "replace")))


def verify(envelope: Envelope, ring: Ring, recipient: str) -> Key:
    """Verify both MACs of an envelope to `recipient`, and return the key that signed DATA.

    Raises:
        NoKey: the ring is empty.
        BadSignature: DATA, path or recipient differs from what was signed.
    """
    key = ring.verify(Purpose.REPORT, envelope.data, envelope.mac)
    ring.verify(Purpose.HOP, hop_message(envelope.mac, envelope.relay_path, recipient), envelope.hop_mac)
    return key


def forward(envelope: Envelope, relay_id: str, key: Key, recipient: str) -> Envelope:
    """Return the envelope with `relay_id` added to its path, signed for the next recipient.

    Raises:
        RelayLoop: the path already contains the relay.
        TooManyHops: the path already has three relays.
    """
    if relay_id in envelope.relay_path:
        raise RelayLoop(f"{relay_id} has already relayed this report")
    if len(envelope.relay_path) >= MAX_HOPS:
        raise TooManyHops(f"the path has {len(envelope.relay_path)} relays; the limit is {MAX_HOPS}")
    path = (*envelope.relay_path, relay_id)
    hop_mac = key.sign(Purpose.HOP, hop_message(envelope.mac, path, recipient))
    return Envelope(envelope.data, envelope.mac, hop_mac, path)


def check_origin(agent_id: str, relay_path: tuple[str, ...]) -> None:
    """Raise RelayLoop if the path contains the report's origin: no agent relays its own report."""
    if agent_id in relay_path:
        raise RelayLoop(f"the path contains {agent_id}, the origin of the report")


def hop_message(mac: str, relay_path: tuple[str, ...], recipient: str) -> bytes:
    """Return the bytes that a hop signs: the MAC of DATA, the recipient and the ids of the path, one per line."""
    return "\n".join((mac, recipient, *relay_path)).encode()


def _parse_path(text: str) -> tuple[str, ...]:
    if _PATH.fullmatch(text) is None:
        raise Malformed("relay_path is not a list of agent ids without white space")
    path = tuple(_ID.findall(text))
    if len(set(path)) != len(path):
        raise Malformed("relay_path contains a relay twice")
    if len(path) > MAX_HOPS:
        raise TooManyHops(f"the path has {len(path)} relays; the limit is {MAX_HOPS}")
    return path
