"""The baseline that the manager is compared with: Flask, one SQLite commit per report, WAL.

Not part of the product and never installed with it. bench/ingest.py runs it in a separate environment:
`python app.py PORT DATABASE PSK_FILE`. bench/README.md explains the design.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import sqlite3
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request

MAX_BODY_BYTES = 1024 * 1024
MAX_SKEW_MS = 600_000
WINDOW_SIZE = 120

SCHEMA = """
CREATE TABLE IF NOT EXISTS agents (
    agent_id TEXT PRIMARY KEY, hostname TEXT NOT NULL, tick INTEGER NOT NULL, last_seen_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS reports (
    id INTEGER PRIMARY KEY, agent_id TEXT NOT NULL, received_at INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS reports_by_agent ON reports (agent_id, received_at);
CREATE TABLE IF NOT EXISTS agent_interfaces (
    agent_id TEXT NOT NULL, name TEXT NOT NULL, addresses TEXT NOT NULL, mtu INTEGER, operstate TEXT,
    rx_bytes INTEGER, tx_bytes INTEGER, PRIMARY KEY (agent_id, name)
);
"""
UPSERT_AGENT = """
INSERT INTO agents VALUES (?, ?, ?, ?) ON CONFLICT (agent_id) DO UPDATE SET
    hostname = excluded.hostname, tick = excluded.tick, last_seen_at = excluded.last_seen_at
"""
UPSERT_INTERFACE = """
INSERT INTO agent_interfaces VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (agent_id, name) DO UPDATE SET
    addresses = excluded.addresses, mtu = excluded.mtu, operstate = excluded.operstate,
    rx_bytes = excluded.rx_bytes, tx_bytes = excluded.tx_bytes
"""


class Refused(Exception):
    """A refused report, with its HTTP status and outcome."""

    def __init__(self, status: int, outcome: str) -> None:
        """Keep the status and the outcome."""
        super().__init__(outcome)
        self.status, self.outcome = status, outcome


class Keys:
    """The current and the two previous PSKs, newest first."""

    def __init__(self, psks: list[bytes]) -> None:
        """Derive the keys once, not per report."""
        self._keys = [hmac.digest(psk, b"kattila/1/report", "sha256") for psk in psks]

    def check(self, data: dict[str, Any], mac: str) -> None:
        """Refuse data that none of the keys signed; the signature covers compact JSON in the received order."""
        signed = json.dumps(data, separators=(",", ":")).encode()
        if not any(hmac.compare_digest(hmac.new(key, signed, hashlib.sha256).hexdigest(), mac) for key in self._keys):
            raise Refused(403, "bad_signature")


class Windows:
    """The highest tick and the last 120 nonces of each agent, in memory."""

    def __init__(self) -> None:
        """Start without agents."""
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, deque[str]]] = {}

    def check(self, agent_id: str, tick: int, nonce: str) -> None:
        """Refuse a tick that is not above the last one, or a used nonce; otherwise remember both."""
        with self._lock:
            highest, nonces = self._seen.get(agent_id, (0, deque(maxlen=WINDOW_SIZE)))
            if tick <= highest or nonce in nonces:
                raise Refused(409, "replay")
            nonces.append(nonce)
            self._seen[agent_id] = (tick, nonces)


class Store:
    """The database: one commit per report, over one connection that the threads share.

    A connection per request would have to be opened each time. SQLite allows only one writer at a time anyway, and
    other connections would sleep and retry.
    """

    def __init__(self, path: str) -> None:
        """Create the tables."""
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.executescript(SCHEMA)

    def insert(self, data: dict[str, Any], body: str, now: int) -> None:
        """Store a report, update its agent and interfaces, and commit."""
        agent_id, telemetry = data["agent_id"], data["telemetry"]
        links = [_row(agent_id, link) for link in telemetry["interfaces"]]
        with self._lock, self._connection as connection:
            connection.execute(
                "INSERT INTO reports (agent_id, received_at, body) VALUES (?, ?, ?)", (agent_id, now, body)
            )
            connection.execute(UPSERT_AGENT, (agent_id, telemetry["system"]["hostname"], data["tick"], now))
            connection.executemany(UPSERT_INTERFACE, links)


def _row(agent_id: str, link: dict[str, Any]) -> tuple[object, ...]:
    columns = (link["mtu"], link["operstate"], link["rx_bytes"], link["tx_bytes"])
    return (agent_id, link["name"], json.dumps(link["addresses"]), *columns)


def create_app(keys: Keys, windows: Windows, store: Store) -> Flask:
    """Return the app with its two endpoints."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    def updates() -> Response:
        body = request.get_data(as_text=True)
        report = json.loads(body)
        data, now = report["data"], int(time.time() * 1000)
        keys.check(data, report["hmac"])
        if abs(data["timestamp"] - now) > MAX_SKEW_MS:
            raise Refused(409, "clock_skew")
        windows.check(data["agent_id"], data["tick"], data["nonce"])
        store.insert(data, body, now)
        return jsonify(outcome="accepted")

    def refused(refusal: Refused) -> tuple[Response, int]:
        return jsonify(outcome=refusal.outcome), refusal.status

    app.add_url_rule("/status/updates", view_func=updates, methods=["POST"])
    app.add_url_rule("/status/healthcheck", view_func=lambda: jsonify(status="ok"))
    app.register_error_handler(Refused, refused)
    return app


def main() -> None:
    """Serve until stopped."""
    port, database, psk_file = sys.argv[1:]
    # Log no line per request: the manager does not do it either.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    psks = [psk.encode() for psk in json.loads(Path(psk_file).read_text())]
    app = create_app(Keys(psks), Windows(), Store(database))
    app.run(host="127.0.0.1", port=int(port), threaded=True)


if __name__ == "__main__":
    main()
