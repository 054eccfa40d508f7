"""Reads WireGuard devices of the kernel over generic netlink (linux/wireguard.h, WG_CMD_GET_DEVICE).

This requires CAP_NET_ADMIN. The answer contains the private key and all preshared keys: they end here. Errors name a
field, and not its value.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from kattila_agent.collectors.netlink import genetlink
from kattila_agent.collectors.netlink.codecs.genetlink import ALLOWED_IPS, WIREGUARD
from kattila_agent.collectors.netlink.codecs.message import Malformed, Message
from kattila_agent.collectors.netlink.transport import Interrupted, NetlinkChannel
from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.collectors.wireguard import notation
from kattila_agent.collectors.wireguard.builder import InterfaceBuilder, PeerLimits, VanishedError
from kattila_agent.collectors.wireguard.notation import ScopeName
from kattila_protocol.canonical import MAX_INTEGER

# A message has up to 32 KiB, about 1,000 AllowedIPs.
MAX_MESSAGES = 512

# A device that changes during the dump is read again.
_ATTEMPTS = 3
# The device was removed, or its index now belongs to a link of another kind.
_GONE = (errno.ENODEV, errno.EOPNOTSUPP)
_DENIED = (errno.EPERM, errno.EACCES)

# linux/wireguard.h
_GET_DEVICE = 0
_VERSION = 1
# Bytes of the AllowedIPs of a peer: about ten.
_MAX_CACHED = 512
_OF_DEVICE = ("PUBLIC_KEY", "LISTEN_PORT", "FWMARK", "PEERS")
# The members of a peer, by attribute. A peer that continues in the next message has them only in the first.
_OF_PEER = {
    "PRESHARED_KEY": "has_preshared_key",
    "PERSISTENT_KEEPALIVE_INTERVAL": "persistent_keepalive",
    "LAST_HANDSHAKE_TIME": "latest_handshake",
    "RX_BYTES": "transfer_rx",
    "TX_BYTES": "transfer_tx",
}


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
        except Interrupted:
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
    try:
        for message in messages:
            _set_device(interface, index, WIREGUARD.decode(message), scope_name)
    except Malformed as error:
        # Its text contains lengths, which may be a part of a key if the message is malformed.
        raise ValueError(f"{error.what} is malformed") from None
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
        request = WIREGUARD.encode(("WGDEVICE_A_IFINDEX", index), cmd=_GET_DEVICE, version=_VERSION)
        found = channel.dump(family, request, MAX_MESSAGES)
    if found.total > MAX_MESSAGES:
        raise UnreadableError(f"the kernel's answer has more than {MAX_MESSAGES} messages")
    return found.bodies


def _set_device(interface: InterfaceBuilder, index: int, found: Message, scope_name: ScopeName) -> None:
    if found.get("WGDEVICE_A_IFINDEX") not in (None, index):
        raise ValueError("the answer is about another device")
    # Only the first of several messages has these.
    public_key, listen_port, fwmark, peers = (found.get(f"WGDEVICE_A_{name}") for name in _OF_DEVICE)
    if public_key is not None:
        interface.public_key = notation.format_key(public_key, "public_key")
    if listen_port is not None:
        interface.listen_port = listen_port
    if fwmark is not None:
        interface.fwmark = fwmark
    for peer in () if peers is None else peers.all("peer"):
        _set_peer(interface, peer, scope_name)


def _set_peer(interface: InterfaceBuilder, found: Message, scope_name: ScopeName) -> None:
    public_key = found.get("WGPEER_A_PUBLIC_KEY")
    if public_key is None:
        raise ValueError("a peer without its public key")
    peer = interface.continue_peer(notation.format_key(public_key, "public_key"))
    for name, field in _OF_PEER.items():
        value = found.get(f"WGPEER_A_{name}")
        if value is not None:
            if value < 0:
                raise ValueError(f"{field} is out of range")
            # A counter may have 64 bits, one more than the protocol's integers.
            setattr(peer, field, min(value, MAX_INTEGER))
    endpoint, allowed_ips = found.get("WGPEER_A_ENDPOINT"), found.get("WGPEER_A_ALLOWEDIPS")
    if endpoint is not None:
        peer.endpoint = _endpoint(endpoint, scope_name)
    if allowed_ips is not None:
        prefixes, count = _few_prefixes(allowed_ips) if len(allowed_ips) <= _MAX_CACHED else _prefixes(allowed_ips)
        interface.allow(peer, prefixes, count)


def _endpoint(found: Mapping[str, Any], scope_name: ScopeName) -> str:
    scope = found.get("scope")
    if found["family"] not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError("endpoint is not an address and a port")
    return notation.format_endpoint(found["family"], found["addr"], found["port"], scope_name(scope) if scope else "")


def _prefixes(allowed_ips: bytes) -> tuple[Iterable[str], int]:
    """Return the AllowedIPs of a peer, decoded when they are taken, and their count."""
    found = ALLOWED_IPS.decode(allowed_ips)
    return map(_prefix, found.all("allowed_ip")), len(found.numbers())


# AllowedIPs rarely change, and decoding them takes as long as the rest of a peer.
@lru_cache(maxsize=4096)
def _few_prefixes(allowed_ips: bytes) -> tuple[Iterable[str], int]:
    prefixes, count = _prefixes(allowed_ips)
    return tuple(prefixes), count


def _prefix(found: Message) -> str:
    family, address, bits = (found.get(f"WGALLOWEDIP_A_{name}") for name in ("FAMILY", "IPADDR", "CIDR_MASK"))
    if family is None or address is None or bits is None:
        raise ValueError("an allowed IP is incomplete")
    return notation.format_prefix(family, address, bits)
