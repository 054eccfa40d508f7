"""A client written from docs/PROTOCOL.md alone, as a developer in another language would write it.

It imports only the standard library, so that the tests find a mistake that the package makes on both sides.
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


def mac(psk: bytes, purpose: str, signed: bytes) -> str:
    """docs/PROTOCOL.md, "Keys and MACs"."""
    return hmac.new(purpose_key(psk, purpose), signed, hashlib.sha256).hexdigest()


def encode(members: dict[str, Any]) -> str:
    """docs/PROTOCOL.md, "Encoding"."""
    return json.dumps(members, separators=(",", ":"))


def hop_message(report_mac: str, recipient: str, path: list[str]) -> bytes:
    """docs/PROTOCOL.md, "Hops"."""
    return "\n".join([report_mac, recipient, *path]).encode("ascii")


def report(psk: bytes, data: str, recipient: str, path: list[str], hop_psk: bytes) -> str:
    """docs/PROTOCOL.md, "A report" and "Hops": the body that the last hop sends."""
    report_mac = mac(psk, "report", data.encode("ascii"))
    hop_mac = mac(hop_psk, "hop", hop_message(report_mac, recipient, path))
    path_text = "[" + ",".join(f'"{relay}"' for relay in path) + "]"
    return f'{{"data":{data},"hmac":"{report_mac}","hop_hmac":"{hop_mac}","relay_path":{path_text},"version":1}}'


def message(psk: bytes, purpose: str, members: dict[str, Any]) -> str:
    """docs/PROTOCOL.md, "Messages"."""
    data = encode(members)
    return f'{{"data":{data},"hmac":"{mac(psk, purpose, data.encode("ascii"))}"}}'


def signed_members(psk: bytes, body: str) -> dict[str, Any] | None:
    """docs/PROTOCOL.md, "Messages": the signed members of an answer, or None if this PSK did not sign it."""
    tail = len(',"hmac":""}') + 64
    start = body.find('"data":') + len('"data":')
    data, sent_mac = body[start:-tail], body[-66:-2]
    if not hmac.compare_digest(mac(psk, "verdict", data.encode("ascii")), sent_mac):
        return None
    members: dict[str, Any] = json.loads(data)
    return members


def peer_hmac(psk: bytes, agent_id: str, to: str, nonce: str, timestamp: str) -> str:
    """docs/PROTOCOL.md, "Peer query"."""
    return mac(psk, "peer", f"{agent_id}\n{to}\n{nonce}\n{timestamp}".encode("ascii"))


def freshness(accepted: list[tuple[int, str]], tick: int, nonce: str) -> str:
    """docs/PROTOCOL.md, "Freshness"; `accepted` are the accepted messages in any order."""
    last = sorted(accepted)[-120:]
    if not last or tick > last[-1][0]:
        return "fresh"
    if tick <= last[-1][0] - 120:
        return "replay"
    if (tick, nonce) in last:
        return "duplicate"
    return "replay" if any(tick == used[0] or nonce == used[1] for used in last) else "fresh"


def is_possible(number: int, highest: int, idle_ms: int, now: int) -> bool:
    """docs/PROTOCOL.md, "Freshness"; whether a tick or sample can follow the highest accepted one, 0 for none."""
    limit = max(1_000_000_000, now - 1_735_689_600_000)
    return number <= limit and (highest == 0 or number <= highest + 1_000_000 + max(0, idle_ms))


def select_psk(records: list[list[bytes]], ring: set[bytes] | None = None) -> bytes | None:
    """docs/PROTOCOL.md, "From TXT answer to PSK": the PSK, or None. `ring`: PSKs of a node that has seen the prefix."""
    values = {b"".join(strings).strip(b" \t\r\n\v\f") for strings in records}
    marked = {value[len(b"kattila=") :].strip(b" \t\r\n\v\f") for value in values if value.startswith(b"kattila=")}
    candidates = marked or (values if ring is None else values & ring)
    if len(candidates) != 1 or len(min(candidates)) < 16:
        return None
    try:
        min(candidates).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return min(candidates)
