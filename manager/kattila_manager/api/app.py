"""The six endpoints and the pages, in Bottle: a body to a call, an answer or a refusal to a response.

May live here: HTTP. Every WSGI server can run this application; under the door (RSGI) it gets all requests but updates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bottle
from bottle import Bottle, HTTPResponse, request, static_file

from kattila_keys.refresh import Keys
from kattila_manager.api import access, fleet_json
from kattila_manager.api.access import MethodNotAllowed, NotFound, Shown, UnknownAgent
from kattila_manager.ingest import responses
from kattila_manager.ingest.responses import Response
from kattila_manager.ingest.update_handler import Intake
from kattila_manager.records import Filed, refused
from kattila_manager.store.database import DatabaseUnusableError
from kattila_manager.store.ingest import registry
from kattila_manager.store.ingest.writer import COMMIT_SECONDS, Writer, not_in_time
from kattila_manager.store.store import Store
from kattila_protocol import canonical, message, registration
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import ClockSkew, Malformed, Overloaded, Refusal, TooLarge
from kattila_protocol.freshness import check_skew
from kattila_protocol.names import checked_id

_log = logging.getLogger("kattila.manager")


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints call."""

    intake: Intake
    keys: Keys
    writer: Writer
    store: Store
    clock: Callable[[], int]
    interval_ms: int
    pages_dir: Path
    read_token: str | None
    admin_token: str | None
    version: str


def make_app(services: Services) -> Bottle:
    """Make the application."""
    app = Bottle()
    app.default_error_handler = _error
    app.post("/status/updates", callback=_answering(partial(_update, services)))
    app.post("/status/register", callback=_answering(partial(_register, services)))
    app.get("/status/healthcheck", callback=_answering(partial(_health, services)))
    app.get("/status/agents", callback=_answering(partial(_agents, services)))
    app.get("/status/alarms", callback=_answering(partial(_alarms, services)))
    app.post("/status/admin/reset", callback=_answering(partial(_reset, services)))
    app.get("/", callback=partial(_page, services, "index.html"))
    app.get("/<path:re:(?!status/).+>", callback=partial(_page, services))
    return app


def _update(services: Services) -> Response:
    body, content_type = _body(MAX_BODY_BYTES), request.content_type
    try:
        begun = services.keys.verify(partial(services.intake.begin, content_type, body), services.clock())
    except Refusal as refusal:
        return services.intake.refuse(refusal)
    if isinstance(begun, Response):
        return begun
    future: Future[Filed] = Future()
    services.writer.submit(begun.incoming, future)
    try:
        filed = future.result(COMMIT_SECONDS)
    except TimeoutError:
        return services.intake.finish(begun, not_in_time())
    services.keys.record_use(begun.key.fingerprint, begun.incoming.received_at)
    return services.intake.finish(begun, filed)


def _register(services: Services) -> Response:
    body, now = _body(message.MAX_MESSAGE_BYTES), services.clock()
    message.check_content_type(request.content_type)
    try:
        asked, key = services.keys.verify(partial(registration.unseal, body), now)
    except Refusal as refusal:
        return services.intake.refuse(refusal)
    try:
        check_skew(asked.timestamp, now)
    except ClockSkew as refusal:
        return services.intake.registered(asked, key, refused(refusal), asked.agent_id)
    agent_id, filed = services.store.write(lambda connection: registry.register(connection, asked, now))
    return services.intake.registered(asked, key, filed, agent_id)


def _health(services: Services) -> Response:
    return responses.as_json(200, {"status": "ok", "version": services.version})


def _agents(services: Services) -> Response:
    access.check_read(_shown(), services.read_token)
    return responses.as_json(200, fleet_json.agents(services.store, services.interval_ms, services.clock()))


def _alarms(services: Services) -> Response:
    access.check_read(_shown(), services.read_token)
    return responses.as_json(200, fleet_json.alarms(services.store))


def _reset(services: Services) -> Response:
    access.check_admin(_shown(), services.admin_token)
    message.check_content_type(request.content_type)
    wanted = canonical.parse_object(_body(message.MAX_MESSAGE_BYTES))
    # Not compared with {"all": True}, which equals {"all": 1}.
    is_all = set(wanted) == {"all"} and wanted["all"] is True
    agent_id = None if is_all else checked_id(wanted.get("agent_id"), "agent_id")
    if agent_id is not None and set(wanted) != {"agent_id"}:
        raise Malformed('expected {"agent_id": "…"} or {"all": true}')
    count = services.store.write(lambda connection: registry.reset(connection, agent_id, services.clock()))
    if agent_id is not None and count == 0:
        raise UnknownAgent(f"{agent_id} never registered and never reported here")
    return responses.as_json(200, {"reset": count})


def _page(services: Services, path: str) -> HTTPResponse:
    try:
        access.check_read(_shown(), services.read_token)
    except Refusal as refusal:
        return _response(responses.problem(refusal))
    if not (services.pages_dir / "index.html").exists():
        missing = NotFound("no page was published yet; run: kattila-manager publish --once")
        return _response(responses.problem(missing))
    page = static_file(path, root=services.pages_dir)
    page.set_header("X-Content-Type-Options", "nosniff")
    page.set_header("Cache-Control", "no-cache")
    return page


def _answering(endpoint: Callable[[], Response]) -> Callable[[], HTTPResponse]:
    def callback() -> HTTPResponse:
        try:
            return _response(endpoint())
        except Refusal as refusal:
            return _response(responses.problem(refusal))
        except DatabaseUnusableError as error:
            _log.error("%s %s: %s", request.method, request.path, error)
            return _response(responses.problem(Overloaded("the database cannot be used at the moment")))

    return callback


def _response(answer: Response) -> HTTPResponse:
    return HTTPResponse(body=answer.body, status=answer.status, headers=answer.headers)


def _body(limit: int) -> bytes:
    if request.content_length > limit:
        raise TooLarge(f"the body has {request.content_length} bytes; the limit is {limit}")
    body: bytes = request.environ["wsgi.input"].read(max(0, request.content_length))
    return body


def _shown() -> Shown:
    return Shown(
        source=request.environ.get("REMOTE_ADDR", ""),
        host=request.get_header("Host", ""),
        authorization=request.get_header("Authorization", ""),
    )


def _error(error: bottle.HTTPError) -> bytes:
    """Say what Bottle itself refuses; its own mistakes have no kind (RFC 9457, section 4.2.1)."""
    bottle.response.content_type = "application/problem+json"
    # A path that leads out of the folder of pages is a 403 of Bottle's.
    if error.status_code in (403, 404):
        bottle.response.status = NotFound.status
        return canonical.encode(NotFound(f"{request.path[:80]} is no endpoint, and no page that was published").members)
    if error.status_code == MethodNotAllowed.status:
        allowed = error.headers.get("Allow", "")
        return canonical.encode(MethodNotAllowed(f"{request.path[:80]} takes {allowed}").members)
    title = bottle.HTTP_CODES.get(error.status_code, "Error")
    return canonical.encode({"type": "about:blank", "title": title, "status": error.status_code})
