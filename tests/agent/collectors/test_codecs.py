"""Each correction of pyroute2's declarations: what it returns, and what the codecs return.

A test here fails if a new version of pyroute2 no longer needs a correction. Then remove the correction with its test.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import logging
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2.netlink import nlmsg, rtnl
from pyroute2.netlink.exceptions import NetlinkNLADecodeError
from pyroute2.netlink.generic.wireguard import wgmsg
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ifstatsmsg import ifstatsmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from kattila_agent.collectors.netlink.codecs.genetlink import FAMILY, L2TP, WIREGUARD
from kattila_agent.collectors.netlink.codecs.message import Malformed, Message
from kattila_agent.collectors.netlink.codecs.rtnetlink import ADDRESS, LINK, NEIGHBOUR, NEXTHOP, ROUTE, RULE, STATISTICS
from support import netlink, wireguard_packets
from support.netlink import ip, link, link_info, nla


def theirs(kind: type[Any], body: bytes) -> Any:
    """Return a message as pyroute2 decodes it."""
    message = kind(data=netlink.message(16, body))
    message.decode()
    return message


def their_details(body: bytes) -> Any:
    return theirs(ifinfmsg, body).get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")


def details(body: bytes) -> Message:
    found = LINK.decode(body).get("IFLA_LINKINFO").get("IFLA_INFO_DATA")
    assert isinstance(found, Message)
    return found


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, at any level."""
    text = io.StringIO()
    catcher = logging.StreamHandler(text)
    root = logging.getLogger()
    before = root.level
    root.addHandler(catcher)
    root.setLevel(logging.DEBUG)
    yield text
    root.setLevel(before)
    root.removeHandler(catcher)


# --- Lengths


def test_an_index_of_two_bytes_is_not_a_number() -> None:
    body = netlink.route(nla(4, b"ab"), nla(6, 7))
    assert theirs(rtmsg, body).get_attr("RTA_OIF") == int.from_bytes(b"ab", sys.byteorder)
    with pytest.raises(Malformed, match="RTA_OIF has 2 bytes instead of 4"):
        ROUTE.decode(body).get("RTA_OIF")


def test_an_address_that_is_too_long_is_not_cut() -> None:
    body = netlink.route(nla(5, bytes(6)))
    assert theirs(rtmsg, body).get_attr("RTA_GATEWAY") == "0.0.0.0"
    with pytest.raises(Malformed, match="RTA_GATEWAY is an address of 6 bytes"):
        ROUTE.decode(body).get("RTA_GATEWAY")


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        (struct.pack("=HHI", 400, 6, 7), "an attribute of 400 bytes where 8 are left"),
        (struct.pack("=HHI", 3, 6, 7), "an attribute of 3 bytes"),
        (nla(6, 7) + b"\0\0\0", "begins where only 3 bytes are left"),
    ],
)
def test_an_attribute_that_does_not_fit_is_refused(attribute: bytes, reason: str) -> None:
    assert len(theirs(rtmsg, netlink.route(nla(4, 2), attribute))["attrs"]) >= 2
    with pytest.raises(Malformed, match=reason):
        ROUTE.decode(netlink.route(nla(4, 2), attribute))


def test_statistics_of_an_old_kernel() -> None:
    counters = struct.pack("=8Q", *range(1, 9))
    body = netlink.statistics(2, counters) + nla(99, b"\xff" * 200)
    assert theirs(ifstatsmsg, body).get_attr("IFLA_STATS_LINK_64")["rx_length_errors"] != 0
    found = STATISTICS.decode(body).get("IFLA_STATS_LINK_64")
    assert list(found.values()) == list(range(1, 9))
    assert (found["rx_bytes"], found["tx_dropped"]) == (3, 8)


def test_if_an_attribute_is_repeated_the_last_one_counts_as_in_the_kernel() -> None:
    body = netlink.route(nla(6, 1), nla(6, 2))
    assert theirs(rtmsg, body).get_attr("RTA_PRIORITY") == 1
    assert ROUTE.decode(body).get("RTA_PRIORITY") == 2


def test_a_next_hop_may_not_reach_beyond_its_attribute() -> None:
    body = netlink.route(nla(9, struct.pack("=HBBi", 16, 0, 0, 2)), nla(6, 7))
    assert theirs(rtmsg, body).get_attr("RTA_MULTIPATH")[0].get_attr("RTA_PRIORITY") == 7
    with pytest.raises(Malformed, match="a next hop of 16 bytes where 8 are left"):
        ROUTE.decode(body).get("RTA_MULTIPATH")


# --- Strings and addresses


def test_a_name_of_any_bytes_is_text() -> None:
    body = link(2, "x", nla(3, b"w\xc3\xa4g\xff\0"))
    assert theirs(ifinfmsg, body).get_attrs("IFLA_IFNAME")[1] == b"w\xc3\xa4g\xff"
    assert LINK.decode(body).get("IFLA_IFNAME") == "wäg\\xff"
    assert LINK.decode(body).raw("IFLA_IFNAME") == b"w\xc3\xa4g\xff\0"


def test_a_string_without_an_end_is_refused() -> None:
    body = netlink.rule(nla(3, b"eth0"))
    assert theirs(fibmsg, body).get_attr("FRA_IIFNAME") == "eth0"
    with pytest.raises(Malformed, match="FRA_IIFNAME is a string without an end"):
        RULE.decode(body).get("FRA_IIFNAME")


@pytest.mark.parametrize("address", [ip("192.0.2.1"), ip("2001:db8::1"), bytes(range(20))])
def test_a_hardware_address_has_any_length(address: bytes) -> None:
    """As with gre, ip6tnl and InfiniBand."""
    body = link(2, "x", nla(1, address), nla(16, 6, 1))
    assert theirs(ifinfmsg, body).get_attr("IFLA_ADDRESS").count(":") == 5
    assert LINK.decode(body).get("IFLA_ADDRESS") == address


def test_the_hardware_address_of_a_neighbour_is_bytes(log: io.StringIO) -> None:
    def neighbour(address: bytes) -> bytes:
        return netlink.neighbour(2, 2, nla(1, ip("192.0.2.9")), nla(2, address))

    assert theirs(ndmsg, neighbour(bytes(16))).get_attr("NDA_LLADDR") == "::"
    for size in (4, 6, 16, 20):
        assert NEIGHBOUR.decode(neighbour(bytes(size))).get("NDA_LLADDR") == bytes(size)
    assert log.getvalue() == ""
    theirs(ndmsg, neighbour(bytes(20))).get_attr("NDA_LLADDR")
    assert "invalid lladdr size" in log.getvalue()


def test_an_address_is_of_the_family_of_its_message() -> None:
    body = netlink.address(2, 24, nla(2, ip("2001:db8::1")))
    assert theirs(ifaddrmsg, body).get_attr("IFA_LOCAL") == "2001:db8::1"
    with pytest.raises(Malformed, match="IFA_LOCAL is an address of 16 bytes"):
        ADDRESS.decode(body).get("IFA_LOCAL")


def test_a_gateway_of_another_family_has_its_length() -> None:
    def via(address: bytes) -> bytes:
        return netlink.route(nla(18, struct.pack("=H", socket.AF_INET6) + address))

    assert ROUTE.decode(via(ip("2001:db8::1"))).get("RTA_VIA") == "2001:db8::1"
    assert theirs(rtmsg, via(bytes(4))).get_attr("RTA_VIA")["addr"] == "00:00:00:00"
    with pytest.raises(Malformed, match="RTA_VIA is an address of 4 bytes"):
        ROUTE.decode(via(bytes(4))).get("RTA_VIA")


# --- Links


def test_an_unknown_state_is_a_number(log: io.StringIO) -> None:
    body = link(2, "x", nla(16, 9, 1))
    assert isinstance(theirs(ifinfmsg, body).get_attr("IFLA_OPERSTATE"), bytes)
    assert LINK.decode(body).get("IFLA_OPERSTATE") == 9
    assert log.getvalue() == ""


def test_a_link_may_have_protocol_attributes_of_any_family() -> None:
    body = link(2, "x", nla(12, b""))
    with pytest.raises(NetlinkNLADecodeError):
        theirs(ifinfmsg, body)
    assert LINK.decode(body).get("IFLA_IFNAME") == "x"


def test_the_flags_of_ip6gre_are_in_network_order() -> None:
    body = link(2, "x", link_info("ip6gre", nla(2, b"\x20\x00")))
    if sys.byteorder == "little":
        assert their_details(body).get_attr("IFLA_IP6GRE_IFLAGS") == 0x20
    assert details(body).get("IFLA_IP6GRE_IFLAGS") == 0x2000


def test_ip6gre_has_a_mark_and_may_be_external() -> None:
    body = link(2, "x", link_info("ip6gre", nla(18, b""), nla(20, 7)))
    assert [slot.name for slot in their_details(body)["attrs"]] == ["UNKNOWN", "UNKNOWN"]
    assert details(body).get("IFLA_IP6GRE_FWMARK") == 7
    assert details(body).get("IFLA_IP6GRE_COLLECT_METADATA") is True


@pytest.mark.parametrize(
    ("kind", "local", "name"),
    [("erspan", "192.0.2.1", "IFLA_GRE_LOCAL"), ("ip6erspan", "2001:db8::1", "IFLA_IP6GRE_LOCAL")],
)
def test_erspan_is_a_kind_of_gre(kind: str, local: str, name: str) -> None:
    body = link(2, "x", link_info(kind, nla(6, ip(local))))
    assert isinstance(their_details(body), str)
    assert details(body).get(name) == local


def test_vti_has_a_mark() -> None:
    body = link(2, "x", link_info("vti", nla(6, 7)))
    assert [slot.name for slot in their_details(body)["attrs"]] == ["UNKNOWN"]
    assert details(body).get("IFLA_VTI_FWMARK") == 7


# --- Routes, nexthop objects and rules


@pytest.mark.parametrize(
    ("name", "value", "number", "encoded"),
    [
        ("RTA_UID", 7, 25, struct.pack("=I", 7)),
        ("RTA_IP_PROTO", 17, 27, b"\x11"),
        ("RTA_SPORT", 51820, 28, b"\xca\x6c"),
        ("RTA_DPORT", 51820, 29, b"\xca\x6c"),
        ("RTA_NH_ID", 7, 30, struct.pack("=I", 7)),
    ],
)
def test_routes_have_the_attributes_of_newer_kernels(name: str, value: int, number: int, encoded: bytes) -> None:
    assert name not in dict(rtmsg.nla_map)
    body = ROUTE.encode((name, value), family=2)
    assert body[ROUTE.size :] == nla(number, encoded)
    assert ROUTE.decode(body).get(name) == value


ENDLESS = """
import struct
from pyroute2.netlink.rtnl.rtmsg import rtmsg
message = rtmsg(data=struct.pack("=IHHII8BIHHI", 36, 24, 0, 0, 0, 2, 0, 0, 0, 254, 0, 0, 1, 0, 0, 22, 0))
message.decode()
"""


def test_an_encapsulation_of_no_length_does_not_take_forever() -> None:
    limited = subprocess.run(
        [sys.executable, "-c", ENDLESS],
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (4, 4)),
    )
    assert limited.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
    with pytest.raises(Malformed, match="an attribute of 0 bytes"):
        ROUTE.decode(netlink.route(struct.pack("=HHI", 0, 22, 0)))


def test_pyroute2_has_no_nexthop_messages() -> None:
    assert not hasattr(rtnl, "RTM_GETNEXTHOP")
    assert [name for name in ("nhmsg", "nexthop") if importlib.util.find_spec(f"pyroute2.netlink.rtnl.{name}")] == []
    members = struct.pack("=IBBHIBBH", 7, 1, 0, 0, 8, 1, 0, 0)
    found = NEXTHOP.decode(
        struct.pack("=BBBBI", 2, 0, 4, 0, 16) + nla(1, 9) + nla(2, members) + nla(6, ip("192.0.2.1"))
    )
    assert (found.get("NHA_ID"), found.get("NHA_GROUP"), found.get("NHA_GATEWAY")) == (9, [7, 8], "192.0.2.1")
    assert (found.fields["protocol"], found.fields["flags"]) == (4, 16)


def test_rules_have_masks_of_ports() -> None:
    assert {28, 29}.isdisjoint(number for number, *_ in fibmsg.nla_map)
    assert RULE.decode(netlink.rule(nla(28, 0xFFFF, 2))).get("FRA_SPORT_MASK") == 0xFFFF


def test_a_range_of_a_rule_is_two_numbers() -> None:
    body = netlink.rule(nla(24, struct.pack("=HH", 53, 54)))
    assert theirs(fibmsg, body).get_attr("FRA_DPORT_RANGE") == "53:54"
    assert RULE.decode(body).get("FRA_DPORT_RANGE") == {"start": 53, "end": 54}


# --- Generic netlink

PRIVATE, PRESHARED, PUBLIC = bytes(range(1, 33)), bytes(range(101, 133)), bytes(range(200, 232))
ENDPOINT = wireguard_packets.sockaddr("fe80::1", 51820, 3)
DEVICE = wireguard_packets.message(
    wireguard_packets.device(PRIVATE, PUBLIC),
    wireguard_packets.peers(
        wireguard_packets.peer(
            PUBLIC,
            preshared_key=wireguard_packets.attribute(2, PRESHARED),
            endpoint=wireguard_packets.attribute(4, ENDPOINT),
        )
    ),
)


def test_keys_of_wireguard_are_not_values() -> None:
    message = theirs(wgmsg, DEVICE)
    assert message.get_attr("WGDEVICE_A_PRIVATE_KEY") == base64.b64encode(PRIVATE)
    preshared = message.get_attr("WGDEVICE_A_PEERS")[0].get_attr("WGPEER_A_PRESHARED_KEY")
    assert preshared == base64.b64encode(PRESHARED)
    found = WIREGUARD.decode(DEVICE)
    with pytest.raises(TypeError, match="WGDEVICE_A_PRIVATE_KEY is not declared to be read"):
        found.get("WGDEVICE_A_PRIVATE_KEY")
    (peer,) = found.get("WGDEVICE_A_PEERS").all("peer")
    assert peer.get("WGPEER_A_PRESHARED_KEY") is True


def test_the_scope_of_an_endpoint_is_in_the_order_of_the_machine() -> None:
    peer = theirs(wgmsg, DEVICE).get_attr("WGDEVICE_A_PEERS")[0]
    if sys.byteorder == "little":
        assert peer.get_attr("WGPEER_A_ENDPOINT")["scope_id"] == 3 << 24
    (found,) = WIREGUARD.decode(DEVICE).get("WGDEVICE_A_PEERS").all("peer")
    assert found.get("WGPEER_A_ENDPOINT")["scope"] == 3


IMPORTED = """
import sys, types, importlib.util
# Without this, its package imports everything.
package = types.ModuleType("pyroute2")
package.__path__ = importlib.util.find_spec("pyroute2").submodule_search_locations
sys.modules["pyroute2"] = package
import pyroute2.netlink.generic.{}
print("pyroute2.netlink.nlsocket" in sys.modules)
"""


@pytest.mark.parametrize("name", ["wireguard", "l2tp"])
def test_messages_of_generic_netlink_come_with_the_sockets_of_pyroute2(name: str) -> None:
    """So both messages are declared here."""
    assert subprocess.check_output([sys.executable, "-c", IMPORTED.format(name)], text=True) == "True\n"
    assert L2TP.decode(bytes(4) + nla(9, 7)).get("L2TP_ATTR_CONN_ID") == 7


# --- The library as a whole


def test_a_message_of_pyroute2_that_is_used_first_does_not_change_ours() -> None:
    """pyroute2 keeps the table of a class also for its subclasses."""

    class Base(nlmsg):  # type: ignore[misc]
        nla_map = ((1, "NUMBER", "uint32"),)

    Base()

    class Changed(Base):
        nla_map = ((1, "NUMBER", "uint16"),)

    assert theirs(Changed, nla(1, 7)).get_attr("NUMBER") == 7
    assert theirs(Changed, nla(1, b"ab"))["attrs"][0].nla.fields == [("value", "I")]
    theirs(ifaddrmsg, netlink.address(2, 24, nla(2, ip("192.0.2.1"))))
    with pytest.raises(Malformed):
        ADDRESS.decode(netlink.address(2, 24, nla(2, ip("2001:db8::1")))).get("IFA_LOCAL")


def test_nothing_is_logged(log: io.StringIO) -> None:
    body = netlink.route(nla(9, struct.pack("=HBBi", 64, 0, 0, 2)))
    with pytest.raises(Malformed, match="RTA_MULTIPATH cannot be decoded"):
        ROUTE.decode(body).get("RTA_MULTIPATH")
    assert log.getvalue() == ""
    library = logging.getLogger("pyroute2")
    silent = library.level
    library.setLevel(logging.DEBUG)
    try:
        with pytest.raises(Malformed):
            ROUTE.decode(body).get("RTA_MULTIPATH")
    finally:
        library.setLevel(silent)
    assert "Traceback" in log.getvalue()


def test_an_attribute_of_an_uncorrected_type_cannot_be_read() -> None:
    with pytest.raises(TypeError, match="RTA_CACHEINFO is not declared to be read"):
        ROUTE.decode(netlink.route(nla(12, bytes(32)))).get("RTA_CACHEINFO")


def test_requests_are_those_of_the_kernel_headers() -> None:
    number = struct.Struct("=I").pack
    assert LINK.encode(("IFLA_EXT_MASK", 16), index=3) == struct.pack("=BxHiII", 0, 0, 3, 0, 0) + nla(29, number(16))
    kind = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "wireguard")]})
    assert LINK.encode(kind)[LINK.size :] == nla(18 | 0x8000, nla(1, "wireguard"))
    assert ROUTE.encode(("RTA_TABLE", 51820), family=10) == bytes((10,)) + bytes(11) + nla(15, number(51820))
    assert ROUTE.encode(("RTA_DST", "192.0.2.1"), family=2, dst_len=32)[ROUTE.size :] == nla(1, ip("192.0.2.1"))
    assert NEIGHBOUR.encode(family=7, ifindex=3) == struct.pack("=BxxxiHBB", 7, 3, 0, 0, 0)
    assert RULE.encode(family=10) == bytes((10,)) + bytes(11)
    assert (ADDRESS.encode(), NEXTHOP.encode()) == (bytes(8), bytes(8))
    assert STATISTICS.encode(filter_mask=1) == bytes(8) + number(1)
    name = nla(2, "wireguard")
    assert FAMILY.encode(("CTRL_ATTR_FAMILY_NAME", "wireguard"), cmd=3, version=1) == b"\x03\x01\0\0" + name
    assert WIREGUARD.encode(("WGDEVICE_A_IFINDEX", 7), version=1) == b"\0\x01\0\0" + nla(1, number(7))
    assert L2TP.encode(cmd=8, version=1) == b"\x08\x01\0\0"
    numbers = [each.request for each in (LINK, STATISTICS, ADDRESS, ROUTE, NEIGHBOUR, RULE, NEXTHOP, FAMILY)]
    assert numbers == [18, 94, 22, 26, 30, 34, 106, 16]


def test_a_reader_takes_fields_of_the_header_only() -> None:
    read = ROUTE.reader("family", "dst_len", "table", "flags")
    assert read(netlink.route(family=10, length=64, table=77)) == (10, 64, 77, 0)
    assert LINK.reader("index")(link(5, "x")) == (5,)
