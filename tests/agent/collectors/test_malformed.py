"""Bytes that the kernel never sends: each gives an error with a reason, never a value or a crash."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kattila_agent.collectors import link_table, nexthops
from kattila_agent.collectors.netlink import transport
from kattila_agent.collectors.netlink.transport import Interrupted, Listed, NetlinkChannel, Refused
from support import netlink
from support.collector_messages import (
    COUNTERS,
    ETHERNET,
    INFINIBAND,
    LOCAL,
    LOCAL6,
    ROUTE,
    one,
    parsed_links,
    parsed_lookups,
    parsed_neighbours,
    parsed_routes,
    parsed_rules,
    parsed_tunnels,
)
from support.netlink import channel_with, done, link, link_info, message, nla


def nexthop(*attributes: bytes) -> bytes:
    """The body of RTM_NEWNEXTHOP."""
    return struct.pack("=BBBBI", 2, 0, 0, 0, 0) + b"".join(attributes)


def parsed_objects(body: bytes) -> object:
    return nexthops.parse([body])


def parsed_statistics(body: bytes) -> object:
    return one(ETHERNET, body)


# --- Malformed bodies

SHORT = "shorter than its header"
BAD_BODIES: list[tuple[str, Callable[[bytes], object], bytes, str]] = [
    ("empty link", one, b"", SHORT),
    ("cut in the header", one, ETHERNET[:15], SHORT),
    ("no name", one, struct.pack("=BxHiII", 0, 1, 2, 0, 0) + nla(4, 1500), "no name"),
    ("name without an end", one, struct.pack("=BxHiII", 0, 1, 2, 0, 0) + nla(3, b"eth0"), "string without an end"),
    ("no MTU", one, link(2, "eth0", mtu=None), "eth0 has no MTU"),
    ("MTU of two bytes", one, link(2, "eth0", nla(4, 1500, 2), mtu=None), "IFLA_MTU has 2 bytes instead of 4"),
    ("state of four bytes", one, link(2, "eth0", nla(16, 6)), "IFLA_OPERSTATE has 4 bytes instead of 1"),
    ("short statistics", parsed_statistics, netlink.statistics(2, COUNTERS[:-1]), "LINK_64 has 63 bytes"),
    ("cut statistics", parsed_statistics, netlink.statistics(2, b"")[:11], SHORT),
    ("attribute that is cut", one, INFINIBAND[:-5], "attribute of 24 bytes where 19 are left"),
    ("attribute of no length", one, link(2, "eth0", bytes(4)), "attribute of 0 bytes"),
    ("one byte too many", one, ETHERNET + b"x", "begins where only 1 bytes are left"),
    ("link info of nonsense", one, link(2, "eth0", nla(18, b"\xff\xff\x01\x00")), "attribute of 65535 bytes"),
    ("VLAN of four bytes", one, link(2, "v", link_info("vlan", nla(1, 7))), "IFLA_VLAN_ID has 4 bytes instead of 2"),
    ("VLAN data of nonsense", one, link(2, "v", link_info("vlan", b"\x09\0\x01\0")), "attribute of 9 bytes"),
    ("address of three bytes", lambda body: parsed_links((ETHERNET,), (body,)),
     netlink.address(2, 24, nla(2, b"abc")), "IFA_LOCAL is an address of 3 bytes"),
    ("address of 33 bits", lambda body: parsed_links((ETHERNET,), (body,)),
     netlink.address(2, 33, nla(2, LOCAL)), "33 bits"),
    ("address of the other family", lambda body: parsed_links((ETHERNET,), (body,)),
     netlink.address(2, 24, nla(2, LOCAL6)), "IFA_LOCAL is an address of 16 bytes"),
    ("no address", lambda body: parsed_links((ETHERNET,), (body,)), netlink.address(2, 24), "is missing"),
    ("cut route", parsed_routes, ROUTE[:11], SHORT),
    ("route of 33 bits", parsed_routes, netlink.route(nla(1, bytes(4)), length=33), "33 bits"),
    ("bits beyond the prefix", parsed_routes, netlink.route(nla(1, LOCAL), length=24), "bits beyond its prefix"),
    ("gateway of six bytes", parsed_routes, netlink.route(nla(5, bytes(6))), "address of 6 bytes"),
    ("gateway of the other family", parsed_routes, netlink.route(nla(5, LOCAL6)), "address of 16 bytes"),
    ("index of eight bytes", parsed_routes, netlink.route(nla(4, bytes(8))), "RTA_OIF has 8 bytes"),
    ("via of one byte", parsed_routes, netlink.route(nla(18, b"\x0a")), "RTA_VIA cannot be decoded"),
    ("hop that is cut", parsed_routes, netlink.route(nla(9, b"\x08\0\0")), "RTA_MULTIPATH cannot be decoded"),
    ("hop beyond its end", parsed_routes, netlink.route(nla(9, struct.pack("=HBBi", 64, 0, 0, 2))),
     "RTA_MULTIPATH cannot be decoded"),
    ("hop that reaches into the next attribute", parsed_routes,
     netlink.route(nla(9, struct.pack("=HBBi", 16, 0, 0, 2)), nla(6, 5)), "hop of 16 bytes where 8 are left"),
    ("hop of no length", parsed_routes, netlink.route(nla(9, bytes(8))), "RTA_MULTIPATH cannot be decoded"),
    ("object without an id", parsed_objects, nexthop(nla(5, 2)), "without its id"),
    ("object that is cut", parsed_objects, nexthop(nla(1, 7))[:-1], "attribute of 8 bytes where 7"),
    ("object with a short gateway", parsed_objects, nexthop(nla(1, 7), nla(6, b"abc")), "address of 3 bytes"),
    ("group with half a member", parsed_objects, nexthop(nla(1, 7), nla(2, bytes(12))), "group of nexthops of 12"),
    ("object's number of two bytes", parsed_routes, netlink.route(nla(30, 7, 2)), "RTA_NH_ID has 2 bytes"),
    ("cut rule", parsed_rules, netlink.rule()[:-1], SHORT),
    ("rule with a short prefix", parsed_rules, netlink.rule(nla(2, b"\x0a"), source=8), "is an address of 1 bytes"),
    ("rule with half a port range", parsed_rules, netlink.rule(nla(24, 53, 2)), "FRA_DPORT_RANGE has 2 bytes"),
    ("fwmark of one byte", parsed_rules, netlink.rule(nla(10, 1, 1)), "FRA_FWMARK has 1 bytes"),
    ("cut neighbour", parsed_neighbours, netlink.neighbour(2, 2)[:-1], SHORT),
    ("neighbour without an address", parsed_neighbours, netlink.neighbour(2, 2), "without an address"),
    ("neighbour of five bytes", parsed_neighbours, netlink.neighbour(2, 2, nla(1, bytes(5))), "address of 5 bytes"),
    ("tunnel with an end of two bytes", parsed_tunnels,
     link(9, "t0", link_info("gre", nla(6, b"ab"))), "address of 2 bytes"),
    ("VNI of two bytes", parsed_tunnels, link(9, "t0", link_info("vxlan", nla(1, 5, 2))), "IFLA_VXLAN_ID has 2 bytes"),
    ("tunnel data that is cut", parsed_tunnels, link(9, "t0", link_info("sit", b"\x08\0\x02\0\xc0")),
     "attribute of 8 bytes where"),
    ("lookup with metrics of nonsense", parsed_lookups, netlink.route(nla(8, b"\x03\0\0\0")), "attribute of 3 bytes"),
    ("lookup that is cut", parsed_lookups, ROUTE[:8], SHORT),
]  # fmt: skip


@pytest.mark.parametrize(
    ("parse", "body", "reason"), [case[1:] for case in BAD_BODIES], ids=[case[0] for case in BAD_BODIES]
)
def test_malformed_bodies(parse: Callable[[bytes], object], body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(body)


# --- Malformed answers


def dumped(*datagrams: bytes) -> Listed:
    with channel_with(*datagrams) as channel:
        return channel.dump(18, b"", 2, least=1, wanted=lambda body: body[:1] in (b"a", b"b", b"c"))


def test_a_dump_in_several_datagrams_is_bounded_and_counted() -> None:
    datagrams = (
        message(16, b"a" * 5) + message(16, b"-"),
        message(16, b"b") + message(16, b"c"),
        message(16, b"c") + done(),
    )
    assert dumped(*datagrams) == Listed([b"a" * 5, b"b"], 4)


def test_answers_to_an_earlier_request_are_skipped() -> None:
    assert dumped(message(16, b"a", sequence=0), done(sequence=0), message(16, b"b") + done()) == Listed([b"b"], 1)


@pytest.mark.parametrize(
    ("datagrams", "error", "reason"),
    [
        ((b"abc",), ValueError, "3 bytes where a message begins"),
        ((message(16, b"a") + b"\0\0\0\0",), ValueError, "4 bytes where a message begins"),
        ((message(16, b"a", length=8),), ValueError, "message of 8 bytes"),
        ((message(16, b"a", length=2**32 - 1),), ValueError, "message of 4294967295 bytes where 20 are left"),
        ((message(16, b"a", length=0),), ValueError, "message of 0 bytes"),
        ((message(16, b""),), ValueError, "shorter than its header of 1"),
        ((message(2, b"\xff"),), ValueError, "end of 1 bytes"),
        ((message(3, b"\xff\xff"),), ValueError, "end of 2 bytes"),
        ((message(2, struct.pack("=i", -1)),), Refused, "not permitted"),
        ((message(16, b"a"), done(code=-12)), OSError, "Cannot allocate memory"),
        ((message(16, b"a", flags=0x12),), Interrupted, "changed"),
        ((message(16, b"a"),), TimeoutError, "timed out"),
        ((), TimeoutError, "timed out"),
        ((b"a" * 140_000,), ValueError, "more than 131072 bytes"),
    ],
)
def test_malformed_answers(datagrams: tuple[bytes, ...], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        dumped(*datagrams)


def test_a_request_without_an_answer_fails() -> None:
    with channel_with(done()) as channel, pytest.raises(ValueError, match="without a message"):
        channel.request(26, b"")


def test_if_links_keep_changing_some_names_are_better_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = message(16, link(2, "eth0"), flags=0x12) + message(16, link(3, "eth1")) + done()
    with channel_with(interrupted) as channel, pytest.raises(Interrupted):
        list(channel.each(18, b""))
    attempts = []

    @contextmanager
    def opened() -> Iterator[NetlinkChannel]:
        attempts.append(1)
        with channel_with(interrupted) as channel:
            yield channel

    monkeypatch.setattr(transport, "opened", opened)
    assert link_table.read_by_index(link_table.name) == {2: "eth0", 3: "eth1"}
    assert len(attempts) == 20


def test_a_table_that_keeps_changing_fails_after_some_attempts() -> None:
    attempts = []

    def changing(_channel: NetlinkChannel) -> Listed:
        attempts.append(1)
        raise Interrupted

    with pytest.raises(OSError, match="kept changing"):
        transport.retried(changing)
    assert len(attempts) == 20
