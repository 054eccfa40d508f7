"""The messages of generic netlink (linux/genetlink.h): its families, WireGuard and L2TP."""

from __future__ import annotations

import socket
import struct
from typing import Any

from pyroute2.netlink import ctrlmsg, genlmsg, nla, nlmsg

from kattila_agent.collectors.netlink.codecs.message import (
    ATTRIBUTE,
    AnyMessage,
    Codec,
    Exact,
    Key,
    Message,
    Nested,
    Presence,
    Struct,
)


class _Family(AnyMessage, ctrlmsg):
    __slots__ = ()


class _Wireguard(AnyMessage, genlmsg):
    """linux/wireguard.h. The private key is not read, and a preshared key becomes its presence."""

    __slots__ = ()
    nla_map = (
        ("WGDEVICE_A_UNSPEC", "none"),
        ("WGDEVICE_A_IFINDEX", "uint32"),
        ("WGDEVICE_A_IFNAME", "asciiz"),
        ("WGDEVICE_A_PRIVATE_KEY", "none"),
        ("WGDEVICE_A_PUBLIC_KEY", "key"),
        ("WGDEVICE_A_FLAGS", "uint32"),
        ("WGDEVICE_A_LISTEN_PORT", "uint16"),
        ("WGDEVICE_A_FWMARK", "uint32"),
        ("WGDEVICE_A_PEERS", "peers"),
    )
    key = Key

    class peers(Nested, nla):
        __slots__ = ()
        # In the kernel's lists every element has the type 0.
        nla_map = ((0, "peer", "peer"),)

        class peer(Nested, nla):
            __slots__ = ()
            nla_map = (
                ("WGPEER_A_UNSPEC", "none"),
                ("WGPEER_A_PUBLIC_KEY", "key"),
                ("WGPEER_A_PRESHARED_KEY", "presence"),
                ("WGPEER_A_FLAGS", "uint32"),
                ("WGPEER_A_ENDPOINT", "sockaddr"),
                ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", "uint16"),
                ("WGPEER_A_LAST_HANDSHAKE_TIME", "timespec"),
                ("WGPEER_A_RX_BYTES", "uint64"),
                ("WGPEER_A_TX_BYTES", "uint64"),
                ("WGPEER_A_ALLOWEDIPS", "cdata"),
            )
            key, presence = Key, Presence

            @staticmethod
            def sockaddr(peer: Any, data: bytes, offset: int, **_named: Any) -> type[Any]:
                """Return the class of an endpoint by its family."""
                (family,) = struct.unpack_from("=H", data, offset + ATTRIBUTE.size)
                chosen: type[Any] = peer.sockaddr_in if family == socket.AF_INET else peer.sockaddr_in6
                return chosen

            class sockaddr_in(Struct, nla):
                __slots__ = ()
                fields = (("family", "H"), ("port", ">H"), ("addr", "4s"), ("pad", "8x"))

            class sockaddr_in6(Struct, nla):
                __slots__ = ()
                fields = (("family", "H"), ("port", ">H"), ("flowinfo", ">I"), ("addr", "16s"), ("scope", "I"))

            class timespec(Exact, nla):
                __slots__ = ()
                fields = (("seconds", "q"), ("nanoseconds", "q"))

                def result(self, _name: str, _within: Message) -> int:
                    """Return the seconds."""
                    seconds: int = self["seconds"]
                    return seconds


class _AllowedIps(AnyMessage, nlmsg):
    """The value of WGPEER_A_ALLOWEDIPS, which contains no secret. It is decoded apart from the peer, to be cached."""

    __slots__ = ()
    fields = ()
    nla_map = ((0, "allowed_ip", "allowed_ip"),)

    class allowed_ip(Nested, nla):
        __slots__ = ()
        nla_map = (
            ("WGALLOWEDIP_A_UNSPEC", "none"),
            ("WGALLOWEDIP_A_FAMILY", "uint16"),
            ("WGALLOWEDIP_A_IPADDR", "cdata"),
            ("WGALLOWEDIP_A_CIDR_MASK", "uint8"),
        )


class _L2tp(AnyMessage, genlmsg):
    """linux/l2tp.h. Cookies, which protect a session against forgery, are not read."""

    __slots__ = ()
    nla_map = (
        (8, "L2TP_ATTR_IFNAME", "asciiz"),
        (9, "L2TP_ATTR_CONN_ID", "uint32"),
        (10, "L2TP_ATTR_PEER_CONN_ID", "uint32"),
        (11, "L2TP_ATTR_SESSION_ID", "uint32"),
        (12, "L2TP_ATTR_PEER_SESSION_ID", "uint32"),
        (24, "L2TP_ATTR_IP_SADDR", "ip4addr"),
        (25, "L2TP_ATTR_IP_DADDR", "ip4addr"),
        (27, "L2TP_ATTR_UDP_DPORT", "uint16"),
        (31, "L2TP_ATTR_IP6_SADDR", "ip6addr"),
        (32, "L2TP_ATTR_IP6_DADDR", "ip6addr"),
    )


# linux/genetlink.h: GENL_ID_CTRL
FAMILY = Codec(_Family, 16)
WIREGUARD, ALLOWED_IPS = Codec(_Wireguard), Codec(_AllowedIps)
L2TP = Codec(_L2tp)
