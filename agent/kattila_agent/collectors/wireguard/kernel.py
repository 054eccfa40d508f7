"""Reads WireGuard devices of the kernel over generic netlink (linux/wireguard.h, WG_CMD_GET_DEVICE).

This requires CAP_NET_ADMIN. The answer contains the private key and all preshared keys: they end here. Errors name a
field, and not its value.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator

from kattila_agent.collectors.netlink import genetlink, rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import NetlinkChannel
from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.collectors.wireguard import notation
from kattila_agent.collectors.wireguard.builder import InterfaceBuilder, PeerBuilder, PeerLimits, VanishedError
from kattila_agent.collectors.wireguard.notation import KEY_BYTES, ScopeName
from kattila_protocol.canonical import MAX_INTEGER

# A message has up to 32 KiB, about 1,000 AllowedIPs.
MAX_MESSAGES = 512

# A device that changes during the dump is read again.
_ATTEMPTS = 3
# The device was removed, or its index now belongs to a link of another kind.
_GONE = (errno.ENODEV, errno.EOPNOTSUPP)
_DENIED = (errno.EPERM, errno.EACCES)

# linux/wireguard.h. The private key is not read at all; of a preshared key, only whether one of its bits is set.
_GET_DEVICE = 0
_VERSION = 1
_DEVICE_INDEX = 1
_DEVICE_PUBLIC_KEY = 4
_DEVICE_LISTEN_PORT = 6
_DEVICE_FWMARK = 7
_DEVICE_PEERS = 8
_PEER_PUBLIC_KEY = 1
_ALLOWED_FAMILY = 1
_ALLOWED_ADDRESS = 2
_ALLOWED_BITS = 3


def read(index: int) -> list[bytes]:
    """Return the messages of the answer, which contain secrets: pass them to `parse`, and keep no other reference.

    Raises:
        PermissionError: the process lacks CAP_NET_ADMIN.
        VanishedError: the device has been removed.
        UnreadableError: the device cannot be read for another reason.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _dump(index)
        except rtnetlink.Interrupted:
            continue
        except OSError as error:
            raise _refusal(error) from None
    raise UnreadableError("it kept changing while it was read")


def parse(
    index: int, name: str, messages: Iterable[bytes], limits: PeerLimits, scope_name: ScopeName = notation.scope_name
) -> InterfaceBuilder:
    """Return the device with this index.

    Raises:
        ValueError: a message is malformed, or is about another device.
    """
    interface = InterfaceBuilder(name, limits)
    for message in messages:
        if len(message) < genetlink.HEADER.size:
            raise ValueError("a message without its header")
        _set_device(interface, index, memoryview(message)[genetlink.HEADER.size :], scope_name)
    interface.check()
    return interface


def _refusal(error: OSError) -> Exception:
    if error.errno in _GONE:
        return VanishedError()
    if error.errno in _DENIED:
        return PermissionError(error.errno, error.strerror)
    return UnreadableError(f"the kernel refuses: {error.strerror or error}")


def _dump(index: int) -> list[bytes]:
    with genetlink.open_socket() as connection:
        channel = NetlinkChannel(connection)
        family = genetlink.family(channel, "wireguard")
        device = rtnetlink.attribute(_DEVICE_INDEX, struct.pack("=I", index))
        found = channel.dump(family, genetlink.HEADER.pack(_GET_DEVICE, _VERSION, 0) + device, MAX_MESSAGES)
    if found.total > MAX_MESSAGES:
        raise UnreadableError(f"the kernel's answer has more than {MAX_MESSAGES} messages")
    return found.bodies


def _set_device(interface: InterfaceBuilder, index: int, attributes: memoryview, scope_name: ScopeName) -> None:
    for kind, value in _attributes(attributes):
        if kind == _DEVICE_INDEX and _number("=I", value, "the index") != index:
            raise ValueError("the answer is about another device")
        if kind == _DEVICE_PUBLIC_KEY:
            interface.public_key = notation.format_key(bytes(value), "public_key")
        elif kind == _DEVICE_LISTEN_PORT:
            interface.listen_port = _number("=H", value, "listen_port")
        elif kind == _DEVICE_FWMARK:
            interface.fwmark = _number("=I", value, "fwmark")
        elif kind == _DEVICE_PEERS:
            for _, peer in _attributes(value):
                _set_peer(interface, peer, scope_name)


def _set_peer(interface: InterfaceBuilder, attributes: memoryview, scope_name: ScopeName) -> None:
    peer: PeerBuilder | None = None
    for kind, value in _attributes(attributes):
        if kind == _PEER_PUBLIC_KEY:
            peer = interface.continue_peer(notation.format_key(bytes(value), "public_key"))
        elif peer is None:
            raise ValueError("a peer does not begin with its public key")
        else:
            _set_field(interface, peer, kind, value, scope_name)
    if peer is None:
        raise ValueError("a peer without its public key")


def _set_field(
    interface: InterfaceBuilder, peer: PeerBuilder, kind: int, value: memoryview, scope_name: ScopeName
) -> None:
    match kind:
        case 2:  # WGPEER_A_PRESHARED_KEY
            peer.has_preshared_key = _is_set(value)
        case 4:  # WGPEER_A_ENDPOINT
            peer.endpoint = _endpoint(value, scope_name)
        case 5:  # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL
            peer.persistent_keepalive = _number("=H", value, "persistent_keepalive")
        case 6:  # WGPEER_A_LAST_HANDSHAKE_TIME, seconds and nanoseconds
            peer.latest_handshake = _number("=qq", value, "latest_handshake")
        case 7:  # WGPEER_A_RX_BYTES
            peer.transfer_rx = _number("=Q", value, "transfer_rx")
        case 8:  # WGPEER_A_TX_BYTES
            peer.transfer_tx = _number("=Q", value, "transfer_tx")
        case 9:  # WGPEER_A_ALLOWEDIPS
            prefixes = [prefix for _, prefix in _attributes(value)]
            interface.allow(peer, map(_prefix, prefixes), len(prefixes))


def _attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield attributes as `rtnetlink.attributes` does, but never show a wrong length: it may be part of a key."""
    try:
        yield from rtnetlink.attributes(data)
    except ValueError:
        raise ValueError("an attribute does not fit into its message") from None


def _number(layout: str, value: memoryview, name: str) -> int:
    if len(value) != struct.calcsize(layout):
        raise ValueError(f"{name} has the wrong length")
    number: int = struct.unpack(layout, value)[0]
    if number < 0:
        raise ValueError(f"{name} is out of range")
    # A counter may have 64 bits, one more than the protocol's integers.
    return min(number, MAX_INTEGER)


def _is_set(secret: memoryview) -> bool:
    if len(secret) != KEY_BYTES:
        raise ValueError("preshared_key has the wrong length")
    return any(secret)


def _endpoint(address: memoryview, scope_name: ScopeName) -> str:
    """Return the endpoint in a struct sockaddr_in or sockaddr_in6 (netinet/in.h)."""
    if len(address) < 16:
        raise ValueError("endpoint has the wrong length")
    (family,) = struct.unpack_from("=H", address)
    (port,) = struct.unpack_from("!H", address, 2)
    if family == socket.AF_INET:
        return notation.format_endpoint(family, bytes(address[4:8]), port)
    if family != socket.AF_INET6 or len(address) < 28:
        raise ValueError("endpoint is not an address and a port")
    (scope,) = struct.unpack_from("=I", address, 24)
    return notation.format_endpoint(family, bytes(address[8:24]), port, scope_name(scope) if scope else "")


def _prefix(attributes: memoryview) -> str:
    found = dict(_attributes(attributes))
    try:
        family, address, bits = found[_ALLOWED_FAMILY], found[_ALLOWED_ADDRESS], found[_ALLOWED_BITS]
    except KeyError:
        raise ValueError("an allowed IP is incomplete") from None
    return notation.format_prefix(
        _number("=H", family, "a family"), bytes(address), _number("=B", bits, "a prefix length")
    )
