"""The test vectors, checked three ways: made again, read by the package, and made by a stranger and by openssl."""

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
from kattila_protocol.errors import Refusal
from kattila_protocol.freshness import Freshness, Window, check_skew
from kattila_protocol.members import build
from kattila_protocol.names import MANAGER
from kattila_protocol.report import Report
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key, Purpose
from kattila_protocol.txt import TxtError, select_psk
from protocol import stranger
from protocol.samples import PSK
from support.waiting import PATIENCE_SECONDS
from vectors import generate

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
    """Undo what the files do to bytes."""
    return text.encode("latin-1")


def ring_of(psks: list[str]) -> Ring:
    return Ring(tuple(RingEntry(Key.from_psk(psk.encode()), 0) for psk in psks))


# --- Made again


@pytest.mark.parametrize("name", generate.MAKERS)
def test_made_again_they_are_the_same(name: str) -> None:
    on_disk = (generate.FOLDER / name).read_text()
    assert generate.content(name) == on_disk, "if meant: PYTHONPATH=tests .venv/bin/python -m vectors.generate"


def test_every_file_has_its_maker() -> None:
    assert {path.name for path in generate.FOLDER.glob("*.json")} == set(generate.MAKERS)


# --- Read by the package


@each("keys")
def test_keys(case: Case) -> None:
    key = Key.from_psk(case["psk"].encode())
    assert key.fingerprint == case["fingerprint"]
    assert {purpose.value: derived.hex() for purpose, derived in key.purpose_keys.items()} == case["purpose_keys"]


@each("report")
def test_report(case: Case) -> None:
    cut = envelope.parse(raw(case["body"]))
    assert (cut.data, cut.mac, cut.hop_mac, cut.relay_path) == (raw(case["data"]), case["hmac"], case["hop_hmac"], ())
    envelope.verify(cut, ring_of([case["psk"]]), case["recipient"])


@each("hop")
def test_hop(case: Case) -> None:
    after = envelope.parse(raw(case["after"]))
    envelope.verify(after, ring_of(case["ring"]), case["recipient"])
    before = envelope.parse(raw(case["before"]))
    envelope.verify(before, ring_of(case["ring"]), case["relay"])
    assert envelope.forward(before, case["relay"], Key.from_psk(case["psk"].encode()), case["recipient"]) == after


MESSAGE_READERS: dict[str, Callable[[bytes, Ring, Case], object]] = {
    "register": lambda body, ring, told: registration.unseal(body, ring)[0],
    "reset": lambda body, ring, told: reset.unseal(body, ring, told["agent_id"], told["timestamp"])[0],
    "verdict": lambda body, ring, told: reset.unseal_answer(body, ring, told["nonce"]),
}


@each("message")
def test_message(case: Case) -> None:
    value = MESSAGE_READERS[case["purpose"]](raw(case["body"]), ring_of([case["psk"]]), case["members"])
    assert json.loads(canonical.encode(value)) == case["members"]


@each("verdict")
def test_verdict(case: Case) -> None:
    said = verdict.unseal(raw(case["body"]), ring_of([case["psk"]]), case["nonce"])
    assert json.loads(canonical.encode(said)) == case["members"]
    assert said.disposition.name.lower() == case["sample"]


@each("peer")
def test_peer(case: Case) -> None:
    ring, asked = ring_of([case["psk"]]), case["parameters"]
    query, _ = peer.verify_query(asked, ring, frozenset({asked["to"]}), int(asked["timestamp"]))
    answer = peer.unseal_answer(raw(case["answer_body"]), ring, query.nonce)
    assert json.loads(canonical.encode(answer)) == case["answer"]


@each("txt")
def test_txt(case: Case) -> None:
    records = [tuple(raw(part) for part in record) for record in case["records"]]
    if case["psk"] is None:
        with pytest.raises(TxtError):
            select_psk(records)
    else:
        assert select_psk(records).decode() == case["psk"]


@each("window")
def test_window(case: Case) -> None:
    window = Window()
    for tick, nonce, judged in case["messages"]:
        assert window.judge(tick, nonce).name.lower() == judged
        window = window.add(tick, nonce) if window.judge(tick, nonce) is Freshness.FRESH else window


def open_report(body: bytes, ring: Ring, recipient: str, now: int) -> None:
    """Do what the manager does with a report, as far as it needs no memory."""
    cut = envelope.parse(body)
    envelope.verify(cut, ring, recipient)
    report = build(Report, canonical.parse_object(cut.data)).check()
    envelope.check_origin(report.agent_id, cut.relay_path)
    check_skew(report.timestamp, now)


def open_registration(body: bytes, ring: Ring, now: int) -> None:
    """Do what the manager does with a registration, as far as it needs no memory."""
    asked, _ = registration.unseal(body, ring)
    check_skew(asked.timestamp, now)


def relay_report(body: bytes, ring: Ring, own_id: str) -> None:
    """Do what a relay does with a report, as far as it needs no network."""
    cut = envelope.parse(body)
    envelope.verify(cut, ring, own_id)
    envelope.forward(cut, own_id, ring.current, MANAGER)


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


# So that a vector is refused for its own reason.
@each("report")
def test_good_report_is_not_refused_by_the_same_reader(case: Case) -> None:
    members = json.loads(case["data"])
    if "timestamp" in members:
        open_report(raw(case["body"]), ring_of([case["psk"]]), case["recipient"], members["timestamp"])


# --- Made by a stranger


def test_stranger_has_nothing_of_ours() -> None:
    tree = ast.parse(Path(stranger.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "hashlib", "hmac", "json", "typing"}


@each("keys")
def test_stranger_derives_the_same_keys(case: Case) -> None:
    psk = case["psk"].encode()
    assert stranger.fingerprint(psk) == case["fingerprint"]
    assert {name: stranger.purpose_key(psk, name).hex() for name in case["purpose_keys"]} == case["purpose_keys"]


@each("report")
def test_stranger_seals_a_report_to_the_same_bytes(case: Case) -> None:
    psk = case["psk"].encode()
    assert stranger.report(psk, case["data"], case["recipient"], [], psk) == case["body"]


def test_stranger_encodes_data_to_the_same_bytes() -> None:
    assert stranger.encode(json.loads(vectors("report")[0]["data"])) == vectors("report")[0]["data"]


@each("hop")
def test_stranger_signs_a_hop_to_the_same_bytes(case: Case) -> None:
    origin, report = case["ring"][0].encode(), vectors("hop")[0]["before"]
    data = report[len('{"data":') : report.rindex(',"hmac":"')]
    path = json.loads(case["after"])["relay_path"]
    assert stranger.report(origin, data, case["recipient"], path, case["psk"].encode()) == case["after"]


@each("message")
def test_stranger_seals_a_message_to_the_same_bytes(case: Case) -> None:
    assert stranger.request(case["psk"].encode(), case["purpose"], case["members"]) == case["body"]


@each("verdict")
def test_stranger_reads_a_verdict(case: Case) -> None:
    assert stranger.answer(case["psk"].encode(), case["body"]) == case["members"]
    assert stranger.answer(b"another psk, no doubt", case["body"]) is None


@each("peer")
def test_stranger_asks_a_peer_and_reads_its_answer(case: Case) -> None:
    *asked, mac = case["parameters"].values()
    assert stranger.peer_hmac(case["psk"].encode(), *asked) == mac
    assert stranger.answer(case["psk"].encode(), case["answer_body"]) == case["answer"]


@each("txt")
def test_stranger_chooses_the_same_psk(case: Case) -> None:
    psk = stranger.psk_of([[raw(part) for part in record] for record in case["records"]])
    assert (psk.decode() if psk else None) == case["psk"]


@each("window")
def test_stranger_judges_alike(case: Case) -> None:
    accepted: list[tuple[int, str]] = []
    for tick, nonce, judged in case["messages"]:
        assert stranger.window_judges(accepted, tick, nonce) == judged
        if judged == "fresh":
            accepted.append((tick, nonce))


# --- Made by openssl


def openssl_hmac(key: bytes, message: bytes) -> str:
    """The keys are those of the vectors; in an argument a real one would be seen by every process."""
    command = [str(OPENSSL), "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-hex"]
    shown = subprocess.run(
        command, input=message, capture_output=True, check=True, timeout=PATIENCE_SECONDS
    ).stdout.decode()
    return shown.split()[-1]


def derivations() -> Iterator[tuple[str, bytes, bytes, str]]:
    """Every key: its name, the PSK, the label, and the key."""
    for case in vectors("keys"):
        for purpose, derived in case["purpose_keys"].items():
            yield f"key {purpose} {case['fingerprint']}", case["psk"].encode(), f"kattila/1/{purpose}".encode(), derived


def macs() -> Iterator[tuple[str, str, str, bytes, str]]:
    """Every MAC: its name, PSK, purpose, what is signed, and the MAC."""
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
        *asked, mac = case["parameters"].values()
        yield "peer query", case["psk"], "peer", "\n".join(asked).encode(), mac


MACS = [
    *derivations(),
    *((name, stranger.purpose_key(psk.encode(), purpose), signed, mac) for name, psk, purpose, signed, mac in macs()),
]


@pytest.mark.skipif(OPENSSL is None, reason="the program openssl is not installed")
@pytest.mark.parametrize(("key", "signed", "mac"), [made[1:] for made in MACS], ids=[made[0] for made in MACS])
def test_openssl_makes_the_same_mac(key: bytes, signed: bytes, mac: str) -> None:
    assert openssl_hmac(key, signed) == mac


def test_all_purposes_are_in_the_vectors() -> None:
    assert {purpose for _, _, purpose, _, _ in macs()} == set(Purpose)
