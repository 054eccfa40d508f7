"""-dump: write one signed report, as the daemon would send it, to a file."""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path

from kattila_agent.commands.errors import CommandError
from kattila_agent.identity import Identity
from kattila_agent.runtime import Runtime
from kattila_agent.sampling import fitting
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import sample
from kattila_agent.spool.sample import Moment, Sample, Signing
from kattila_protocol import envelope
from kattila_protocol.ring import Ring

_MODE = 0o600

_log = logging.getLogger("kattila.agent")


def dump(target: str, measurement: Measurement, identity: Identity, ring: Ring, runtime: Runtime) -> None:
    """Sign a report under the next numbers and write it to `target`.

    Raises:
        CommandError: the file cannot be written.
        StateError: the state folder cannot be used.
        TooMuchError: the measurement does not fit into a report.
    """
    counters = identity.take()
    moment = Moment(runtime.now(), measurement.boot_id, runtime.since_boot_ms())
    telemetry = fitting.encode(measurement.telemetry, measurement.allowed_ips)
    measured = Sample(counters.sample, measurement.sampled_at, moment.boot_id, moment.since_boot_ms, telemetry)
    data = sample.encode(measured, Signing(counters.agent_id, counters.tick, runtime.nonce(), moment))
    report = envelope.seal(data, ring.current).to_bytes()
    _write(report, target)
    _log.info(
        "wrote %d bytes to %s: agent %s, sample %d, tick %d, key %s",
        len(report),
        target,
        counters.agent_id,
        counters.sample,
        counters.tick,
        ring.current.fingerprint,
    )


def _write(report: bytes, target: str) -> None:
    """Write to a new file of mode 0600 in the place of `target`.

    "-" is stdout; a device or a pipe is written to directly.
    """
    if target == "-":
        sys.stdout.buffer.write(report)
        sys.stdout.buffer.flush()
        return
    try:
        path = Path(target)
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            path.open("wb").write(report)
        else:
            _replace(path, report)
    except OSError as error:
        raise CommandError(
            f"cannot write {target} as uid {os.geteuid()} ({error.strerror}): choose a folder of that user, or write "
            "to stdout with '-dump -'"
        ) from error


def _replace(path: Path, report: bytes) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(report)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
