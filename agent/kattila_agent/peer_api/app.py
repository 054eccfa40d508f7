"""The endpoints that an agent offers to other agents and to commands, in Bottle."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from bottle import Bottle, HTTPError, HTTPResponse, request

from kattila_agent import __version__
from kattila_agent.identity import Identity, StateError
from kattila_agent.outbound.http.clients import BUDGET
from kattila_agent.outbound.http.connection import Reply
from kattila_agent.outbound.paths import Uplink
from kattila_agent.outbound.reporting import Reporter
from kattila_agent.peer_api.allowed_sources import AllowedSources
from kattila_agent.peer_api.relay import ReportRelay
from kattila_agent.peer_api.seen_nonces import SeenNonces
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import Spool, numbering
from kattila_keys.refresh import Keys
from kattila_protocol import peer, reset
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import Refusal, TooLarge
from kattila_protocol.message import MAX_MESSAGE_BYTES, check_content_type
from kattila_protocol.peer import MAX_LISTED, PeerAnswer
from kattila_protocol.reset import ResetAnswer
from kattila_protocol.signing import Key

_LOOPBACK = frozenset(("127.0.0.1", "::1"))
_PROBLEM = "application/problem+json"
_HEALTHY = json.dumps({"status": "ok", "version": __version__}).encode()


class ForeignSource(Refusal):
    """The caller's address is in none of the networks that may send such requests."""

    kind = "foreign_source"
    status = 403
    title = "This address may not ask that here."


@dataclass(frozen=True, slots=True)
class PeerApi:
    """The endpoints of one agent. `on_reset` is called once the agent has a new id."""

    runtime: Runtime
    identity: Identity
    keys: Keys
    spool: Spool
    reporter: Reporter
    uplink: Uplink
    report_relay: ReportRelay
    allowed_sources: AllowedSources
    on_reset: Callable[[], None]
    seen_nonces: SeenNonces = field(default_factory=SeenNonces)

    def app(self) -> Bottle:
        """Return the WSGI application."""
        app = Bottle()
        app.default_error_handler = _http_error
        app.route("/status/healthcheck", "GET", lambda: _json(_HEALTHY))
        app.route("/status/peer", "GET", lambda: _answer(self._peer))
        app.route("/status/relay", "POST", lambda: _answer(self._relay))
        app.route("/status/reset", "POST", lambda: _answer(self._reset))
        return app

    def allows(self, source: str) -> bool:
        """Return whether requests from this address are answered, apart from the health check."""
        # A link-local IPv6 address carries its zone.
        return self.allowed_sources.includes(source.partition("%")[0], self.reporter.latest)

    def _peer(self) -> bytes:
        is_local = self._check_source()
        now, measurement = self.runtime.now(), self.reporter.latest
        path = self.uplink.path(self.runtime.monotonic())
        parameters, own = dict(request.query.decode("utf-8")), _own_addresses(measurement, is_local)
        query, key = self.keys.verify(lambda ring: peer.verify_query(parameters, ring, own, now), now)
        self.seen_nonces.add(query.nonce, _source(), now)
        answer = PeerAnswer(
            agent_id=self.identity.agent_id(),
            hostname=measurement.hostname if measurement else "",
            distance=path.distance if path else None,
            next_hop=path.next_hop if path else None,
            interfaces=measurement.telemetry.interfaces[:MAX_LISTED] if measurement else (),
            routes=measurement.telemetry.routes[:MAX_LISTED] if measurement else (),
            nonce=query.nonce,
        )
        return _sealed_to_fit(answer, key)

    def _relay(self) -> Reply:
        self._check_source()
        budget = request.headers.get(BUDGET, "")
        seconds = int(budget) / 1000 if re.fullmatch("[0-9]{1,9}", budget) else None
        return self.report_relay.pass_on(_body(MAX_BODY_BYTES), seconds)

    def _reset(self) -> bytes:
        self._check_source()
        body = _body(MAX_MESSAGE_BYTES)
        now, own_id = self.runtime.now(), self.identity.agent_id()
        requested, key = self.keys.verify(lambda ring: reset.unseal(body, ring, own_id, now), now)
        self.seen_nonces.add(requested.nonce, _source(), now)
        new_id = numbering.reset(self.identity, self.spool, own_id)
        self.on_reset()
        return reset.seal_answer(ResetAnswer(new_id, requested.nonce), key)

    def _check_source(self) -> bool:
        """Return whether the request comes from this machine.

        Raises ForeignSource if its source is not allowed.
        """
        source = _source()
        if not self.allows(source):
            raise ForeignSource(
                f"{source} is neither this machine, nor behind its WireGuard tunnels, nor in PEER_NETWORKS"
            )
        return ipaddress.ip_address(source).is_loopback


def _source() -> str:
    """Return the address of the client; a link-local IPv6 address comes with its zone."""
    return str(request.environ["REMOTE_ADDR"]).partition("%")[0]


def _own_addresses(measurement: Measurement | None, is_local: bool) -> frozenset[str]:
    # The address that a query came to is an own address, even if the newest measurement does not contain it.
    here = str(request.environ["SERVER_NAME"]).partition("%")[0]
    known = (measurement.own_addresses if measurement else frozenset()) | {here}
    if is_local:
        return known | _LOOPBACK
    # Every node has loopback addresses: a remote query to one may have been meant for another node.
    return frozenset(address for address in known - _LOOPBACK if not address.startswith("127."))


def _sealed_to_fit(answer: PeerAnswer, key: Key) -> bytes:
    """Seal an answer, with fewer interfaces and routes if it would be too large."""
    sealed, shown = peer.seal_answer(answer, key), MAX_LISTED
    while len(sealed) > MAX_MESSAGE_BYTES and shown:
        shown //= 2
        shorter = replace(answer, interfaces=answer.interfaces[:shown], routes=answer.routes[:shown])
        sealed = peer.seal_answer(shorter, key)
    return sealed


def _body(limit: int) -> bytes:
    check_content_type(request.content_type)
    if request.content_length > limit:
        raise TooLarge(f"the body has {request.content_length} bytes; the limit is {limit}")
    return bytes(request.environ["wsgi.input"].read(limit + 1))


def _answer(endpoint: Callable[[], bytes | Reply]) -> HTTPResponse:
    """Return what an endpoint returns, or its refusal as a problem document."""
    try:
        answer = endpoint()
        return _relayed(answer) if isinstance(answer, Reply) else _json(answer)
    except Refusal as refusal:
        return _problem(refusal.status, refusal.members, retry_after_seconds=refusal.retry_after_seconds)
    except StateError as error:
        return _http_error(HTTPError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)))


def _json(body: bytes) -> HTTPResponse:
    return HTTPResponse(body, headers={"Content-Type": "application/json", "Cache-Control": "no-store"})


def _relayed(reply: Reply) -> HTTPResponse:
    """Return the manager's answer unchanged."""
    content_type = "application/json" if reply.status == HTTPStatus.OK else _PROBLEM
    headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
    if reply.retry_after_seconds is not None:
        headers["Retry-After"] = str(reply.retry_after_seconds)
    return HTTPResponse(reply.body, status=reply.status, headers=headers)


def _http_error(error: HTTPError) -> HTTPResponse:
    """Return an HTTP error as a problem document (RFC 9457, section 4.2.1)."""
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
