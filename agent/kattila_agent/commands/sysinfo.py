"""-sysinfo: print all telemetry of this node."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

from kattila_agent.sampling.measurement import Measurement
from kattila_protocol import canonical
from kattila_protocol.foreign_text import shown_lines


def as_json(measurement: Measurement) -> str:
    """Return all telemetry as JSON, cleaned as in a report, with named columns."""
    cleaned = json.loads(canonical.encode(_named(measurement.telemetry)))
    # The escapes are those of JSON.
    return shown_lines(json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n")


def _named(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _named(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _named(column) for name, column in value._asdict().items()}
    return [_named(item) for item in value] if isinstance(value, tuple) else value
