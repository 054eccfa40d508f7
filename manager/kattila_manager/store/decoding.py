"""Parses DATA into a report, with msgspec."""

from __future__ import annotations

import msgspec

from kattila_protocol import canonical
from kattila_protocol.errors import Malformed
from kattila_protocol.report import Report

_DECODER = msgspec.json.Decoder(Report)
_ENCODER = msgspec.json.Encoder()


def decode(data: bytes) -> Report:
    """Return the report; raises Malformed.

    DATA that encodes to itself has no duplicate members. Any other, such as from a newer agent with unknown members,
    is also parsed strictly.
    """
    if not data.isascii():
        raise Malformed("the object is not ASCII: write other characters as \\uXXXX")
    try:
        report = _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error
    if _ENCODER.encode(report) != data or canonical.has_long_number(data):
        canonical.parse_object(data)
    return report.check()
