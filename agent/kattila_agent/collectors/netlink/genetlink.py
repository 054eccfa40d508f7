"""Generic netlink (linux/genetlink.h): families that are found by name.

May live here: the socket, and which number a family has. Not here: what a family says.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Channel

# Command, version, reserved: what every message begins with.
HEADER = struct.Struct("=BBH")

_SILENCE_SECONDS = 5.0
# linux/netlink.h, linux/genetlink.h
_NETLINK_GENERIC = 16
_CONTROLLER = 16
_GET_FAMILY = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2


def open_socket() -> socket.socket:
    """Return a socket for a Channel; raises OSError."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
    opened.settimeout(_SILENCE_SECONDS)
    return opened


def family(channel: Channel, name: str) -> int:
    """Return a family's number. Asking loads its module, so let there be something that it can tell of.

    Raises:
        OSError: the kernel does not answer, or has no such family.
        ValueError: the answer is malformed.
    """
    asked = HEADER.pack(_GET_FAMILY, 1, 0) + rtnetlink.attribute(_FAMILY_NAME, name.encode() + b"\0")
    answer = channel.ask(_CONTROLLER, asked)
    number = rtnetlink.number(rtnetlink.attributes(answer, HEADER.size), _FAMILY_ID, 2)
    if number is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return number
