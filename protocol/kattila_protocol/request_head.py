"""Parses the head of an HTTP/1.1 request strictly (RFC 9112): line, target, header fields, and the length of the body.

Whatever two programs could read in two ways is refused: a bare line feed, two Host headers, two lengths, an encoded
slash. The APIs of agent and manager share these rules. docs/PROTOCOL.md lists them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

# Request line and header fields together, with the empty line at the end.
MAX_HEAD_BYTES = 16 * 1024
MAX_FIELDS = 64
END = b"\r\n\r\n"

_LINE = re.compile(rb"([A-Z]{1,20}) (/[^#\\\x00-\x20\x7f-\xff?]*)(?:\?([^#\x00-\x20\x7f-\xff]*))? HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")
# A slash or backslash that is encoded, a percent sign, which would be encoded twice, and control characters.
_REFUSED_ESCAPE = re.compile(rb"%(?:2[fF]|5[cC]|25|[01][0-9a-fA-F]|7[fF]|[0-9a-fA-F]?(?![0-9a-fA-F]))")
_LENGTH = re.compile(r"[0-9]{1,18}")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._~-]*))(?::([0-9]{1,5}))?")
# A program that takes the first of two, and one that takes the last, would read different requests.
_ONCE = frozenset(
    ("authorization", "content-length", "content-type", "expect", "host", "kattila-budget-ms", "transfer-encoding")
)


class HeadError(Exception):
    """The head is refused; `status` is the HTTP status of the answer, the text says what is wrong."""

    def __init__(self, detail: str, status: int = 400) -> None:
        """Take the reason and the status."""
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request; `path` is decoded, the names of `fields` are in lower case.

    `body_bytes` is the declared length of the body, 0 without a body, None if it comes in chunks.
    """

    method: str
    path: str
    query: str
    fields: Mapping[str, str]
    body_bytes: int | None
    keeps_connection: bool


def parse(head: bytes) -> RequestHead:
    """Parse a head from its first byte to the empty line, both included.

    Raises:
        HeadError: it is not one of a request that this program understands.
    """
    if len(head) > MAX_HEAD_BYTES:
        raise _too_large()
    if not head.endswith(END):
        raise HeadError("the head has no end")
    line, *lines = head[: -len(END)].split(b"\r\n")
    found = _LINE.fullmatch(line)
    if found is None:
        raise HeadError("the first line must be METHOD /PATH HTTP/1.1, without white space and control characters")
    method, path, query, minor = found.groups()
    fields = _fields(lines)
    is_1_1 = minor == b"1"
    if host_name(fields.get("host", "" if not is_1_1 else "?")) is None:
        raise HeadError("exactly one Host header is needed, with a name or an address, and perhaps a port")
    if fields.get("expect", "100-continue").lower() != "100-continue":
        raise HeadError("the only known expectation is 100-continue", 417)
    return RequestHead(
        method=method.decode(),
        path=_decoded(path) if b"%" in path else path.decode(),
        query=(query or b"").decode(),
        fields=fields,
        body_bytes=_body_bytes(fields, is_1_1=is_1_1),
        keeps_connection=is_1_1 and "close" not in fields.get("connection", "").lower(),
    )


def refuse_early(received: bytes) -> None:
    """Check the first bytes of a request, which need not contain its whole head yet.

    Raises:
        HeadError: `parse` will refuse it, whatever follows. A head with bare line feeds would otherwise never end.
    """
    head, end, _ = received.partition(END)
    if len(head) + len(end) > MAX_HEAD_BYTES:
        raise _too_large()
    if head.count(b"\n") != head.count(b"\r\n") or head[:1].isspace():
        raise HeadError("lines must end with CR LF, and the first one must not be empty")


def _too_large() -> HeadError:
    return HeadError(f"the head has more than {MAX_HEAD_BYTES} bytes, which is the limit", 431)


def host_name(host: str) -> str | None:
    """Return the name or address in a Host header, in lower case, without brackets and port; None if it is invalid."""
    found = _HOST.fullmatch(host)
    if found is None or not 0 < int(found[3] or "1") <= 65535:
        return None
    if found[1] is None:
        return found[2].lower()
    try:
        return str(ipaddress.IPv6Address(found[1]))
    except ValueError:
        return None


def _fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_FIELDS:
        raise HeadError(f"there are more than {MAX_FIELDS} header fields", 431)
    fields: dict[str, str] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise HeadError("a header field must be NAME: VALUE on one line, without control characters")
        name, value = found[1].decode().lower(), found[2].decode("latin-1").strip("\t ")
        if name in fields and name in _ONCE:
            raise HeadError(f"the header {name} occurs twice")
        # Servers that replace "-" by "_" could not distinguish the two.
        if "_" not in name:
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _decoded(path: bytes) -> str:
    if _REFUSED_ESCAPE.search(path):
        raise HeadError("the path contains an encoded slash, backslash, percent sign or control character")
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise HeadError("the path is not UTF-8") from None


def _body_bytes(fields: Mapping[str, str], *, is_1_1: bool) -> int | None:
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        if length is not None or coding.lower() != "chunked" or not is_1_1:
            raise HeadError("the only transfer coding is chunked, in HTTP/1.1, and without Content-Length")
        return None
    if length is not None and not _LENGTH.fullmatch(length):
        raise HeadError("the Content-Length is not a number")
    return int(length or "0")
