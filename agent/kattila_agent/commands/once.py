"""What the agent does once, on the command line.

May live here: -sysinfo, -dump and -reset, from their parts to their result. Not here: flags and exit codes (__main__).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kattila_agent.identity import Numbers
from kattila_agent.runtime import Runtime
from kattila_agent.sampling import fitting
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import sample
from kattila_agent.spool.sample import Clock, Sample, Signing
from kattila_keys.dns_server import DnsError
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFileError
from kattila_protocol import canonical, envelope, reset
from kattila_protocol.errors import Refusal
from kattila_protocol.reset import Reset
from kattila_protocol.ring import Ring
from kattila_protocol.txt import TxtError
from kattila_settings.values import Listen

_MODE = 0o600

_log = logging.getLogger("kattila.agent")


class CommandError(Exception):
    """A command could not do what it was asked for; the text says why and what to do."""


def show(measurement: Measurement) -> str:
    """Return all telemetry as formatted JSON, cleaned as it is in a report but with the columns of rows named."""
    cleaned = json.loads(canonical.encode(_named(measurement.telemetry)))
    return json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n"


def resolved(url: str) -> str | None:
    """Return the first IP address of a URL's host, None if it has none; asks the system's resolver, and waits."""
    host = urlsplit(url).hostname
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        _log.warning("%s cannot be resolved: %s", host, error.strerror)
        return None
    return str(found[0][4][0])


def usable_ring(keys: Keys, now: int) -> Ring:
    """Ask DNS and return the ring, the cached one if DNS fails; raises CommandError without any key."""
    try:
        return keys.refresh(now)
    except (DnsError, TxtError, RingFileError) as error:
        ring = keys.ring()
        if not ring.entries:
            raise CommandError(f"no key to sign with: {error}") from None
        _log.warning("signing with the cached key %s: %s", ring.current.fingerprint, error)
        return ring


def signed_once(measurement: Measurement, numbers: Numbers, nonce: str, clock: Clock, ring: Ring) -> bytes:
    """Return the body that the daemon would send to the manager; raises TooMuchError."""
    telemetry = fitting.encode(measurement.telemetry, measurement.allowed_ips)
    measured = Sample(numbers.sample, measurement.sampled_at, clock.boot_id, clock.since_boot_ms, telemetry)
    signed = sample.encode(measured, Signing(numbers.agent_id, numbers.tick, nonce, clock))
    return envelope.seal(signed, ring.current).to_bytes()


def write_dump(report: bytes, target: str) -> None:
    """Write the bytes to a new file of mode 0600 in the place of `target`, or to stdout for "-".

    What is no regular file (a device, a pipe) is written into instead.

    Raises:
        CommandError: the file cannot be written.
    """
    if target == "-":
        sys.stdout.buffer.write(report)
        sys.stdout.buffer.flush()
        return
    try:
        _write(Path(target), report)
    except OSError as error:
        raise CommandError(f"cannot write {target}: {error.strerror}") from error


def reset_agent(runtime: Runtime, ring: Ring, listen: Listen, agent_id: str) -> str:
    """Ask the agent that listens there to forget itself and return its new id.

    Raises:
        CommandError: no agent answers there, it refuses, or its answer is not signed.
    """
    # requests weighs 20 MB, which the other commands are spared.
    from kattila_agent.outbound.connection import Connection, UnreachableError, in_url, unsigned_words  # noqa: PLC0415 - requests, which others are spared

    target = in_url(listen)
    asked = Reset(agent_id, runtime.nonce(), runtime.now())
    try:
        status, body, _ = Connection(f"http://{target}").post("/status/reset", reset.seal(asked, ring.current))
    except UnreachableError as error:
        raise CommandError(f"no agent answers on {target}: {error}; is it running?") from error
    try:
        return reset.unseal_answer(body, ring, asked.nonce).new_agent_id
    except Refusal as error:
        why = unsigned_words(body) or error.detail
        raise CommandError(f"{target} did not reset {agent_id} (HTTP {status}): {why}") from error


def _named(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _named(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _named(column) for name, column in value._asdict().items()}
    return [_named(item) for item in value] if isinstance(value, tuple) else value


def _write(path: Path, report: bytes) -> None:
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        path.open("wb").write(report)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(report)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
