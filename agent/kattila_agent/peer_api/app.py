"""The agent's endpoints in Bottle: a body to a call, an error to a status.

May live here: what HTTP asks for. Not here: sockets and threads (server), or what a query means (kattila_protocol).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from bottle import Bottle, HTTPError, HTTPResponse, request

from kattila_agent import __version__
from kattila_agent.identity import StateError
from kattila_agent.outbound.connection import Reply
from kattila_agent.outbound.delivery import BUDGET
from kattila_agent.outbound.paths import Way
from kattila_agent.peer_api.seen_nonces import SeenNonces
from kattila_agent.sampling.measurement import Measurement
from kattila_protocol import peer, reset
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import Refusal, TooLarge
from kattila_protocol.message import MAX_MESSAGE_BYTES, check_content_type
from kattila_protocol.peer import MAX_LISTED, PeerAnswer
from kattila_protocol.reset import ResetAnswer
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key

_LOOPBACK = frozenset(("127.0.0.1", "::1"))
_PROBLEM = "application/problem+json"
_HEALTHY = json.dumps({"status": "ok", "version": __version__}).encode()


class ForeignSource(Refusal):
    """The caller's address is in none of the networks that may ask this."""

    kind = "foreign_source"
    status = 403
    title = "This address may not ask that here."


@dataclass(frozen=True, slots=True)
class Standing:
    """What the node knows of itself now: its last measurement, and the way of its reports (None: none arrives)."""

    measurement: Measurement | None
    way: Way | None


@dataclass(frozen=True, slots=True)
class Node:
    """What the endpoints ask of the rest of the agent.

    `verify` runs an operation with the ring, and once more with a fresh one if no key fits; `reset` ends an id and
    returns the new one; `pass_on` relays a report for a caller that waits so many seconds (None: it does not say);
    `is_near` tells whether an address may call; `now` is ms UTC.
    """

    agent_id: Callable[[], str]
    verify: Callable[[Callable[[Ring], Any], int], Any]
    standing: Callable[[], Standing]
    reset: Callable[[str], str]
    pass_on: Callable[[bytes, float | None], Reply]
    is_near: Callable[[str], bool]
    now: Callable[[], int]


def make_app(node: Node) -> Bottle:
    """Return the WSGI application."""
    app = Bottle()
    seen = SeenNonces()
    app.default_error_handler = _error

    app.route("/status/healthcheck", "GET", lambda: _answer(_HEALTHY))
    app.route("/status/peer", "GET", lambda: _or_problem(lambda: _peer(node, seen)))
    app.route("/status/relay", "POST", lambda: _or_problem(lambda: _relay(node)))
    app.route("/status/reset", "POST", lambda: _or_problem(lambda: _reset(node, seen)))
    return app


def _peer(node: Node, seen: SeenNonces) -> bytes:
    is_local = _check_source(node)
    now, standing = node.now(), node.standing()
    measurement = standing.measurement
    parameters, own = dict(request.query.decode("utf-8")), _own_addresses(measurement, is_local)
    query, key = node.verify(lambda ring: peer.verify_query(parameters, ring, own, now), now)
    seen.add(query.nonce, now)
    answer = PeerAnswer(
        agent_id=node.agent_id(),
        hostname=measurement.hostname if measurement else "",
        distance=standing.way.distance if standing.way else None,
        next_hop=standing.way.next_hop if standing.way else None,
        interfaces=measurement.telemetry.interfaces[:MAX_LISTED] if measurement else (),
        routes=measurement.telemetry.routes[:MAX_LISTED] if measurement else (),
        nonce=query.nonce,
    )
    return _sealed_to_fit(answer, key)


def _own_addresses(measurement: Measurement | None, is_local: bool) -> frozenset[str]:
    # What a query came to is an own address even if the measurement was cut, failed or is older.
    here = str(request.environ["SERVER_NAME"]).partition("%")[0]
    known = (measurement.own_addresses if measurement else frozenset()) | {here}
    if is_local:
        return known | _LOOPBACK
    # Every node has a loopback address: from elsewhere a query to it could be one that was made for another node.
    return frozenset(address for address in known - _LOOPBACK if not address.startswith("127."))


def _sealed_to_fit(answer: PeerAnswer, key: Key) -> bytes:
    """Seal an answer, with fewer interfaces and routes where they have so many addresses that it would be too large."""
    sealed, shown = peer.seal_answer(answer, key), MAX_LISTED
    while len(sealed) > MAX_MESSAGE_BYTES and shown:
        shown //= 2
        shorter = replace(answer, interfaces=answer.interfaces[:shown], routes=answer.routes[:shown])
        sealed = peer.seal_answer(shorter, key)
    return sealed


def _relay(node: Node) -> Reply:
    _check_source(node)
    return node.pass_on(_body(MAX_BODY_BYTES), _allowed_seconds(request.headers.get(BUDGET, "")))


def _allowed_seconds(budget: str) -> float | None:
    return int(budget) / 1000 if re.fullmatch("[0-9]{1,9}", budget) else None


def _reset(node: Node, seen: SeenNonces) -> bytes:
    _check_source(node)
    body = _body(MAX_MESSAGE_BYTES)
    now, own_id = node.now(), node.agent_id()
    asked, key = node.verify(lambda ring: reset.unseal(body, ring, own_id, now), now)
    seen.add(asked.nonce, now)
    return reset.seal_answer(ResetAnswer(node.reset(own_id), asked.nonce), key)


def _check_source(node: Node) -> bool:
    """Raise ForeignSource for a source that may not ask; tell whether it is this machine."""
    # A link-local IPv6 source carries its zone.
    source = str(request.environ["REMOTE_ADDR"]).partition("%")[0]
    if not node.is_near(source):
        raise ForeignSource(f"{source} is neither this machine, nor behind its WireGuard tunnels, nor in PEER_NETWORKS")
    return ipaddress.ip_address(source).is_loopback


def _body(limit: int) -> bytes:
    check_content_type(request.content_type)
    if request.content_length > limit:
        raise TooLarge(f"the body has {request.content_length} bytes; the limit is {limit}")
    return bytes(request.environ["wsgi.input"].read(limit + 1))


def _or_problem(answer: Callable[[], bytes | Reply]) -> HTTPResponse:
    try:
        given = answer()
        return _passed_back(given) if isinstance(given, Reply) else _answer(given)
    except Refusal as refusal:
        return _problem(refusal.status, refusal.members, retry_after_seconds=refusal.retry_after_seconds)
    except StateError as error:
        return _error(HTTPError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)))


def _answer(body: bytes) -> HTTPResponse:
    return HTTPResponse(body, headers={"Content-Type": "application/json", "Cache-Control": "no-store"})


def _passed_back(reply: Reply) -> HTTPResponse:
    """Answer as the manager did."""
    content_type = "application/json" if reply.status == HTTPStatus.OK else _PROBLEM
    headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
    if reply.retry_after_seconds is not None:
        headers["Retry-After"] = str(reply.retry_after_seconds)
    return HTTPResponse(reply.body, status=reply.status, headers=headers)


def _error(error: HTTPError) -> HTTPResponse:
    """Say an error of HTTP itself: no such path, no such method, or one of our own mistakes (RFC 9457, 4.2.1)."""
    status = HTTPStatus(error.status_code)
    return _problem(status, {"type": "about:blank", "title": status.phrase, "status": status}, allow=error.headers)


def _problem(
    status: int, members: dict[str, object], *, retry_after_seconds: int | None = None, allow: Any = ()
) -> HTTPResponse:
    headers = {"Content-Type": _PROBLEM, "Cache-Control": "no-store"}
    if "Allow" in allow:
        headers["Allow"] = allow["Allow"]
    if retry_after_seconds is not None:
        headers["Retry-After"] = str(retry_after_seconds)
    return HTTPResponse(json.dumps(members), status=status, headers=headers)
