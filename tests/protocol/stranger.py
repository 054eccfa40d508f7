"""A client written from docs/PROTOCOL.md alone, as somebody with another language would write it.

May live here: the standard library. Nothing of ours, so that a mistake in the package cannot hide in its own tests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any


def purpose_key(psk: bytes, purpose: str) -> bytes:
    """docs/PROTOCOL.md, "Keys and MACs"."""
    return hmac.new(psk, b"kattila/1/" + purpose.encode("ascii"), hashlib.sha256).digest()


def fingerprint(psk: bytes) -> str:
    """docs/PROTOCOL.md, "Keys and MACs"."""
    return hashlib.sha256(b"kattila/1/fingerprint" + psk).hexdigest()[:8]


def mac(psk: bytes, purpose: str, message: bytes) -> str:
    """docs/PROTOCOL.md, "Keys and MACs"."""
    return hmac.new(purpose_key(psk, purpose), message, hashlib.sha256).hexdigest()


def encode(members: dict[str, Any]) -> str:
    """docs/PROTOCOL.md, "Encoding"."""
    return json.dumps(members, separators=(",", ":"))


def hop_message(report_mac: str, recipient: str, path: list[str]) -> bytes:
    """docs/PROTOCOL.md, "Hops"."""
    return "\n".join([report_mac, recipient, *path]).encode("ascii")


def report(psk: bytes, data: str, recipient: str, path: list[str], hop_psk: bytes) -> str:
    """docs/PROTOCOL.md, "A report" and "Hops": the body as its last hop sends it."""
    report_mac = mac(psk, "report", data.encode("ascii"))
    hop_mac = mac(hop_psk, "hop", hop_message(report_mac, recipient, path))
    shown_path = "[" + ",".join(f'"{relay}"' for relay in path) + "]"
    return f'{{"data":{data},"hmac":"{report_mac}","hop_hmac":"{hop_mac}","relay_path":{shown_path},"version":1}}'


def request(psk: bytes, purpose: str, members: dict[str, Any]) -> str:
    """docs/PROTOCOL.md, "Messages"."""
    data = encode(members)
    return f'{{"data":{data},"hmac":"{mac(psk, purpose, data.encode("ascii"))}"}}'


def answer(psk: bytes, body: str) -> dict[str, Any] | None:
    """docs/PROTOCOL.md, "Messages": what is signed in an answer, or None if it is not signed with this PSK."""
    tail = len(',"hmac":""}') + 64
    start = body.find('"data":') + len('"data":')
    data, shown_mac = body[start:-tail], body[-66:-2]
    if not hmac.compare_digest(mac(psk, "verdict", data.encode("ascii")), shown_mac):
        return None
    members: dict[str, Any] = json.loads(data)
    return members


def peer_hmac(psk: bytes, agent_id: str, to: str, nonce: str, timestamp: str) -> str:
    """docs/PROTOCOL.md, "Peer query"."""
    return mac(psk, "peer", f"{agent_id}\n{to}\n{nonce}\n{timestamp}".encode("ascii"))


def window_judges(accepted: list[tuple[int, str]], tick: int, nonce: str) -> str:
    """docs/PROTOCOL.md, "Freshness": `accepted` are the messages that were taken, in any order."""
    last = sorted(accepted)[-120:]
    if not last or tick > last[-1][0]:
        return "fresh"
    if tick <= last[-1][0] - 120:
        return "replay"
    if (tick, nonce) in last:
        return "duplicate"
    return "replay" if any(tick == seen[0] or nonce == seen[1] for seen in last) else "fresh"


def psk_of(records: list[list[bytes]]) -> bytes | None:
    """docs/PROTOCOL.md, "From TXT answer to PSK": the PSK, or None if the answer holds no usable one."""
    values = {b"".join(strings).strip(b" \t\r\n\v\f") for strings in records}
    marked = {value[len(b"kattila=") :].strip(b" \t\r\n\v\f") for value in values if value.startswith(b"kattila=")}
    candidates = marked or values
    if len(candidates) != 1 or len(min(candidates)) < 16:
        return None
    try:
        min(candidates).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return min(candidates)
