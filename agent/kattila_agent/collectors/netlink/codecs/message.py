"""Messages by attribute name, the codecs that decode and encode them, and the types of attributes.

Each type checks the length of its attribute.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pyroute2.netlink import nla, nlmsg_atoms

# It would log the bytes of what it cannot decode. This comes last: importing it sets its level.
logging.getLogger("pyroute2").setLevel(logging.CRITICAL + 1)

ADDRESS_SIZES: Mapping[int, tuple[int, ...]] = {socket.AF_INET: (4,), socket.AF_INET6: (16,)}
_KEY_BYTES = 32
ATTRIBUTE, _LENGTH = struct.Struct("=HH"), struct.Struct("=H")
_TYPE_MASK = 0x3FFF


class Malformed(ValueError):
    """Something does not fit. The text contains lengths; `what` only names it, for messages that contain keys."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} {reason}")
        self.what = what


class Message:
    """The attributes of a message, or of an attribute that contains others, by name.

    A value is decoded when it is read. A number is an int, a string a str, an IP address a str, a struct a dict, an
    attribute that contains others a Message, and everything else bytes. `fields` are those of the header.
    """

    __slots__ = ("_attributes", "_by_name", "_values", "_within", "fields")

    def __init__(self, decoded: Any, header: int, what: str, within: object = None) -> None:
        """Take a decoded message with a header of this size, and what must stay in memory with it.

        Raises:
            Malformed: an attribute does not fit.
        """
        self._within = within
        self.fields: Mapping[str, int] = decoded
        self._attributes = [slot.cell for slot in decoded["attrs"]]
        self._by_name = dict(self._attributes)
        self._values: dict[str, Any] = {}
        check_fit([cell for _, cell in self._attributes], decoded, header, ATTRIBUTE.size, f"{what}: an attribute")

    def get(self, name: str) -> Any:
        """Return the value of an attribute, None if it is absent; raises Malformed.

        If the attribute is repeated, the last one counts, as in the kernel's nla_parse.
        """
        if name not in self._by_name:
            return None
        if name not in self._values:
            self._values[name] = _value(name, self._by_name[name], self)
        return self._values[name]

    def all(self, name: str) -> Iterator[Any]:
        """Yield the values of all attributes with this name, in order; raises Malformed."""
        return (_value(name, cell, self) for key, cell in self._attributes if key == name)

    def raw(self, name: str) -> bytes:
        """Return the bytes of an attribute, empty if it is absent."""
        cell = self._by_name.get(name)
        return b"" if cell is None else bytes(cell.data[cell.offset + ATTRIBUTE.size : cell.offset + cell.length])

    def numbers(self) -> list[int]:
        """Return the numbers of all attributes."""
        return [ATTRIBUTE.unpack_from(cell.data, cell.offset)[1] & _TYPE_MASK for _, cell in self._attributes]


class Codec:
    """Encodes and decodes the messages of a type, without struct nlmsghdr. `request` is the type's number, if fixed."""

    def __init__(self, message: type[Any], request: int = 0) -> None:
        """Take the class of the messages."""
        self._message, self.request = message, request
        self.size = size_of(message.fields)

    def reader(self, *names: str) -> Callable[[bytes], tuple[int, ...]]:
        """Return a function that reads these fields of the header, in the header's order: for millions of messages."""
        formats = (fmt if name in names else f"{struct.calcsize(fmt)}x" for name, fmt in self._message.fields)
        return struct.Struct("=" + "".join(formats)).unpack_from

    def decode(self, body: bytes) -> Message:
        """Return the attributes of a message; raises Malformed."""
        if len(body) < self.size:
            raise Malformed("a message", f"of {len(body)} bytes, shorter than its header of {self.size}")
        message = self._message(data=body, length=len(body))
        try:
            message.decode()
        except Exception:
            raise Malformed("a message", "cannot be decoded") from None
        return Message(message, self.size, "a message")

    def encode(self, *attributes: tuple[str, Any], **fields: int) -> bytes:
        """Return the body of a request; fields that are not given are 0."""
        message = self._message()
        message.update({name: 0 for name, fmt in message.fields if not fmt.endswith("x")}, **fields)
        message["attrs"] = list(attributes)
        message.encode()
        return bytes(message.data)


def _value(name: str, cell: Any, within: Message) -> Any:
    if not isinstance(cell, Checked):
        raise TypeError(f"{name} is not declared to be read")
    try:
        if not cell.decoded:
            cell.decode()
        return cell.result(name, within)
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(name, str(error)) from None
    except Exception:
        # Whatever pyroute2 raises about bytes that it did not expect.
        raise Malformed(name, "cannot be decoded") from None


def check_fit(cells: Iterable[Any], within: Any, header: int, least: int, what: str) -> None:
    """Raise Malformed unless these parts, which begin with their lengths, fill what is behind a header."""
    at, end = within.offset + header, within.offset + within.length
    for cell in cells:
        (length,) = _LENGTH.unpack_from(cell.data, at)
        if not least <= length <= end - at:
            raise Malformed(what, f"of {length} bytes where {end - at} are left")
        at += (length + 3) & ~3
    if at < end:
        raise Malformed(what, f"begins where only {end - at} bytes are left")


def size_of(fields: Iterable[tuple[str, str]]) -> int:
    """Return the size of a struct without gaps, in bytes."""
    return sum(struct.calcsize(fmt) for _, fmt in fields)


class Checked:
    """An attribute that may be read: its length is checked before it is decoded."""

    __slots__ = ()

    # pyroute2 defines these, in the class behind this one.
    data: Any
    offset: int
    length: int
    decoded: bool
    fields: Any
    __getitem__: Any
    decode: Any
    getvalue: Any

    def result(self, _name: str, _within: Message) -> Any:
        """Return the value; `_within` is the message that contains it. Raises ValueError if it is malformed."""
        return self.getvalue()


class Exact(Checked):
    """An attribute whose fields fill it completely."""

    __slots__ = ()
    size = 0
    grows = False

    def __init_subclass__(cls) -> None:
        cls.size = size_of(getattr(cls, "fields", ()))

    def decode(self) -> None:
        if self.length != 4 + self.size and not (self.grows and self.length > 4 + self.size):
            raise ValueError(f"has {self.length - 4} bytes instead of {self.size}")
        super().decode()


class Struct(Exact):
    """Several numbers. A newer kernel may add some at the end."""

    __slots__ = ()
    grows = True

    def result(self, _name: str, _within: Message) -> dict[str, Any]:
        """Return the numbers by name."""
        return {name: self[name] for name, fmt in self.fields if not fmt.endswith("x")}


class Bytes(Checked, nlmsg_atoms.cdata):
    __slots__ = ()


class Key(Bytes):
    __slots__ = ()

    def decode(self) -> None:
        if self.length != 4 + _KEY_BYTES:
            raise ValueError("has the wrong length")
        super().decode()


class Presence(Checked, nla):
    """Whether a secret is set. The secret itself does not become a value."""

    __slots__ = ()

    def result(self, _name: str, _within: Message) -> bool:
        """Return whether one of its bits is set."""
        if self.length != 4 + _KEY_BYTES:
            raise ValueError("has the wrong length")
        return any(self.data[self.offset + 4 : self.offset + self.length])


class Text(Checked, nlmsg_atoms.asciiz):
    """A name of any bytes. pyroute2 returns bytes if they are not UTF-8, and accepts a string without an end."""

    __slots__ = ()

    def result(self, _name: str, _within: Message) -> str:
        """Return it up to the NUL; raises ValueError if there is none."""
        value, nul, _ = bytes(self.data[self.offset + 4 : self.offset + self.length]).partition(b"\0")
        if not nul:
            raise ValueError("is a string without an end")
        return value.decode("utf-8", "backslashreplace")


class Address(Checked, nlmsg_atoms.ipaddr):
    """An IP address of the message's family; of either, if the message has none or another."""

    __slots__ = ()
    sizes: tuple[int, ...] = ()

    def decode(self) -> None:
        message: Any = self
        while message.parent is not None:
            message = message.parent
        # `get` would search the attributes first.
        family = message["family"] if "family" in message else 0  # noqa: SIM401
        if self.length - 4 not in (self.sizes or ADDRESS_SIZES.get(family, (4, 16))):
            raise ValueError(f"is an address of {self.length - 4} bytes")
        super().decode()


class Address4(Address):
    __slots__ = ()
    sizes = (4,)


class Address6(Address):
    __slots__ = ()
    sizes = (16,)


class Types:
    """The types under the names that the declarations of pyroute2 use."""

    __slots__ = ()

    class uint8(Exact, nlmsg_atoms.uint8):
        __slots__ = ()

    class uint16(Exact, nlmsg_atoms.uint16):
        __slots__ = ()

    class uint32(Exact, nlmsg_atoms.uint32):
        __slots__ = ()

    class uint64(Exact, nlmsg_atoms.uint64):
        __slots__ = ()

    class int32(Exact, nlmsg_atoms.int32):
        __slots__ = ()

    class be16(Exact, nlmsg_atoms.be16):
        __slots__ = ()

    class be32(Exact, nlmsg_atoms.be32):
        __slots__ = ()

    class be64(Exact, nlmsg_atoms.be64):
        __slots__ = ()

    class flag(Exact, nlmsg_atoms.flag):
        __slots__ = ()

    asciiz = Text
    ipaddr = target = Address
    ip4addr, ip6addr = Address4, Address6
    # pyroute2 cuts a hardware address to six bytes, or writes it in another way.
    cdata = hex = l2addr = lladdr = Bytes


class Corrected(Types):
    """A message or nested attribute of pyroute2 with these types."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        # A base class may be compiled already, and its table would be used for this class, too.
        made: Any = cls()
        if hasattr(made, "compile_nla_table"):
            made.compile_nla_table()


class AnyMessage(Corrected):
    # struct nlmsghdr is the transport's.
    __slots__ = ()
    header = None


class Nested(Checked, Corrected):
    __slots__ = ()

    def result(self, name: str, within: Message) -> Message:
        """Return its attributes."""
        return Message(self, ATTRIBUTE.size, name, within)


def nested(upstream: type[Any], *more: tuple[str, str], **changed: str) -> type[Any]:
    """Return the attributes of a kind of link, with some types changed and some attributes added at the end."""
    nla_map = tuple((name, changed.get(name, kind)) for name, kind, *_ in upstream.nla_map)
    return type(upstream.__name__, (Nested, upstream), {"__slots__": (), "nla_map": (*nla_map, *more)})
