"""Dumps of rtnetlink(7), bounded.

May live here: asking the kernel through pyroute2, and what the messages of all tables share. Not here: what a link, an
address or a route says.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from functools import cache
from typing import Any

# A message as pyroute2 decodes it, reduced to plain values: its header's fields, and its attributes by name.
Message = Mapping[str, Any]

# A table that changes while it is dumped is read again (NLM_F_DUMP_INTR).
_ATTEMPTS = 3


def dump(what: str, attributes: tuple[str, ...], limit: int, **filters: int) -> list[Message]:
    """Return the messages of one table, "link", "addr" or "route", the first `limit` of them.

    A message is a dict of its header's fields and of those `attributes` that it has, by their kernel names. What is
    beyond the limit is not read: pyroute2's synchronous dump takes 16 s and 670 MB for 200,000 routes. Opening the
    socket costs a millisecond, so none is kept.

    Raises:
        OSError: the kernel refused, or the table changed during every attempt.
    """
    # pyroute2 weighs 25 MB and 0.1 s, which commands that ask the kernel nothing are spared.
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError  # noqa: PLC0415

    for _ in range(_ATTEMPTS):
        try:
            return asyncio.run(_dump(what, attributes, limit, filters))
        except NetlinkDumpInterrupted:
            continue
        except NetlinkError as error:
            raise OSError(error.code, f"the kernel refused to list the {what} table") from error
    raise OSError(errno.EAGAIN, f"the {what} table kept changing while it was read")


def text(value: str | bytes) -> str:
    """Return a name of the kernel's, which may hold any bytes, as text: other bytes than UTF-8 become hex escapes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


async def _dump(what: str, attributes: tuple[str, ...], limit: int, filters: Mapping[str, int]) -> list[Message]:
    from pyroute2 import AsyncIPRoute  # noqa: PLC0415
    from pyroute2.netlink.rtnl import RTM_NEWLINK  # noqa: PLC0415

    found: list[Message] = []
    async with AsyncIPRoute() as route:
        route.register_policy(RTM_NEWLINK, _link_message())
        async for message in await getattr(route, what)("dump", **filters):
            found.append(_reduced(message, attributes))
            if len(found) >= limit:
                break
    return found


@cache
def _link_message() -> type[Any]:
    """Return pyroute2's link message, with hardware addresses as bytes: its own reading takes all for six bytes."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: PLC0415

    types = tuple((name, "cdata" if name == "IFLA_ADDRESS" else kind) for name, kind in ifinfmsg.nla_map)
    # pyroute2 compiles the map once per class, and a subclass would inherit what its base compiled before.
    return type("Link", (ifinfmsg,), {"nla_map": types, "_nlmsg_base__compiled_nla": False})


def _reduced(message: Any, attributes: tuple[str, ...]) -> Message:
    fields = {name: value for name, value in message.items() if name not in ("attrs", "header")}
    found = ((name, message.get_attr(name)) for name in attributes)
    return fields | {name: _plain(value) for name, value in found if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    fields = {name: _plain(item) for name, item in value.items() if name not in ("attrs", "header")}
    return fields | {name: _plain(item) for name, item in value.get("attrs", ())}
