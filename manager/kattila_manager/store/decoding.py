"""DATA to a report, by msgspec.

May live here: reading the meaning of bytes whose MAC was checked, now (inbox) or when they were filed (store).
"""

from __future__ import annotations

import msgspec

from kattila_protocol import canonical
from kattila_protocol.errors import Malformed
from kattila_protocol.report import Report

_DECODER = msgspec.json.Decoder(Report)
_ENCODER = msgspec.json.Encoder()


def decode(data: bytes) -> Report:
    """Decode DATA; raises Malformed.

    A DATA that encodes to itself has each member once; any other, as of a newer agent with members unknown here, is
    read strictly as well.
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
