"""Generates the test vectors: PYTHONPATH=tests .venv/bin/python -m vectors.generate (from the root of the repository).

The output is deterministic. A test compares it with the files beside this module; running the module overwrites them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kattila_protocol import canonical, envelope, message, peer, registration, reset, verdict
from kattila_protocol.envelope import Envelope
from kattila_protocol.errors import ClockSkew, IdentityConflict, Malformed, NumbersTooHigh, Refusal, Replay
from kattila_protocol.freshness import Freshness, Window, check_numbers, highest_possible
from kattila_protocol.names import MANAGER
from kattila_protocol.peer import PeerAnswer, PeerQuery
from kattila_protocol.registration import Registration
from kattila_protocol.report import Telemetry
from kattila_protocol.reset import Reset, ResetAnswer
from kattila_protocol.signing import Key, Purpose
from kattila_protocol.txt import TxtError, select_psk
from kattila_protocol.verdict import Verdict
from protocol.samples import (
    AGENT,
    BOOT,
    FOREIGN_PSK,
    KEY,
    NONCE,
    NOW,
    OTHER_AGENT,
    OTHER_NONCE,
    PREVIOUS_PSK,
    PSK,
    RELAYS,
    REPORT,
    UNICODE_PSK,
)
from vectors import bounds

FOLDER = Path(__file__).parent
Case = dict[str, Any]

DATA = canonical.encode(REPORT, omit_defaults=True)
SMALL_DATA = canonical.encode(replace(REPORT, telemetry=Telemetry(system=None)), omit_defaults=True)
WITH_DEFAULTS_DATA = canonical.encode(replace(REPORT, telemetry=Telemetry(system=None)))
_UNKNOWN: dict[str, Any] = dict.fromkeys(("uptime_seconds", "load", "cpus", "memory_total", "memory_available"))
PARTLY_UNKNOWN = replace(REPORT.telemetry.system, **_UNKNOWN) if REPORT.telemetry.system else None
PARTLY_UNKNOWN_DATA = canonical.encode(replace(REPORT, telemetry=Telemetry(system=PARTLY_UNKNOWN)), omit_defaults=True)
OTHER_SPELLING = b'{ "nonce":"%s", "of":{"the":"future"}, "tick":7 }' % NONCE.encode()


def text(data: bytes) -> str:
    """Return bytes as text for JSON, one character (U+0000 to U+00FF) per byte."""
    return data.decode("latin-1")


def keys() -> list[Case]:
    """PSKs, their fingerprints, and their derived keys."""
    return [
        {
            "psk": psk.decode(),
            "fingerprint": key.fingerprint,
            "purpose_keys": {purpose.value: derived.hex() for purpose, derived in key.purpose_keys.items()},
        }
        for psk in (PSK, PREVIOUS_PSK, UNICODE_PSK, b"0123456789abcdef", b"x" * 65)
        for key in [Key.from_psk(psk)]
    ]


def reports() -> list[Case]:
    """Reports that their origin sends."""
    return [
        _report("every member", PSK, DATA, MANAGER),
        _report("no telemetry", PSK, SMALL_DATA, MANAGER),
        _report("all defaults written out", PSK, WITH_DEFAULTS_DATA, MANAGER),
        _report("a machine of which little is known", PSK, PARTLY_UNKNOWN_DATA, MANAGER),
        _report("under another key", UNICODE_PSK, SMALL_DATA, MANAGER),
        _report("to a relay", PSK, SMALL_DATA, RELAYS[0]),
        _report("DATA spelled otherwise: the MAC is over its bytes", PSK, OTHER_SPELLING, MANAGER),
    ]


def _report(name: str, psk: bytes, data: bytes, recipient: str) -> Case:
    sealed = envelope.seal(data, Key.from_psk(psk), recipient)
    return {
        "name": name,
        "psk": psk.decode(),
        "data": text(data),
        "recipient": recipient,
        "hmac": sealed.mac,
        "hop_hmac": sealed.hop_mac,
        "body": text(sealed.to_bytes()),
        "verdict": "verifies",
    }


def hops() -> list[Case]:
    """A report that three relays forward; the second relay has the previous PSK."""
    sealed = envelope.seal(SMALL_DATA, KEY, RELAYS[0])
    cases = []
    for relay, psk, recipient in zip(RELAYS, (PSK, PREVIOUS_PSK, PSK), (*RELAYS[1:3], MANAGER), strict=False):
        forwarded = envelope.forward(sealed, relay, Key.from_psk(psk), recipient)
        cases.append(
            {
                "name": f"{len(forwarded.relay_path)} of 3",
                "psk": psk.decode(),
                "relay": relay,
                "recipient": recipient,
                "before": text(sealed.to_bytes()),
                "signed": text(envelope.hop_message(forwarded.mac, forwarded.relay_path, recipient)),
                "after": text(forwarded.to_bytes()),
                "ring": [PSK.decode(), PREVIOUS_PSK.decode()],
                "verdict": "verifies",
            }
        )
        sealed = forwarded
    return cases


REGISTRATION = Registration(AGENT, BOOT, "käsi.example.org", ("00:00:5e:00:53:01", "00:00:5e:00:53:02"), NONCE, NOW)
RESET = Reset(AGENT, NONCE, NOW)


def messages() -> list[Case]:
    """Registration, reset, and the answer to a reset."""
    return [
        _message("register", REGISTRATION, registration.seal(REGISTRATION, KEY)),
        _message("reset", RESET, reset.seal(RESET, KEY)),
        _message("verdict", ResetAnswer(OTHER_AGENT, NONCE), reset.seal_answer(ResetAnswer(OTHER_AGENT, NONCE), KEY)),
    ]


def _message(purpose: str, members: object, body: bytes) -> Case:
    plain = json.loads(canonical.encode(members))
    return {"purpose": purpose, "psk": PSK.decode(), "members": plain, "body": text(body), "verdict": "verifies"}


def verdicts() -> list[Case]:
    """Verdicts of the manager; a refusal is a problem document."""
    sent = Verdict("accepted", AGENT, NONCE, NOW + 20, clock_offset=-20, highest_tick=1041, highest_sample=41)
    return [
        _verdict("accepted", sent, None),
        _verdict("duplicate", replace(sent, outcome="duplicate"), None),
        _verdict(
            "registered under another id", replace(sent, agent_id=OTHER_AGENT, highest_tick=0, highest_sample=0), None
        ),
        _verdict(
            "refused", replace(sent, outcome="replay", highest_tick=9000), Replay("the tick 1041 was used before")
        ),
        _verdict("quotes its member", replace(sent, outcome="malformed"), Malformed('not JSON: "data":{},"hmac":""')),
        _verdict("clock", replace(sent, outcome="clock_skew", clock_offset=-600_001), ClockSkew("600.0 s behind")),
        _verdict("newcomer", replace(sent, outcome="identity_conflict"), IdentityConflict("boot ids alternate")),
        _verdict("outcome of the future", replace(sent, outcome="postponed"), None),
    ]


def _verdict(name: str, sent: Verdict, refusal: Refusal | None) -> Case:
    sent = replace(sent, detail=refusal.detail if refusal else "")
    return {
        "name": name,
        "psk": PSK.decode(),
        "nonce": sent.nonce,
        "members": json.loads(canonical.encode(sent)),
        "http_status": refusal.status if refusal else 200,
        "body": text(verdict.seal(sent, KEY, refusal)),
        "sample": sent.disposition.name.lower(),
    }


def peers() -> list[Case]:
    """Peer queries with their answers."""
    cases = []
    for to, distance, next_hop in (("192.0.2.1", 0, None), ("2001:db8::1", 2, RELAYS[0]), ("192.0.2.1", None, None)):
        query = PeerQuery(OTHER_AGENT, to, NONCE, NOW)
        parameters = query.parameters(KEY)
        telemetry = REPORT.telemetry
        answer = PeerAnswer(
            AGENT, "käsi.example.org", distance, next_hop, telemetry.interfaces, telemetry.routes, NONCE
        )
        cases.append(
            {
                "psk": PSK.decode(),
                "parameters": parameters,
                "query_string": urlencode(parameters),
                "answer": json.loads(canonical.encode(answer)),
                "answer_body": text(peer.seal_answer(answer, KEY)),
                "verdict": "verifies",
            }
        )
    return cases


def txt_answers() -> list[Case]:
    """DNS answers as lists of records, each a list of character-strings; psk is null if no record is usable.

    `ring` are the PSKs in the ring of a node that has seen the prefix, null for one that has not.
    """
    answers: dict[str, list[list[bytes]]] = {
        "one record": [[PSK]],
        "several strings": [[PSK[:10], PSK[10:]]],
        "over 255 bytes": [[b"x" * 255, b"y" * 45]],
        "marked": [[b"kattila=" + PSK]],
        "marked beside others": [[b"v=spf1 -all, and more"], [b"kattila=" + PSK]],
        "white space around": [[b" \t" + PSK + b" "]],
        "UTF-8": [[UNICODE_PSK]],
        "equal values": [[b"kattila=" + PSK], [b"kattila= " + PSK]],
        "16 bytes": [[b"0123456789abcdef"]],
        "15 bytes": [[b"0123456789abcde"]],
        "none": [],
        "two unmarked": [[PSK], [PREVIOUS_PSK]],
        "two marked": [[b"kattila=" + PSK], [b"kattila=" + PREVIOUS_PSK]],
        "nothing after the mark": [[b"kattila="], [PSK]],
        "Latin-1": [["yötön yö, ähtäri".encode("latin-1")]],
    }
    prefix_seen: dict[str, list[list[bytes]]] = {
        "marked, prefix seen": [[b"kattila=" + FOREIGN_PSK]],
        "unmarked new PSK, prefix seen": [[FOREIGN_PSK]],
        "unmarked PSK of the ring, prefix seen": [[PREVIOUS_PSK]],
        "unmarked PSK of the ring beside others, prefix seen": [[PREVIOUS_PSK], [FOREIGN_PSK]],
    }
    return [_txt_answer(name, records, None) for name, records in answers.items()] + [
        _txt_answer(name, records, [PSK, PREVIOUS_PSK]) for name, records in prefix_seen.items()
    ]


def _txt_answer(name: str, records: list[list[bytes]], ring: list[bytes] | None) -> Case:
    shown = [[text(part) for part in record] for record in records]
    psks = None if ring is None else [psk.decode() for psk in ring]
    return {"name": name, "records": shown, "ring": psks, "psk": _psk_of(records, ring)}


def _psk_of(records: list[list[bytes]], ring: list[bytes] | None) -> str | None:
    try:
        return select_psk((tuple(record) for record in records), without_prefix=ring).decode()
    except TxtError:
        return None


def windows() -> list[Case]:
    """Messages of one agent in the order of arrival, and the freshness of each."""
    arrivals: dict[str, list[tuple[int, str]]] = {
        "in order, then again": [(1, "a"), (2, "b"), (3, "c"), (1, "a"), (3, "c")],
        "late": [(1, "a"), (4, "d"), (2, "b"), (3, "c"), (2, "b"), (2, "x")],
        "used tick or nonce": [(5, "a"), (5, "b"), (4, "a"), (6, "a")],
        "edge of the window": [(1, "a"), (120, "b"), (1, "a"), (121, "c"), (1, "a"), (2, "d"), (2, "d")],
        "121 newer": [(1, "n1"), *((tick, f"n{tick}") for tick in range(2, 123)), (1, "n1"), (3, "n3"), (122, "n122")],
        "a jump": [(10, "a"), (9_007_199_254_740_991, "b"), (10, "a"), (11, "c")],
        "from behind": [(500, "a"), (0, "b"), (380, "c"), (381, "d")],
    }
    return [{"name": name, "messages": _judged(messages)} for name, messages in arrivals.items()]


def _judged(arrivals: list[tuple[int, str]]) -> list[list[object]]:
    window, judged = Window(), []
    for tick, nonce in arrivals:
        freshness = window.judge(tick, nonce)
        judged.append([tick, nonce, freshness.name.lower()])
        window = window.add(tick, nonce) if freshness is Freshness.FRESH else window
    return judged


def numbers() -> list[Case]:
    """Ticks or samples of messages, and whether an agent can have reached them at the manager's time."""
    limit = highest_possible(NOW)
    cases = {
        "the first one": (1, 0, 0, NOW),
        "the first one at the limit": (limit, 0, 0, NOW),
        "the first one above the limit": (limit + 1, 0, 0, NOW),
        "the greatest counter": (9_007_199_254_740_991, 41, 30_000, NOW),
        "the next one": (42, 41, 30_000, NOW),
        "the same": (41, 41, 0, NOW),
        "a late one": (1, 41, 0, NOW),
        "after a month": (86_441, 41, 2_592_000_000, NOW),
        "the highest jump": (41 + 1_000_000, 41, 0, NOW),
        "above the highest jump": (42 + 1_000_000, 41, 0, NOW),
        "the highest jump after 30 s": (41 + 1_030_000, 41, 30_000, NOW),
        "above the highest jump after 30 s": (42 + 1_030_000, 41, 30_000, NOW),
        "a jump across the limit": (limit + 1, limit - 5, 30_000, NOW),
        "after a step back of the manager's clock": (41 + 1_000_000, 41, -3_600_000, NOW),
        "a clock that was never set, at the limit": (1_000_000_000, 0, 0, 0),
        "a clock that was never set, above the limit": (1_000_000_001, 0, 0, 0),
    }
    return [
        {"name": name, "number": number, "highest": highest, "idle_ms": idle_ms, "now": now}
        | {"possible": _is_possible(number, highest, idle_ms, now)}
        for name, (number, highest, idle_ms, now) in cases.items()
    ]


def _is_possible(number: int, highest: int, idle_ms: int, now: int) -> bool:
    try:
        check_numbers(number, number, (highest, highest), idle_ms, now)
    except NumbersTooHigh:
        return False
    return True


def refused() -> list[Case]:
    """Bodies that are refused, the recipient, and the kind of refusal."""
    sealed = envelope.seal(SMALL_DATA, KEY)
    body, relayed = sealed.to_bytes(), envelope.forward(sealed, RELAYS[0], KEY, MANAGER)
    return [
        *(_refused_report(name, changed, kind) for name, changed, kind in _changed_reports(body, relayed)),
        *(_refused_report(name, _signed(data), kind) for name, data, kind in _signed_reports()),
        *_other_refusals(),
    ]


def _refused_report(name: str, body: bytes, kind: str) -> Case:
    return _refused(name, "report", body, kind, recipient=MANAGER)


def _refused(name: str, what: str, body: bytes, kind: str, **more: object) -> Case:
    return {"name": name, "what": what, "ring": [PSK.decode()], "now": NOW, **more, "body": text(body), "kind": kind}


def _signed(data: bytes) -> bytes:
    return envelope.seal(data, KEY).to_bytes()


def _message_of(signed: bytes) -> bytes:
    return b'{"data":%s,"hmac":"%s"}' % (signed, KEY.sign(Purpose.VERDICT, signed).encode())


def _changed_reports(body: bytes, relayed: Envelope) -> list[tuple[str, bytes, str]]:
    foreign = Key.from_psk(FOREIGN_PSK)
    hops_of_four = envelope.hop_message(relayed.mac, RELAYS[:4], MANAGER)
    too_many = Envelope(relayed.data, relayed.mac, KEY.sign(Purpose.HOP, hops_of_four), RELAYS[:4])
    hops_twice = envelope.hop_message(relayed.mac, (RELAYS[0], RELAYS[0]), MANAGER)
    twice = Envelope(relayed.data, relayed.mac, KEY.sign(Purpose.HOP, hops_twice), (RELAYS[0], RELAYS[0]))
    reset_mac = KEY.sign(Purpose.RESET, relayed.data)
    reset_hop = KEY.sign(Purpose.HOP, envelope.hop_message(reset_mac, (), MANAGER))
    return [
        ("one byte of DATA", body.replace(b'"sample":41', b'"sample":42'), "bad_signature"),
        ("MAC of another message", body.replace(relayed.mac.encode(), b"0" * 64), "bad_signature"),
        ("path cut", replace(relayed, relay_path=()).to_bytes(), "bad_signature"),
        ("path of another relay", replace(relayed, relay_path=(RELAYS[1],)).to_bytes(), "bad_signature"),
        ("for a relay", envelope.seal(SMALL_DATA, KEY, RELAYS[0]).to_bytes(), "bad_signature"),
        ("foreign key", envelope.seal(SMALL_DATA, foreign).to_bytes(), "bad_signature"),
        ("foreign hop", envelope.forward(relayed, RELAYS[1], foreign, MANAGER).to_bytes(), "bad_signature"),
        ("MAC made for a reset", Envelope(SMALL_DATA, reset_mac, reset_hop).to_bytes(), "bad_signature"),
        ("four relays", too_many.to_bytes(), "too_many_hops"),
        ("a relay twice", twice.to_bytes(), "malformed"),
        ("white space between members", body.replace(b',"hmac"', b', "hmac"'), "malformed"),
        ("white space in the path", body.replace(b"[]", b"[ ]"), "malformed"),
        ("version 2", body.replace(b'"version":1', b'"version":2'), "malformed"),
        ("version 01", body.replace(b'"version":1', b'"version":01'), "malformed"),
        ("no version", body.replace(b',"version":1', b""), "malformed"),
        ("one member more", body[:-1] + b',"x":1}', "malformed"),
        ("reordered", b'{"version":1,' + body[1:].replace(b',"version":1', b""), "malformed"),
        ("byte order mark", b"\xef\xbb\xbf" + body, "malformed"),
        ("trailing line feed", body + b"\n", "malformed"),
        ("cut", body[:-1], "malformed"),
        ("empty", b"", "malformed"),
        ("UTF-16", body.decode().encode("utf-16-le"), "malformed"),
    ]


def _signed_reports() -> list[tuple[str, bytes, str]]:
    at = b'"sample":41'
    early, late = replace(REPORT, timestamp=NOW - 600_001), replace(REPORT, timestamp=NOW + 600_001)
    return [
        ("member twice", SMALL_DATA.replace(at, at + b"," + at), "malformed"),
        ("NaN", SMALL_DATA.replace(at, b'"sample":NaN'), "malformed"),
        ("fraction", SMALL_DATA.replace(at, b'"sample":1.5'), "malformed"),
        ("1e400", SMALL_DATA.replace(at, b'"sample":1e400'), "malformed"),
        ("1,000 digits", SMALL_DATA.replace(at, b'"sample":' + b"9" * 1000), "malformed"),
        ("2**53", SMALL_DATA.replace(at, b'"sample":9007199254740992'), "malformed"),
        ("true for 1", SMALL_DATA.replace(at, b'"sample":true'), "malformed"),
        ("sample 0", SMALL_DATA.replace(at, b'"sample":0'), "malformed"),
        ("no sample", SMALL_DATA.replace(at + b",", b""), "malformed"),
        ("lone surrogate", SMALL_DATA[:-1] + rb',"x":"\ud800"}', "malformed"),
        ("raw UTF-8", SMALL_DATA[:-1] + ',"x":"ä"}'.encode(), "malformed"),
        ("1,500 brackets", SMALL_DATA[:-1] + b',"x":' + b"[" * 1500 + b"]" * 1500 + b"}", "malformed"),
        ("route of one column more", DATA.replace(b'"unicast"]', b'"unicast",0]'), "malformed"),
        ("route of one column less", DATA.replace(b',"unicast"]', b"]"), "malformed"),
        ("route by names", DATA.replace(b'"routes":[[', b'"routes":[{"destination":"0.0.0.0/0"},['), "malformed"),
        ("neighbour of one column more", DATA.replace(b'"REACHABLE"]', b'"REACHABLE",0]'), "malformed"),
        ("neighbour of one column less", DATA.replace(b',"REACHABLE"]', b"]"), "malformed"),
        ("peer of one column more", DATA.replace(b",25,true]", b",25,true,0]"), "malformed"),
        ("peer of one column less", DATA.replace(b",25,true]", b",25]"), "malformed"),
        ("lookup of one column more", DATA.replace(b"1500,254,null]", b"1500,254,null,0]"), "malformed"),
        ("lookup of one column less", DATA.replace(b"1500,254,null]", b"1500,254]"), "malformed"),
        ("id in capitals", SMALL_DATA.replace(AGENT.encode(), AGENT.upper().encode()), "malformed"),
        ("nonce too short", SMALL_DATA.replace(NONCE.encode(), NONCE[1:].encode()), "malformed"),
        ("10 minutes and 1 ms behind", canonical.encode(early), "clock_skew"),
        ("10 minutes and 1 ms ahead", canonical.encode(late), "clock_skew"),
    ]


def _other_refusals() -> list[Case]:
    request, reset_request = registration.seal(REGISTRATION, KEY), reset.seal(RESET, KEY)
    sent = verdict.seal(Verdict("accepted", AGENT, NONCE, NOW, 0), KEY)
    forwarded = envelope.forward(envelope.seal(SMALL_DATA, KEY, RELAYS[0]), RELAYS[0], KEY, RELAYS[1])
    back = envelope.forward(forwarded, RELAYS[1], KEY, RELAYS[0])
    answer = PeerAnswer(AGENT, "", 0, None, (), REPORT.telemetry.routes, NONCE)
    longer = canonical.encode(answer).replace(b'"unicast"]', b'"unicast",0]')
    own = envelope.forward(envelope.seal(SMALL_DATA, KEY, AGENT), AGENT, KEY, MANAGER)
    misaddressed = message.seal(Purpose.REGISTER, KEY, replace(REGISTRATION, to=OTHER_AGENT))
    return [
        _refused("registration for somebody else", "register", misaddressed, "bad_signature"),
        _refused("registration used as a reset", "reset", request, "bad_signature", own_id=AGENT),
        _refused("registration ten minutes later", "register", request, "clock_skew", now=NOW + 600_001),
        _refused("member in front of a request", "register", b'{"x":1,' + request[1:], "malformed"),
        _refused("reset of another id", "reset", reset_request, "bad_signature", own_id=OTHER_AGENT),
        _refused("verdict on another message", "verdict", sent, "malformed", nonce=OTHER_NONCE),
        _refused(
            "verdict under a foreign key", "verdict", sent, "bad_signature", nonce=NONCE, ring=["another psk, no doubt"]
        ),
        _refused("answer to another query", "peer", peer.seal_answer(answer, KEY), "malformed", nonce=OTHER_NONCE),
        _refused("answer with a longer row", "peer", _message_of(longer), "malformed", nonce=NONCE),
        _refused("nothing to verify with", "report", _signed(SMALL_DATA), "no_key", recipient=MANAGER, ring=[]),
        _refused("relayed by its own origin", "report", own.to_bytes(), "relay_loop", recipient=MANAGER),
        _refused("back at a relay", "relay", back.to_bytes(), "relay_loop", own_id=RELAYS[0]),
    ]


GENERATORS: dict[str, Callable[[], list[Case]]] = {
    "keys.json": keys,
    "report.json": reports,
    "hop.json": hops,
    "message.json": messages,
    "verdict.json": verdicts,
    "peer.json": peers,
    "txt.json": txt_answers,
    "window.json": windows,
    "numbers.json": numbers,
    "bounds.json": bounds.cases,
    "refused.json": refused,
}


def content(name: str) -> str:
    """Return the content of a file: a JSON list with one case per line."""
    return "[\n" + ",\n".join(json.dumps(case) for case in GENERATORS[name]()) + "\n]\n"


if __name__ == "__main__":
    for file_name in GENERATORS:
        (FOLDER / file_name).write_text(content(file_name))
        print(FOLDER / file_name)
