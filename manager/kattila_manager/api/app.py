"""The WSGI application (Bottle): six endpoints and the pages. Every WSGI server can run it."""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bottle
from bottle import Bottle, HTTPResponse, request, static_file

from kattila_keys.refresh import Keys
from kattila_manager import site_folder
from kattila_manager.api import access, fleet_json
from kattila_manager.api.access import Credentials, MethodNotAllowed, NotFound, UnknownAgent
from kattila_manager.ingest import responses
from kattila_manager.ingest.responses import Response
from kattila_manager.ingest.update_handler import UpdateHandler
from kattila_manager.records import refused
from kattila_manager.store.database import DatabaseUnusableError
from kattila_manager.store.ingest import registry
from kattila_manager.store.ingest.admission import AdmissionLimits
from kattila_manager.store.store import Store
from kattila_protocol import canonical, message, registration
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import ClockSkew, Malformed, Overloaded, Refusal, TooLarge
from kattila_protocol.freshness import check_skew
from kattila_protocol.names import checked_id

_log = logging.getLogger("kattila.manager")


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The settings that the endpoints use; a token is None while it is not set, and so are limits if there are none."""

    interval_ms: int
    pages_dir: Path
    read_token: str | None
    admin_token: str | None
    version: str
    limits: AdmissionLimits | None = None


class Endpoints:
    """The endpoints; each method answers one request."""

    def __init__(
        self, updates: UpdateHandler, keys: Keys, store: Store, settings: ApiSettings, clock: Callable[[], int]
    ) -> None:
        """Use these objects; `clock` returns ms UTC."""
        self._updates = updates
        self._keys = keys
        self._store = store
        self._settings = settings
        self._clock = clock

    def app(self) -> Bottle:
        """Make the application."""
        app = Bottle()
        app.default_error_handler = _error
        app.post("/status/updates", callback=_answering(self.update))
        app.post("/status/register", callback=_answering(self.register))
        app.get("/status/healthcheck", callback=_answering(self.health))
        app.get("/status/agents", callback=_answering(self.agents))
        app.get("/status/alarms", callback=_answering(self.alarms))
        app.post("/status/admin/reset", callback=_answering(self.reset))
        app.get("/", callback=partial(self.page, "index.html"))
        app.get("/<path:re:(?!status/).+>", callback=self.page)
        return app

    def update(self) -> Response:
        """Take a report."""
        body = _body(MAX_BODY_BYTES)
        return asyncio.run(self._updates.handle(request.content_type, body, _source()))

    def register(self) -> Response:
        """Register an agent."""
        body, now, source = _body(message.MAX_MESSAGE_BYTES), self._clock(), _source()
        message.check_content_type(request.content_type)
        try:
            known_sender = self._updates.claims_known_id(body)
            asked, key = self._keys.verify(partial(registration.unseal, body), now, known_sender=known_sender)
        except Refusal as refusal:
            return self._updates.refuse(refusal)
        try:
            check_skew(asked.timestamp, now)
            agent_id, filed = self._store.write(
                lambda connection: registry.register(connection, asked, now, self._settings.limits, source)
            )
        except ClockSkew as refusal:
            agent_id, filed = asked.agent_id, refused(refusal)
        return self._updates.answer(agent_id, asked.nonce, asked.timestamp - self._clock(), filed, key)

    def health(self) -> Response:
        """Return the version."""
        return responses.as_json(200, {"status": "ok", "version": self._settings.version})

    def agents(self) -> Response:
        """Return all agents."""
        access.check_read(_credentials(), self._settings.read_token)
        return responses.as_json(200, fleet_json.agents(self._store, self._settings.interval_ms, self._clock()))

    def alarms(self) -> Response:
        """Return the alarms."""
        access.check_read(_credentials(), self._settings.read_token)
        return responses.as_json(200, fleet_json.alarms(self._store))

    def reset(self) -> Response:
        """Reset one agent, or all."""
        access.check_admin(_credentials(), self._settings.admin_token)
        message.check_content_type(request.content_type)
        wanted = canonical.parse_object(_body(message.MAX_MESSAGE_BYTES))
        # Not compared with {"all": True}, which equals {"all": 1}.
        is_all = set(wanted) == {"all"} and wanted["all"] is True
        agent_id = None if is_all else checked_id(wanted.get("agent_id"), "agent_id")
        if agent_id is not None and set(wanted) != {"agent_id"}:
            raise Malformed('expected {"agent_id": "…"} or {"all": true}')
        count = self._store.write(lambda connection: registry.reset(connection, agent_id, self._clock()))
        if agent_id is not None and count == 0:
            raise UnknownAgent(f"{agent_id} never registered or reported to this manager")
        return responses.as_json(200, {"reset": count})

    def page(self, path: str) -> HTTPResponse:
        """Return a published page."""
        try:
            access.check_read(_credentials(), self._settings.read_token)
        except Refusal as refusal:
            return _response(responses.problem(refusal))
        page = _opened(self._settings.pages_dir, path)
        if page is None and path == "index.html":
            missing = NotFound("no page was published yet; run: kattila-manager publish --once")
            return _response(responses.problem(missing))
        if page is None:
            raise bottle.HTTPError(NotFound.status)
        page.set_header("X-Content-Type-Options", "nosniff")
        page.set_header("Cache-Control", "no-cache")
        return page


def _opened(folder: Path, path: str) -> HTTPResponse | None:
    """Return a published page; None if there is none."""
    file = site_folder.open_page(folder, path)
    if file is None:
        return None
    try:
        found = os.fstat(file)
        etag = f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        # Bottle opens files by name only. This name leads to the open file, and to no link.
        return static_file(str(file), root="/proc/self/fd", mimetype=kind, etag=etag)
    finally:
        os.close(file)


def _answering(endpoint: Callable[[], Response]) -> Callable[[], HTTPResponse]:
    def callback() -> HTTPResponse:
        try:
            return _response(endpoint())
        except Refusal as refusal:
            return _response(responses.problem(refusal))
        except DatabaseUnusableError as error:
            _log.error("%s %s: %s", request.method, request.path, error)
            return _response(responses.problem(Overloaded("the database cannot be used now: try again later")))

    return callback


def _response(answer: Response) -> HTTPResponse:
    return HTTPResponse(body=answer.body, status=answer.status, headers=answer.headers)


def _body(limit: int) -> bytes:
    if request.content_length > limit:
        raise TooLarge(f"the body has {request.content_length} bytes; the limit is {limit}")
    body: bytes = request.environ["wsgi.input"].read(max(0, request.content_length))
    return body


def _source() -> str:
    return str(request.environ.get("REMOTE_ADDR", ""))


def _credentials() -> Credentials:
    return Credentials(
        source=_source(),
        host=request.get_header("Host", ""),
        authorization=request.get_header("Authorization", ""),
    )


def _error(error: bottle.HTTPError) -> bytes:
    """Return the problem document for an error of Bottle; an internal error has no kind (RFC 9457, section 4.2.1)."""
    bottle.response.content_type = "application/problem+json"
    # Bottle answers 403 to a path that leads out of the pages folder.
    if error.status_code in (403, 404):
        bottle.response.status = NotFound.status
        return canonical.encode(NotFound(f"{request.path[:80]} is neither an endpoint nor a published page").members)
    if error.status_code == MethodNotAllowed.status:
        allowed = error.headers.get("Allow", "")
        return canonical.encode(MethodNotAllowed(f"{request.path[:80]} takes {allowed}").members)
    title = bottle.HTTP_CODES.get(error.status_code, "Error")
    return canonical.encode({"type": "about:blank", "title": title, "status": error.status_code})
