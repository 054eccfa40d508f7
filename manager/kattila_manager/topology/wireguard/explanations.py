"""A verdict as text for engineers: the reason with names and times filled in, and the commands to check with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from kattila_manager.topology.wireguard.ends import End
from kattila_manager.topology.wireguard.reasons import ABSENCES, COMMANDS, DEFAULT_COMMANDS, TEXTS, Note
from kattila_manager.topology.wireguard.states import TunnelState, Verdict
from kattila_manager.wording import duration, moment, shown

_IN_SECONDS_MS = 600_000


class Command(NamedTuple):
    """A command to check with, and the number of the end to run it on."""

    end: int
    text: str


def explain(verdict: Verdict, ends: Sequence[End], names: Sequence[str], now: int) -> str:
    """Return the reason as text; `names` are those of the ends, `now` is ms UTC."""
    first, second = _roles(verdict, ends)
    values = {
        "a": names[first],
        "b": names[second] if second < len(names) else "",
        "a_interface": shown(ends[first].interface),
        "b_interface": shown(ends[second].interface) if second < len(ends) else "",
        "age": duration(max(0, now - (verdict.handshake_at or 0))),
        "time": moment(verdict.moment or 0),
        "span": _span(verdict.span_ms),
        "key": verdict.key,
    }
    values["absence"] = ABSENCES[ends[first].standing].format_map(values)
    return TEXTS[verdict.reason].format_map(values)


def explain_note(note: Note, a: str, b: str) -> str:
    """Return a note as text, with the names of its ends."""
    return TEXTS[note].format_map({"a": a, "b": b})


def commands(verdict: Verdict, ends: Sequence[End]) -> tuple[Command, ...]:
    """Return the commands to check a tunnel with, the most useful one first; safe to paste into a shell."""
    roles = dict(zip("ab", _roles(verdict, ends), strict=True))
    if verdict.is_external or verdict.state is TunnelState.UNCHANGED:
        roles = {"a": verdict.first}
    found = (
        Command(roles[role], text)
        for role, template in COMMANDS.get(verdict.reason, DEFAULT_COMMANDS)
        if role in roles and (text := _command(template, ends[roles[role]])) is not None
    )
    return tuple(dict.fromkeys(found))


def _span(ms: int) -> str:
    """Return a duration as the protocol's limits are written: in seconds."""
    return f"{ms // 1000} s" if ms < _IN_SECONDS_MS else duration(ms)


def _roles(verdict: Verdict, ends: Sequence[End]) -> tuple[int, int]:
    """Return the numbers of the ends that the reason calls A and B."""
    return verdict.first, 1 - verdict.first if len(ends) > 1 else 1


def _command(template: str, end: End) -> str | None:
    if "{endpoint}" not in template:
        return template.format_map({"interface": shlex.quote(shown(end.interface))})
    endpoint = None if end.view is None or end.view.endpoint is None else " ".join(_route(end.view.endpoint))
    if not endpoint:
        return None
    mark = f" mark {end.fwmark:#x}" if end.fwmark else ""
    return template.format_map({"endpoint": endpoint + mark})


def _route(endpoint: str) -> Iterator[str]:
    """Yield the arguments of `ip route get` for an endpoint such as "192.0.2.1:51820"; none if it is malformed."""
    host = endpoint.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        address, scope = ip_address(host.partition("%")[0]), host.partition("%")[2]
    except ValueError:
        return
    yield str(address)
    if scope:
        yield f"oif {shlex.quote(shown(scope))}"
