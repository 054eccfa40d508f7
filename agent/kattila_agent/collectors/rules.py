"""The policy rules of both families, as `ip rule` shows them."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kattila_agent.collectors.limits import Bounded, cut, shares
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Listed
from kattila_protocol.report import Rule

# linux/fib_rules.h: struct fib_rule_hdr
_RTM_GETRULE = 34
_RULE = struct.Struct("=BBBBBxxBI")
_DST, _SRC, _IIFNAME, _GOTO, _PRIORITY, _FWMARK, _FLOW, _TUN_ID = 1, 2, 3, 4, 6, 10, 11, 12
_SUPPRESS_IFGROUP, _SUPPRESS_PREFIXLEN, _TABLE, _FWMASK, _OIFNAME, _L3MDEV, _UID_RANGE = 13, 14, 15, 16, 17, 19, 20
_IP_PROTO, _SPORT_RANGE, _DPORT_RANGE, _SPORT_MASK, _DPORT_MASK = 22, 23, 24, 28, 29
# The word of `ip rule` for each range, its attribute, and the size of a number in it.
_RANGES = (("sport", _SPORT_RANGE, 2), ("dport", _DPORT_RANGE, 2), ("uidrange", _UID_RANGE, 4))
_LAST_KNOWN = 24
_INVERT = 0x2
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_FAMILIES: dict[int, str] = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}
_NONE = 0xFFFFFFFF
_ALL_BITS = 0xFFFF


@dataclass(frozen=True, slots=True)
class RuleReadings:
    """What the kernel returned: RTM_NEWRULE of both families."""

    inet: Listed
    inet6: Listed


def read(limit: int) -> RuleReadings:
    """Read the first `limit` rules of each family (rtnetlink(7)); raises OSError or ValueError."""
    inet, inet6 = (_read_family(family, limit) for family in _FAMILIES)
    return RuleReadings(inet, inet6)


def parse(readings: RuleReadings, limit: int) -> Bounded[Rule]:
    """Return the rules in the kernel's order; each family gets half of the limit, or more if it is free.

    Raises:
        ValueError: a message is malformed.
    """
    families = (readings.inet, readings.inet6)
    granted = shares(limit, [family.total for family in families])
    rules = tuple(
        _rule(body) for family, share in zip(families, granted, strict=True) for body in family.bodies[:share]
    )
    return Bounded(rules, cut("rules", len(rules), sum(family.total for family in families)))


def _read_family(family: int, limit: int) -> Listed:
    request = _RULE.pack(family, 0, 0, 0, 0, 0, 0)
    try:
        return rtnetlink.retried(
            # A kernel that does not know the family may answer with the rules of another.
            lambda channel: channel.dump(
                _RTM_GETRULE, request, limit, least=_RULE.size, wanted=lambda body: body[0] == family
            )
        )
    except OSError as error:
        # Without the family in the kernel, as with ipv6.disable=1, there are no rules for it.
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return Listed([], 0)


def _rule(body: bytes) -> Rule:
    found = dict(rtnetlink.attributes(body, _RULE.size))
    family, to_length, from_length, tos, table, action, flags = _RULE.unpack_from(body)
    fwmark, fwmask = rtnetlink.number(found, _FWMARK, 4), rtnetlink.number(found, _FWMASK, 4)
    named_table = rtnetlink.number(found, _TABLE, 4)
    suppressed = rtnetlink.number(found, _SUPPRESS_PREFIXLEN, 4)
    return Rule(
        family=_FAMILIES.get(family, str(family)),
        priority=rtnetlink.number(found, _PRIORITY, 4) or 0,
        action=_ACTIONS.get(action, str(action)),
        table=table if named_table is None else named_table,
        source=rtnetlink.prefix(found, _SRC, family, from_length) or None,
        destination=rtnetlink.prefix(found, _DST, family, to_length) or None,
        # A mask without a mark selects packets that have none of its bits.
        fwmark=fwmark if fwmark is not None or fwmask is None else 0,
        fwmask=fwmask,
        iif=rtnetlink.string(found, _IIFNAME),
        oif=rtnetlink.string(found, _OIFNAME),
        inverted=bool(flags & _INVERT),
        suppress_prefixlength=None if suppressed == _NONE else suppressed,
        goto=rtnetlink.number(found, _GOTO, 4),
        other=tuple(_others(found, tos)),
    )


def _others(found: Attributes, tos: int) -> Iterator[str]:
    """Yield the selectors that have no member in a report, as `ip rule` shows them."""
    if tos:
        yield f"tos {tos:#x}"
    if (protocol := rtnetlink.number(found, _IP_PROTO, 1)) is not None:
        yield f"ipproto {protocol}"
    yield from (_range(word, found[kind], size) for word, kind, size in _RANGES if kind in found)
    if rtnetlink.number(found, _L3MDEV, 1):
        yield "l3mdev"
    if tunnel := rtnetlink.number(found, _TUN_ID, 8, "big"):
        yield f"tun_id {tunnel}"
    if realms := rtnetlink.number(found, _FLOW, 4):
        yield f"realms {realms >> 16}/{realms & 0xFFFF}" if realms >> 16 else f"realms {realms}"
    if rtnetlink.number(found, _SUPPRESS_IFGROUP, 4) not in (None, _NONE):
        yield f"suppress_ifgroup {rtnetlink.number(found, _SUPPRESS_IFGROUP, 4)}"
    # Selectors of newer kernels narrow a rule, too; only a port mask with all bits set does not.
    no_masks = {kind for kind in (_SPORT_MASK, _DPORT_MASK) if rtnetlink.number(found, kind, 2) == _ALL_BITS}
    yield from (f"attribute {kind}" for kind in sorted(found) if kind > _LAST_KNOWN and kind not in no_masks)


def _range(word: str, value: bytes, size: int) -> str:
    if len(value) != 2 * size:
        raise ValueError(f"{word} is a range of {len(value)} bytes")
    first, last = (int.from_bytes(value[at : at + size], rtnetlink.ORDER) for at in (0, size))
    # Like `ip rule`, show a range of one port as that port.
    return f"{word} {first}" if first == last and size == 2 else f"{word} {first}-{last}"
