"""Generic netlink (linux/genetlink.h): its socket, and the numbers of its families."""

from __future__ import annotations

import errno
import os
import socket

from kattila_agent.collectors.netlink.codecs.genetlink import FAMILY
from kattila_agent.collectors.netlink.transport import NetlinkChannel

_TIMEOUT_SECONDS = 5.0
# linux/netlink.h, linux/genetlink.h: CTRL_CMD_GETFAMILY
_NETLINK_GENERIC = 16
_GET_FAMILY = 3


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
    request = FAMILY.encode(("CTRL_ATTR_FAMILY_NAME", name), cmd=_GET_FAMILY, version=1)
    number: int | None = FAMILY.decode(channel.request(FAMILY.request, request)).get("CTRL_ATTR_FAMILY_ID")
    if number is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return number
