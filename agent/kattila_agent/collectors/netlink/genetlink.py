"""Generic netlink (linux/genetlink.h): its socket, and the numbers of its families."""

from __future__ import annotations

import errno
import os
import socket
import struct

from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import NetlinkChannel

# struct genlmsghdr, which every message begins with: command, version, reserved.
HEADER = struct.Struct("=BBH")

_TIMEOUT_SECONDS = 5.0
# linux/netlink.h, linux/genetlink.h
_NETLINK_GENERIC = 16
_CONTROLLER = 16
_GET_FAMILY = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2


def open_socket() -> socket.socket:
    """Return a socket for a NetlinkChannel; raises OSError."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
    opened.settimeout(_TIMEOUT_SECONDS)
    return opened


def family(channel: NetlinkChannel, name: str) -> int:
    """Return the number of a family. The request loads the family's kernel module.

    Raises:
        OSError: the kernel does not answer, or has no such family.
        ValueError: the answer is malformed.
    """
    request = HEADER.pack(_GET_FAMILY, 1, 0) + rtnetlink.attribute(_FAMILY_NAME, name.encode() + b"\0")
    answer = channel.request(_CONTROLLER, request)
    number = rtnetlink.number(dict(rtnetlink.attributes(answer, HEADER.size)), _FAMILY_ID, 2)
    if number is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return number
