"""Reads a userspace device over its own socket, as wireguard-go and similar programs offer it.

www.wireguard.com/xplatform describes the operation "get=1". Anyone who may use the socket may also change the device.
The answer contains the private key and all preshared keys: they end here. Errors name a field, and not its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kattila_agent.collectors.unix_socket import UnreadableError, exchange, lines
from kattila_agent.collectors.wireguard import curve25519, notation
from kattila_agent.collectors.wireguard.builder import (
    MAX_COUNT,
    InterfaceBuilder,
    PeerBuilder,
    PeerLimits,
    VanishedError,
    parse_number,
)
from kattila_agent.collectors.wireguard.notation import ScopeName
from kattila_protocol.canonical import MAX_INTEGER

FOLDER = Path("/var/run/wireguard")

TIMEOUT_SECONDS = 5.0

_REQUEST = b"get=1\n\n"
_END = b"\n\n"
_INCOMPLETE = "the answer of its socket is incomplete"
# Fields that an interface or a peer has only once.
_ONCE = frozenset(
    (
        b"private_key",
        b"own_public_key",
        b"listen_port",
        b"fwmark",
        b"preshared_key",
        b"endpoint",
        b"last_handshake_time_sec",
        b"rx_bytes",
        b"tx_bytes",
        b"persistent_keepalive_interval",
    )
)


def read(path: Path) -> bytes:
    """Return the answer, which contains secrets: pass it to `parse`, and keep no other reference.

    Raises:
        PermissionError: the socket belongs to another user.
        VanishedError: nobody listens on the socket any more.
        UnreadableError: the answer is incomplete or too long.
    """
    try:
        return exchange(path, _REQUEST, _END, timeout_seconds=TIMEOUT_SECONDS)
    except (FileNotFoundError, ConnectionError):
        raise VanishedError from None


def parse(
    name: str, answer: bytes, limits: PeerLimits, scope_name: ScopeName = notation.scope_name
) -> InterfaceBuilder:
    """Return the interface in an answer.

    Raises:
        UnreadableError: the answer is incomplete, or is an error.
        ValueError: a field is malformed.
    """
    # Fields that are not set are not sent.
    interface = InterfaceBuilder(name, limits, listen_port=0, fwmark=0)
    peer: PeerBuilder | None = None
    seen: set[bytes] = set()
    for field, value in _fields(answer):
        if field in seen:
            raise ValueError(f"{field.decode('ascii')} is repeated")
        if field in _ONCE:
            seen.add(field)
        if field == b"public_key":
            raw = notation.parse_hex_key(value, "public_key")
            peer = interface.add_peer(notation.format_key(raw, "public_key"))
            peer.latest_handshake, peer.persistent_keepalive, peer.has_preshared_key = 0, 0, False
            seen.clear()
        elif peer is None:
            _set_own(interface, field, value)
        else:
            _set_peers(interface, peer, field, value, scope_name)
    interface.check()
    return interface


def _fields(answer: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields in order, and check that the answer is complete and ends without an error."""
    if not answer.endswith(_END):
        raise UnreadableError(_INCOMPLETE)
    errno: bytes | None = None
    for field, _, value in (line.partition(b"=") for line in lines(answer[: 1 - len(_END)])):
        if errno is not None:
            raise UnreadableError(_INCOMPLETE)
        if field == b"errno":
            errno = value
        else:
            yield field, value
    if errno is None:
        raise UnreadableError(_INCOMPLETE)
    if number := parse_number(errno.removeprefix(b"-"), 4096, "errno"):
        raise UnreadableError(f"its socket answers with errno {number}")


def _set_own(interface: InterfaceBuilder, field: bytes, value: bytes) -> None:
    match field:
        case b"private_key":
            private = notation.parse_hex_key(value, "a key")
            # Like `wg`: a key of zeros stands for none.
            if any(private):
                interface.public_key = notation.format_key(curve25519.public_key(private), "public_key")
        case b"own_public_key":
            # boringtun answers with this key instead of the private one. A private key in the answer comes first.
            public = notation.parse_hex_key(value, "own_public_key")
            if any(public) and not interface.public_key:
                interface.public_key = notation.format_key(public, "own_public_key")
        case b"listen_port":
            interface.listen_port = parse_number(value, 65535, "listen_port")
        case b"fwmark":
            interface.fwmark = parse_number(value, 2**32 - 1, "fwmark")


def _set_peers(
    interface: InterfaceBuilder, peer: PeerBuilder, field: bytes, value: bytes, scope_name: ScopeName
) -> None:
    match field:
        case b"preshared_key":
            peer.has_preshared_key = any(notation.parse_hex_key(value, "a key"))
        case b"endpoint":
            peer.endpoint = notation.parse_endpoint(value.decode("ascii", "replace"), scope_name)
        case b"allowed_ip":
            interface.allow(peer, map(notation.parse_prefix, [value.decode("ascii", "replace")]), 1)
        case b"last_handshake_time_sec":
            peer.latest_handshake = parse_number(value, MAX_INTEGER, "latest_handshake")
        case b"rx_bytes":
            peer.transfer_rx = parse_number(value, MAX_COUNT, "transfer_rx")
        case b"tx_bytes":
            peer.transfer_tx = parse_number(value, MAX_COUNT, "transfer_tx")
        case b"persistent_keepalive_interval":
            peer.persistent_keepalive = parse_number(value, 65535, "persistent_keepalive")
