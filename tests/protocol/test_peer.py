"""The query from one agent to another, and its answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_protocol import canonical, message, peer, verdict
from kattila_protocol.errors import BadSignature, ClockSkew, Malformed, NoKey, Refusal
from kattila_protocol.peer import MAX_LISTED, PeerAnswer, PeerQuery
from kattila_protocol.report import Interface, Route
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Purpose
from protocol.samples import AGENT, FOREIGN_KEY, KEY, NONCE, NOW, OTHER_AGENT, OTHER_NONCE, RELAYS, REPORT, RING

ADDRESSES = frozenset({"192.0.2.1", "2001:db8::1"})
QUERY = PeerQuery(OTHER_AGENT, "2001:db8::1", NONCE, NOW)
PARAMETERS = QUERY.parameters(KEY)
ANSWER = PeerAnswer(AGENT, "a.example.org", 1, RELAYS[0], REPORT.telemetry.interfaces, REPORT.telemetry.routes, NONCE)
MEMBERS: dict[str, Any] = json.loads(canonical.encode(ANSWER))


def verified(parameters: dict[str, str], now: int = NOW) -> PeerQuery:
    query, key = peer.verify_query(parameters, RING, ADDRESSES, now)
    assert key == KEY
    return query


def test_a_query_and_its_parameters_are_equivalent() -> None:
    assert list(PARAMETERS) == ["agent_id", "to", "nonce", "timestamp", "hmac"]
    assert PARAMETERS["timestamp"] == "1760000000000"
    assert verified(PARAMETERS) == QUERY


def test_a_query_to_another_node_is_refused() -> None:
    elsewhere = replace(QUERY, to="192.0.2.2").parameters(KEY)
    with pytest.raises(BadSignature, match="addressed to another node"):
        verified(elsewhere)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent_id", AGENT),
        ("to", "192.0.2.1"),
        ("nonce", OTHER_NONCE),
        ("timestamp", str(NOW + 1)),
        ("hmac", "0" * 64),
        ("hmac", ""),
        ("hmac", PARAMETERS["hmac"].upper()),
        ("hmac", KEY.sign(Purpose.VERDICT, b"x")),
    ],
)
def test_a_changed_parameter_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadSignature, match="'peer'"):
        verified({**PARAMETERS, name: value})


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.PEER])
def test_a_mac_for_another_purpose_is_refused(purpose: Purpose) -> None:
    signed = "\n".join((OTHER_AGENT, "2001:db8::1", NONCE, str(NOW))).encode()
    assert PARAMETERS["hmac"] == KEY.sign(Purpose.PEER, signed)
    with pytest.raises(BadSignature, match="'peer'"):
        verified({**PARAMETERS, "hmac": KEY.sign(purpose, signed)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent_id", ""),
        ("agent_id", "manager"),
        ("nonce", ""),
        ("nonce", NONCE.upper()),
        ("timestamp", ""),
        ("timestamp", "-1"),
        ("timestamp", "+1"),
        ("timestamp", " 1"),
        ("timestamp", "1.5"),
        ("timestamp", "1e3"),
        ("timestamp", "1_000"),
        ("timestamp", "NaN"),
        ("timestamp", "\u0661\u0662"),
        ("timestamp", "\u00b2"),
        ("timestamp", "9" * 16),
        ("timestamp", "9" * 5000),
        ("to", "\ud800"),
        ("to", "käsi"),
    ],
)
def test_an_invalid_parameter_is_refused(name: str, value: str) -> None:
    with pytest.raises(Malformed):
        verified({**PARAMETERS, name: value})


@pytest.mark.parametrize("name", ["agent_id", "to", "nonce", "timestamp", "hmac"])
def test_each_parameter_is_required(name: str) -> None:
    with pytest.raises((Malformed, BadSignature)):
        verified({key: value for key, value in PARAMETERS.items() if key != name})


@pytest.mark.parametrize("offset", [600_001, -600_001])
def test_a_query_with_a_skewed_clock_is_refused(offset: int) -> None:
    with pytest.raises(ClockSkew):
        verified(PARAMETERS, NOW + offset)


def test_a_node_without_key_refuses_a_query() -> None:
    with pytest.raises(NoKey):
        peer.verify_query(PARAMETERS, Ring(), ADDRESSES, NOW)


@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)), st.text(st.characters()) | st.sampled_from([AGENT, NONCE])))
def test_any_other_parameters_raise_a_refusal(parameters: dict[str, str]) -> None:
    with pytest.raises(Refusal):
        verified(parameters)


def test_seal_and_unseal_an_answer_are_inverse() -> None:
    body = peer.seal_answer(ANSWER, KEY)
    assert list(json.loads(body)["data"]) == [
        *("agent_id", "hostname", "distance", "next_hop", "interfaces", "routes", "nonce")
    ]
    assert peer.unseal_answer(body, RING, NONCE) == ANSWER


def test_an_answer_may_have_no_connection_to_the_manager() -> None:
    lost = replace(ANSWER, distance=None, next_hop=None, interfaces=(), routes=())
    assert peer.unseal_answer(peer.seal_answer(lost, KEY), RING, NONCE) == lost


def test_an_unknown_member_of_an_answer_is_skipped() -> None:
    members = {**MEMBERS, "of": {"the": "future"}}
    assert peer.unseal_answer(message.seal(Purpose.VERDICT, KEY, members), RING, NONCE) == ANSWER


@pytest.mark.parametrize("member", MEMBERS)
def test_each_member_of_an_answer_is_required(member: str) -> None:
    members = {name: value for name, value in MEMBERS.items() if name != member}
    with pytest.raises(Malformed):
        peer.unseal_answer(message.seal(Purpose.VERDICT, KEY, members), RING, NONCE)


ROUTE = MEMBERS["routes"][0]
INTERFACE = MEMBERS["interfaces"][0]


@pytest.mark.parametrize(
    ("member", "value", "why"),
    [
        ("agent_id", "manager", "agent_id is not a UUID"),
        ("agent_id", None, "agent_id is not a string"),
        ("hostname", None, "hostname is not a string"),
        ("distance", -1, "distance is not from 0 to"),
        ("distance", True, "distance is not an integer"),
        ("distance", "0", "distance is not an integer"),
        ("next_hop", "manager", "next_hop is not a UUID"),
        ("next_hop", [RELAYS[0]], "next_hop is not a string"),
        ("interfaces", None, "interfaces is not a list"),
        ("interfaces", {}, "interfaces is not a list"),
        ("interfaces", ["eth0"], r"interfaces\[0\] is not an object"),
        ("interfaces", [list(INTERFACE.values())], r"interfaces\[0\] is not an object"),
        ("interfaces", [INTERFACE, {**INTERFACE, "mtu": "1500"}], r"interfaces\[1\].mtu is not an integer"),
        ("interfaces", [{**INTERFACE, "flags": ["UP", 1]}], r"interfaces\[0\].flags\[1\] is not a string"),
        ("interfaces", [{"name": "eth0"}], r"interfaces\[0\].index is missing"),
        ("routes", ROUTE, r"routes\[0\] is not a list"),
        ("routes", [{}], r"routes\[0\] is not a list"),
        ("routes", [[]], r"routes\[0\] has 0 items instead of 7"),
        ("routes", [ROUTE, ROUTE[:-1]], r"routes\[1\] has 6 items instead of 7"),
        ("routes", [[*ROUTE, "nhid 7"]], r"routes\[0\] has 8 items instead of 7"),
        ("routes", [[*ROUTE[:4], None, *ROUTE[5:]]], r"routes\[0\]\[4\] is not an integer"),
        ("interfaces", [INTERFACE] * 201, "interfaces is longer than 200"),
        ("routes", [ROUTE] * 201, "routes is longer than 200"),
    ],
)
def test_a_malformed_answer_is_refused_with_the_member(member: str, value: object, why: str) -> None:
    body = message.seal(Purpose.VERDICT, KEY, {**MEMBERS, member: value})
    with pytest.raises(Malformed, match=f"^{why}"):
        peer.unseal_answer(body, RING, NONCE)


# Ten addresses of maximum length on each interface.
def test_the_answer_of_a_large_node_fits() -> None:
    address = ":".join(["2001", "db8", *["ffff"] * 6])
    flags = ("NO-CARRIER", "BROADCAST", "MULTICAST", "ALLMULTI", "UP", "LOWER_UP")
    name = "wireguard-north"
    link = Interface(
        2**31, name, "wireguard", flags, "LOWERLAYERDOWN", 65535, "00:00:5e:00:53:01", (f"{address}/128",) * 10
    )
    link = replace(link, master=name, link=name, rx_bytes=10**18, tx_bytes=10**18)
    route = Route(f"{address}/128", address, name, address, 2**32 - 1, "kernel", "unreachable")
    large = replace(ANSWER, interfaces=(link,) * MAX_LISTED, routes=(route,) * MAX_LISTED)
    assert peer.unseal_answer(peer.seal_answer(large, KEY), RING, NONCE) == large


def test_an_answer_to_another_query_is_refused() -> None:
    with pytest.raises(Malformed, match="nonce of another query"):
        peer.unseal_answer(peer.seal_answer(ANSWER, KEY), RING, OTHER_NONCE)


def test_an_answer_under_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        peer.unseal_answer(peer.seal_answer(ANSWER, FOREIGN_KEY), RING, NONCE)


def test_an_answer_for_another_purpose_is_refused() -> None:
    with pytest.raises(BadSignature):
        peer.unseal_answer(message.seal(Purpose.PEER, KEY, ANSWER), RING, NONCE)


# Answers and verdicts share a purpose, but their members differ.
def test_a_verdict_and_an_answer_are_not_interchangeable() -> None:
    signed = verdict.seal(verdict.Verdict("accepted", AGENT, NONCE, NOW, 0), KEY)
    with pytest.raises(Malformed):
        peer.unseal_answer(signed, RING, NONCE)
    with pytest.raises(Malformed):
        verdict.unseal(peer.seal_answer(ANSWER, KEY), RING, NONCE)
