"""The policy rules of both families, as `ip rule` shows them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from kattila_agent.collectors.limits import Bounded, cut, shares
from kattila_agent.collectors.netlink import notation, transport
from kattila_agent.collectors.netlink.codecs.message import Message
from kattila_agent.collectors.netlink.codecs.rtnetlink import RULE
from kattila_agent.collectors.netlink.transport import Listed
from kattila_protocol.report import Rule

_family = RULE.reader("family")
# The word of `ip rule` for each range, and its attribute.
_RANGES = (("sport", "FRA_SPORT_RANGE"), ("dport", "FRA_DPORT_RANGE"), ("uidrange", "FRA_UID_RANGE"))
# linux/fib_rules.h: FRA_DPORT_RANGE, and the attributes with the bits of a port that are compared
_LAST_KNOWN = 24
_MASKS = {28: "FRA_SPORT_MASK", 29: "FRA_DPORT_MASK"}
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
    try:
        return transport.retried(
            # A kernel that does not know the family may answer with the rules of another.
            lambda channel: channel.dump(
                RULE.request,
                RULE.encode(family=family),
                limit,
                least=RULE.size,
                wanted=lambda body: _family(body)[0] == family,
            )
        )
    except OSError as error:
        # Without the family in the kernel, as with ipv6.disable=1, there are no rules for it.
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return Listed([], 0)


# Few rules change between two reports.
@lru_cache(maxsize=4096)
def _rule(body: bytes) -> Rule:
    found = RULE.decode(body)
    family, action = found.fields["family"], found.fields["action"]
    fwmark, fwmask, table = (found.get(name) for name in ("FRA_FWMARK", "FRA_FWMASK", "FRA_TABLE"))
    suppressed = found.get("FRA_SUPPRESS_PREFIXLEN")
    return Rule(
        family=_FAMILIES.get(family, str(family)),
        priority=found.get("FRA_PRIORITY") or 0,
        action=_ACTIONS.get(action, str(action)),
        table=found.fields["table"] if table is None else table,
        source=notation.prefix(found.get("FRA_SRC"), family, found.fields["src_len"]) or None,
        destination=notation.prefix(found.get("FRA_DST"), family, found.fields["dst_len"]) or None,
        # A mask without a mark selects packets that have none of its bits.
        fwmark=fwmark if fwmark is not None or fwmask is None else 0,
        fwmask=fwmask,
        iif=found.get("FRA_IIFNAME"),
        oif=found.get("FRA_OIFNAME"),
        inverted=bool(found.fields["flags"] & _INVERT),
        suppress_prefixlength=None if suppressed == _NONE else suppressed,
        goto=found.get("FRA_GOTO"),
        other=tuple(_others(found)),
    )


def _others(found: Message) -> Iterator[str]:
    """Yield the selectors that have no member in a report, as `ip rule` shows them."""
    if tos := found.fields["tos"]:
        yield f"tos {tos:#x}"
    if (protocol := found.get("FRA_IP_PROTO")) is not None:
        yield f"ipproto {protocol}"
    yield from (_range(word, found.get(name)) for word, name in _RANGES if found.get(name) is not None)
    if found.get("FRA_L3MDEV"):
        yield "l3mdev"
    if tunnel := found.get("FRA_TUN_ID"):
        yield f"tun_id {tunnel}"
    if realms := found.get("FRA_FLOW"):
        yield f"realms {realms >> 16}/{realms & 0xFFFF}" if realms >> 16 else f"realms {realms}"
    if (group := found.get("FRA_SUPPRESS_IFGROUP")) not in (None, _NONE):
        yield f"suppress_ifgroup {group}"
    # Selectors of newer kernels narrow a rule, too; only a port mask with all bits set does not.
    no_masks = {number for number, name in _MASKS.items() if found.get(name) == _ALL_BITS}
    yield from (f"attribute {number}" for number in sorted({*found.numbers()} - no_masks) if number > _LAST_KNOWN)


def _range(word: str, ends: dict[str, int]) -> str:
    first, last = ends["start"], ends["end"]
    # Like `ip rule`, show a range of one port as that port.
    return f"{word} {first}" if first == last and word != "uidrange" else f"{word} {first}-{last}"
