"""The messages of rtnetlink(7), and the numbers of the requests for them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from pyroute2.netlink import NLA_F_NESTED, nla, nlmsg, nlmsg_atoms
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE, RTM_GETRULE, RTM_GETSTATS
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase, stats_names
from pyroute2.netlink.rtnl.ifstatsmsg import ifstatsmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import nh, rtmsg_base

from kattila_agent.collectors.netlink.codecs.message import (
    ADDRESS_SIZES,
    ATTRIBUTE,
    AnyMessage,
    Checked,
    Codec,
    Corrected,
    Message,
    Nested,
    Struct,
    Types,
    check_fit,
    nested,
    size_of,
)

_INFO = ifinfbase.ifinfo
_GRE = nested(_INFO.gre_data, IFLA_GRE_IFLAGS="be16", IFLA_GRE_OFLAGS="be16")
# The flags are in network order, and attributes of kernels since 4.8 are missing.
_IP6GRE = nested(
    _INFO.ip6gre_data,
    ("IFLA_IP6GRE_COLLECT_METADATA", "flag"),
    ("IFLA_IP6GRE_IGNORE_DF", "uint8"),
    ("IFLA_IP6GRE_FWMARK", "uint32"),
    IFLA_IP6GRE_IFLAGS="be16",
    IFLA_IP6GRE_OFLAGS="be16",
)


class _Link(AnyMessage, ifinfbase, nlmsg):
    __slots__ = ()
    # pyroute2 raises KeyError at an unknown state, and at most families.
    state, protinfo = Types.uint8, Types.hex

    class ifinfo(Nested, ifinfbase.ifinfo):
        __slots__ = ()
        nla_flags = NLA_F_NESTED
        bond_slave_data, bridge_slave_data = nested(_INFO.bond_slave_data), nested(_INFO.bridge_slave_data)
        data_map: Mapping[str, type[Any]] = {
            **{kind: nested(_INFO.data_map[kind]) for kind in ("geneve", "ip6tnl", "vlan", "vrf", "vti6", "vxlan")},
            "ipip": nested(_INFO.ipip_data),
            "sit": nested(_INFO.sit_data),
            "vti": nested(_INFO.data_map["vti"], ("IFLA_VTI_FWMARK", "uint32")),
            **dict.fromkeys(("gre", "gretap", "erspan"), _GRE),
            **dict.fromkeys(("ip6gre", "ip6gretap", "ip6erspan"), _IP6GRE),
        }


class _Statistics(AnyMessage, ifstatsmsg):
    __slots__ = ()

    class ifstats64(Struct, nla):
        """The beginning, which every kernel has. pyroute2 reads past the end of shorter ones."""

        __slots__ = ()
        fields = tuple((name, "Q") for name in stats_names[:8])


class _Route(AnyMessage, rtmsg_base, nlmsg):
    __slots__ = ()
    nla_map = (
        *rtmsg_base.nla_map,
        ("RTA_PAD", "none"),
        ("RTA_UID", "uint32"),
        ("RTA_TTL_PROPAGATE", "uint8"),
        ("RTA_IP_PROTO", "uint8"),
        ("RTA_SPORT", "be16"),
        ("RTA_DPORT", "be16"),
        ("RTA_NH_ID", "uint32"),
    )
    metrics = nested(rtmsg_base.metrics)
    # pyroute2 searches the message for its type, without an end if a length is 0.
    encap_info = Types.hex

    class rtvia(Checked, rtmsg_base.rtvia):
        """The address of a gateway of another family. pyroute2 returns one that does not fit in hex."""

        __slots__ = ()

        def result(self, _name: str, _within: Message) -> str:
            """Return the address."""
            found = self.getvalue()
            if self.length - 6 not in ADDRESS_SIZES.get(found["family"], ()):
                raise ValueError(f"is an address of {self.length - 6} bytes")
            address: str = found["addr"]
            return address

    @staticmethod
    def get_nh(*_arguments: Any, **_named: Any) -> type[Any]:
        """Return the class of the next hops."""
        return _NextHops


class _NextHops(Checked, Corrected, nh):
    """RTA_MULTIPATH, and each next hop in it."""

    __slots__ = ()
    nla_map = _Route.nla_map
    metrics, encap_info, rtvia, get_nh = _Route.metrics, _Route.encap_info, _Route.rtvia, _Route.get_nh

    def result(self, name: str, within: Message) -> list[Message]:
        """Return the next hops."""
        header = 2 + size_of(self.fields)
        check_fit(self.value, self, ATTRIBUTE.size, header, f"{name}: a next hop")
        return [Message(hop, header, name, within) for hop in self.value]


class _NextHopObject(AnyMessage, nlmsg):
    """linux/nexthop.h: struct nhmsg, which pyroute2 lacks."""

    __slots__ = ()
    fields = (("family", "B"), ("scope", "B"), ("protocol", "B"), ("resvd", "B"), ("flags", "I"))
    nla_map = (
        ("NHA_UNSPEC", "none"),
        ("NHA_ID", "uint32"),
        ("NHA_GROUP", "group"),
        ("NHA_GROUP_TYPE", "uint16"),
        ("NHA_BLACKHOLE", "flag"),
        ("NHA_OIF", "uint32"),
        ("NHA_GATEWAY", "target"),
        ("NHA_ENCAP_TYPE", "uint16"),
    )

    class group(Checked, nlmsg_atoms.cdata):
        """The ids of the members: struct nexthop_grp, with a weight and reserved bytes behind each id."""

        __slots__ = ()

        def result(self, _name: str, _within: Message) -> list[int]:
            """Return the ids."""
            if (self.length - 4) % 8:
                raise ValueError(f"is a group of nexthops of {self.length - 4} bytes")
            return [number for (number,) in struct.iter_unpack("=I4x", self.getvalue())]


class _Rule(AnyMessage, fibmsg):
    __slots__ = ()
    nla_map = (*fibmsg.nla_map, (28, "FRA_SPORT_MASK", "uint16"), (29, "FRA_DPORT_MASK", "uint16"))

    class uid_range(Struct, fibmsg.uid_range):
        __slots__ = ()

    class port_range(Struct, fibmsg.port_range):
        __slots__ = ()


class _LinkAddress(AnyMessage, ifaddrmsg):
    __slots__ = ()


class _Neighbour(AnyMessage, ndmsg):
    __slots__ = ()

    class cacheinfo(Struct, ndmsg.cacheinfo):
        __slots__ = ()


LINK = Codec(_Link, RTM_GETLINK)
STATISTICS = Codec(_Statistics, RTM_GETSTATS)
ADDRESS = Codec(_LinkAddress, RTM_GETADDR)
ROUTE = Codec(_Route, RTM_GETROUTE)
RULE = Codec(_Rule, RTM_GETRULE)
NEIGHBOUR = Codec(_Neighbour, RTM_GETNEIGH)
# linux/rtnetlink.h: RTM_GETNEXTHOP
NEXTHOP = Codec(_NextHopObject, 106)
