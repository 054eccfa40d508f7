"""The test vectors: generated again, parsed by the package, and computed by an independent client and by openssl."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kattila_protocol import canonical, envelope, peer, registration, reset, verdict
from kattila_protocol.errors import Malformed, NumbersTooHigh, Refusal
from kattila_protocol.freshness import Freshness, Window, check_numbers, check_skew
from kattila_protocol.members import build
from kattila_protocol.names import MANAGER
from kattila_protocol.report import Report
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key, Purpose
from kattila_protocol.txt import TxtError, select_psk
from protocol import independent_client
from protocol.samples import KEY, NONCE, PSK, RING
from support.waiting import PATIENCE_SECONDS
from vectors import bounds, generate

OPENSSL = shutil.which("openssl")
Case = dict[str, Any]


@cache
def vectors(name: str) -> list[Case]:
    cases: list[Case] = json.loads((generate.FOLDER / f"{name}.json").read_text())
    return cases


def each(name: str) -> pytest.MarkDecorator:
    cases = vectors(name)
    return pytest.mark.parametrize("case", cases, ids=[case.get("name", str(n)) for n, case in enumerate(cases)])


def raw(text: str) -> bytes:
    """Return the bytes of a text in a vector file."""
    return text.encode("latin-1")


def ring_of(psks: list[str]) -> Ring:
    return Ring(tuple(RingEntry(Key.from_psk(psk.encode()), 0) for psk in psks))


# --- Generated again


@pytest.mark.parametrize("name", generate.GENERATORS)
def test_a_generated_file_is_unchanged(name: str) -> None:
    on_disk = (generate.FOLDER / name).read_text()
    assert generate.content(name) == on_disk, "if intended: PYTHONPATH=tests .venv/bin/python -m vectors.generate"


def test_every_file_has_a_generator() -> None:
    assert {path.name for path in generate.FOLDER.glob("*.json")} == set(generate.GENERATORS)


# --- Parsed by the package


@each("keys")
def test_keys(case: Case) -> None:
    key = Key.from_psk(case["psk"].encode())
    assert key.fingerprint == case["fingerprint"]
    assert {purpose.value: derived.hex() for purpose, derived in key.purpose_keys.items()} == case["purpose_keys"]


@each("report")
def test_report(case: Case) -> None:
    parsed = envelope.parse(raw(case["body"]))
    assert (parsed.data, parsed.mac, parsed.hop_mac, parsed.relay_path) == (
        raw(case["data"]),
        case["hmac"],
        case["hop_hmac"],
        (),
    )
    envelope.verify(parsed, ring_of([case["psk"]]), case["recipient"])


@each("hop")
def test_hop(case: Case) -> None:
    after = envelope.parse(raw(case["after"]))
    envelope.verify(after, ring_of(case["ring"]), case["recipient"])
    before = envelope.parse(raw(case["before"]))
    envelope.verify(before, ring_of(case["ring"]), case["relay"])
    assert envelope.forward(before, case["relay"], Key.from_psk(case["psk"].encode()), case["recipient"]) == after


MESSAGE_PARSERS: dict[str, Callable[[bytes, Ring, Case], object]] = {
    "register": lambda body, ring, members: registration.unseal(body, ring)[0],
    "reset": lambda body, ring, members: reset.unseal(body, ring, members["agent_id"], members["timestamp"])[0],
    "verdict": lambda body, ring, members: reset.unseal_answer(body, ring, members["nonce"]),
}


@each("message")
def test_message(case: Case) -> None:
    value = MESSAGE_PARSERS[case["purpose"]](raw(case["body"]), ring_of([case["psk"]]), case["members"])
    assert json.loads(canonical.encode(value)) == case["members"]


@each("verdict")
def test_verdict(case: Case) -> None:
    parsed = verdict.unseal(raw(case["body"]), ring_of([case["psk"]]), case["nonce"])
    assert json.loads(canonical.encode(parsed)) == case["members"]
    assert parsed.disposition.name.lower() == case["sample"]


@each("peer")
def test_peer(case: Case) -> None:
    ring, parameters = ring_of([case["psk"]]), case["parameters"]
    query, _ = peer.verify_query(parameters, ring, frozenset({parameters["to"]}), int(parameters["timestamp"]))
    answer = peer.unseal_answer(raw(case["answer_body"]), ring, query.nonce)
    assert json.loads(canonical.encode(answer)) == case["answer"]


@each("txt")
def test_txt(case: Case) -> None:
    records = [tuple(raw(part) for part in record) for record in case["records"]]
    ring = None if case["ring"] is None else {psk.encode() for psk in case["ring"]}
    if case["psk"] is None:
        with pytest.raises(TxtError):
            select_psk(records, without_prefix=ring)
    else:
        assert select_psk(records, without_prefix=ring).decode() == case["psk"]


@each("window")
def test_window(case: Case) -> None:
    window = Window()
    for tick, nonce, judged in case["messages"]:
        assert window.judge(tick, nonce).name.lower() == judged
        window = window.add(tick, nonce) if window.judge(tick, nonce) is Freshness.FRESH else window


@each("numbers")
def test_numbers(case: Case) -> None:
    number, highest = case["number"], case["highest"]
    for tick, sample, known in ((number, 1, (highest, 0)), (1, number, (0, highest))):
        if case["possible"]:
            check_numbers(tick, sample, known, case["idle_ms"], case["now"])
        else:
            with pytest.raises(NumbersTooHigh):
                check_numbers(tick, sample, known, case["idle_ms"], case["now"])


def open_report(body: bytes, ring: Ring, recipient: str, now: int) -> None:
    """Check a report as the manager does, except for its stored state."""
    parsed = envelope.parse(body)
    envelope.verify(parsed, ring, recipient)
    report = build(Report, canonical.parse_object(parsed.data)).check()
    envelope.check_origin(report.agent_id, parsed.relay_path)
    check_skew(report.timestamp, now)


def open_registration(body: bytes, ring: Ring, now: int) -> None:
    """Check a registration as the manager does, except for its stored state."""
    request, _ = registration.unseal(body, ring)
    check_skew(request.timestamp, now)


def relay_report(body: bytes, ring: Ring, own_id: str) -> None:
    """Check and forward a report as a relay does, without sending it."""
    parsed = envelope.parse(body)
    envelope.verify(parsed, ring, own_id)
    envelope.forward(parsed, own_id, ring.current, MANAGER)


REFUSERS: dict[str, Callable[[bytes, Ring, Case], object]] = {
    "report": lambda body, ring, case: open_report(body, ring, case["recipient"], case["now"]),
    "relay": lambda body, ring, case: relay_report(body, ring, case["own_id"]),
    "register": lambda body, ring, case: open_registration(body, ring, case["now"]),
    "reset": lambda body, ring, case: reset.unseal(body, ring, case["own_id"], case["now"]),
    "verdict": lambda body, ring, case: verdict.unseal(body, ring, case["nonce"]),
    "peer": lambda body, ring, case: peer.unseal_answer(body, ring, case["nonce"]),
}


@each("refused")
def test_refused(case: Case) -> None:
    with pytest.raises(Refusal) as refusal:
        REFUSERS[case["what"]](raw(case["body"]), ring_of(case["ring"]), case)
    assert refusal.value.kind == case["kind"]


# As a client computes what a receiver of this message would read.
BOUNDED: dict[str, Callable[[bytes], object]] = {
    "report": lambda data: build(Report, canonical.parse_object(data)).check(),
    "register": lambda data: registration.unseal(sealed(Purpose.REGISTER, data), RING),
    "verdict": lambda data: verdict.unseal(sealed(Purpose.VERDICT, data), RING, NONCE),
    "peer": lambda data: peer.unseal_answer(sealed(Purpose.VERDICT, data), RING, NONCE),
}


def sealed(purpose: Purpose, data: bytes) -> bytes:
    return b'{"data":%s,"hmac":"%s"}' % (data, KEY.sign(purpose, data).encode())


@pytest.mark.parametrize("result", ["well-formed", "malformed"])
@pytest.mark.parametrize("message", BOUNDED)
def test_bounds(message: str, result: str) -> None:
    cases = [case for case in vectors("bounds") if (case["message"], case["result"]) == (message, result)]
    assert cases
    for case in cases:
        data = canonical.encode(bounds.changed(case))
        if result == "malformed":
            with pytest.raises(Malformed):
                BOUNDED[message](data)
        else:
            BOUNDED[message](data)


# Shows that a vector is refused for its own reason.
@each("report")
def test_the_same_check_accepts_a_valid_report(case: Case) -> None:
    members = json.loads(case["data"])
    if "timestamp" in members:
        open_report(raw(case["body"]), ring_of([case["psk"]]), case["recipient"], members["timestamp"])


# --- Computed by an independent client


def test_the_independent_client_imports_only_the_standard_library() -> None:
    tree = ast.parse(Path(independent_client.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "hashlib", "hmac", "json", "typing"}


@each("keys")
def test_the_independent_client_derives_the_same_keys(case: Case) -> None:
    psk = case["psk"].encode()
    assert independent_client.fingerprint(psk) == case["fingerprint"]
    assert {name: independent_client.purpose_key(psk, name).hex() for name in case["purpose_keys"]} == case[
        "purpose_keys"
    ]


@each("report")
def test_the_independent_client_seals_the_same_report(case: Case) -> None:
    psk = case["psk"].encode()
    assert independent_client.report(psk, case["data"], case["recipient"], [], psk) == case["body"]


def test_the_independent_client_encodes_the_same_data() -> None:
    assert independent_client.encode(json.loads(vectors("report")[0]["data"])) == vectors("report")[0]["data"]


@each("hop")
def test_the_independent_client_signs_the_same_hop(case: Case) -> None:
    origin, report = case["ring"][0].encode(), vectors("hop")[0]["before"]
    data = report[len('{"data":') : report.rindex(',"hmac":"')]
    path = json.loads(case["after"])["relay_path"]
    assert independent_client.report(origin, data, case["recipient"], path, case["psk"].encode()) == case["after"]


@each("message")
def test_the_independent_client_seals_the_same_message(case: Case) -> None:
    assert independent_client.message(case["psk"].encode(), case["purpose"], case["members"]) == case["body"]


@each("verdict")
def test_the_independent_client_verifies_a_verdict(case: Case) -> None:
    assert independent_client.signed_members(case["psk"].encode(), case["body"]) == case["members"]
    assert independent_client.signed_members(b"another psk, no doubt", case["body"]) is None


@each("peer")
def test_the_independent_client_queries_a_peer(case: Case) -> None:
    *signed, mac = case["parameters"].values()
    assert independent_client.peer_hmac(case["psk"].encode(), *signed) == mac
    assert independent_client.signed_members(case["psk"].encode(), case["answer_body"]) == case["answer"]


@each("txt")
def test_the_independent_client_selects_the_same_psk(case: Case) -> None:
    ring = None if case["ring"] is None else {psk.encode() for psk in case["ring"]}
    psk = independent_client.select_psk([[raw(part) for part in record] for record in case["records"]], ring)
    assert (psk.decode() if psk else None) == case["psk"]


@each("window")
def test_the_independent_client_judges_freshness_alike(case: Case) -> None:
    accepted: list[tuple[int, str]] = []
    for tick, nonce, judged in case["messages"]:
        assert independent_client.freshness(accepted, tick, nonce) == judged
        if judged == "fresh":
            accepted.append((tick, nonce))


@each("numbers")
def test_the_independent_client_judges_numbers_alike(case: Case) -> None:
    judged = independent_client.is_possible(case["number"], case["highest"], case["idle_ms"], case["now"])
    assert judged is case["possible"]


# --- Computed by openssl


def openssl_hmac(key: bytes, message: bytes) -> str:
    """Return the MAC that openssl computes. Only for keys of vectors: every process can see an argument."""
    command = [str(OPENSSL), "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-hex"]
    output = subprocess.run(
        command, input=message, capture_output=True, check=True, timeout=PATIENCE_SECONDS
    ).stdout.decode()
    return output.split()[-1]


def derivations() -> Iterator[tuple[str, bytes, bytes, str]]:
    """Yield the name, the PSK, the label and the bytes of every derived key."""
    for case in vectors("keys"):
        for purpose, derived in case["purpose_keys"].items():
            yield f"key {purpose} {case['fingerprint']}", case["psk"].encode(), f"kattila/1/{purpose}".encode(), derived


def macs() -> Iterator[tuple[str, str, str, bytes, str]]:
    """Yield the name, the PSK, the purpose, the signed bytes and the value of every MAC."""
    for case in vectors("report"):
        yield f"report {case['name']}", case["psk"], "report", raw(case["data"]), case["hmac"]
        yield (
            f"hop {case['name']}",
            case["psk"],
            "hop",
            f"{case['hmac']}\n{case['recipient']}".encode(),
            case["hop_hmac"],
        )
    for case in vectors("hop"):
        yield f"hop {case['name']}", case["psk"], "hop", raw(case["signed"]), json.loads(case["after"])["hop_hmac"]
    for name, purpose, body in (
        *((f"message {case['purpose']}", case["purpose"], case["body"]) for case in vectors("message")),
        *((f"verdict {case['name']}", "verdict", case["body"]) for case in vectors("verdict")),
        *(("peer answer", "verdict", case["answer_body"]) for case in vectors("peer")),
    ):
        signed = json.dumps(json.loads(body)["data"], separators=(",", ":")).encode()
        yield name, PSK.decode(), purpose, signed, json.loads(body)["hmac"]
    for case in vectors("peer"):
        *signed, mac = case["parameters"].values()
        yield "peer query", case["psk"], "peer", "\n".join(signed).encode(), mac


MACS = [
    *derivations(),
    *(
        (name, independent_client.purpose_key(psk.encode(), purpose), signed, mac)
        for name, psk, purpose, signed, mac in macs()
    ),
]


@pytest.mark.skipif(OPENSSL is None, reason="the program openssl is not installed")
@pytest.mark.parametrize(("key", "signed", "mac"), [case[1:] for case in MACS], ids=[case[0] for case in MACS])
def test_openssl_computes_the_same_mac(key: bytes, signed: bytes, mac: str) -> None:
    assert openssl_hmac(key, signed) == mac


def test_the_vectors_cover_all_purposes() -> None:
    assert {purpose for _, _, purpose, _, _ in macs()} == set(Purpose)
