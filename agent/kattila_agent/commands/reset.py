"""-reset: make an agent forget itself and take a new id."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from kattila_agent.commands.errors import CommandError
from kattila_agent.config import PORT
from kattila_agent.outbound.http.connection import Connection, UnreachableError, in_url, unsigned_words
from kattila_agent.runtime import Runtime
from kattila_protocol import reset as messages
from kattila_protocol.errors import Refusal
from kattila_protocol.names import is_id
from kattila_protocol.reset import Reset
from kattila_protocol.ring import Ring
from kattila_settings.settings import ConfigError
from kattila_settings.values import ALL_ADDRESSES, Listen, listen


def parse_target(words: Sequence[str], own: Listen) -> tuple[Listen, str | None]:
    """Return the address and the id in the arguments, by default `own` and None.

    Raises:
        ConfigError: they are not an ADDRESS and an AGENT_ID, or another machine's id is missing.
    """
    if not words:
        return own, None
    try:
        where = listen(PORT)(words[0])
    except ValueError as error:
        raise ConfigError(f"-reset: {error}") from error
    agent_id = words[1].lower() if len(words) == 2 else None
    if len(words) > 2 or (agent_id is not None and not is_id(agent_id)):
        raise ConfigError("-reset takes an ADDRESS and an AGENT_ID, which is a UUID")
    if agent_id is None and not _is_loopback(where):
        raise ConfigError(f"-reset {words[0]} needs the id of the agent there: -reset {words[0]} AGENT_ID")
    return where, agent_id


def reset(runtime: Runtime, ring: Ring, where: Listen, agent_id: str) -> str:
    """Reset the agent with this id at an address; return its new id.

    Raises:
        CommandError: no agent answers there, it refuses, or its answer is not signed.
    """
    target = in_url(where)
    request = Reset(agent_id, runtime.nonce(), runtime.now())
    try:
        reply = Connection(f"http://{target}").post("/status/reset", messages.seal(request, ring.current))
    except UnreachableError as error:
        raise CommandError(f"no agent answers on {target}: {error}; is it running?") from error
    try:
        return messages.unseal_answer(reply.body, ring, request.nonce).new_agent_id
    except Refusal as error:
        why = unsigned_words(reply.body) or error.detail
        raise CommandError(f"{target} did not reset {agent_id} (HTTP {reply.status}): {why}") from error


def _is_loopback(where: Listen) -> bool:
    return where.host != ALL_ADDRESSES and ipaddress.ip_address(where.host).is_loopback
