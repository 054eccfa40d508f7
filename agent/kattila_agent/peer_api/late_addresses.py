"""Listen on addresses that this machine does not have yet, such as that of a tunnel which comes up later."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable

from kattila_agent.peer_api.listening import ListenError, NoAddressError, address_of, open_sockets
from kattila_settings.failures import StateLog
from kattila_settings.values import Listen

RETRY_SECONDS = 5.0

_log = logging.getLogger("kattila.agent")


def open_present(listens: Iterable[Listen]) -> tuple[list[socket.socket], list[NoAddressError]]:
    """Bind and return the sockets of all addresses that exist, and the errors of the others.

    Raises:
        ListenError: an address cannot be bound for another reason, which waiting would not remove.
    """
    opened: list[socket.socket] = []
    absent: list[NoAddressError] = []
    try:
        for listen in listens:
            try:
                opened += open_sockets((listen,))
            except NoAddressError as error:
                absent.append(error)
    except ListenError:
        for bound in opened:
            bound.close()
        raise
    return opened, absent


def listen_later(
    absent: Iterable[NoAddressError],
    serve: Callable[[list[socket.socket]], object],
    seconds: float = RETRY_SECONDS,
) -> None:
    """Log the missing addresses, and call `serve` with the sockets of each once this machine has it.

    Returns at once; a thread tries again every few seconds.
    """
    log, waiting = StateLog(_log), []
    for error in absent:
        _note(log, error.listen, error)
        waiting.append(error.listen)
    if waiting:
        thread = threading.Thread(target=_keep_trying, args=(waiting, serve, log, seconds), daemon=True)
        thread.name = "late addresses"
        thread.start()


def _keep_trying(
    waiting: list[Listen], serve: Callable[[list[socket.socket]], object], log: StateLog, seconds: float
) -> None:
    pause = threading.Event()
    while waiting:
        pause.wait(seconds)
        for listen in tuple(waiting):
            opened: list[socket.socket] = []
            try:
                opened = open_sockets((listen,))
                serve(opened)
            except Exception as error:
                # Also a port that another program took meanwhile: it may be free again later.
                _note(log, listen, error)
                for bound in opened:
                    bound.close()
            else:
                waiting.remove(listen)
                addresses = ", ".join(map(address_of, opened))
                log.note(
                    str(listen), "", logging.WARNING, f"this machine has the address: the agent answers on {addresses}"
                )


def _note(log: StateLog, listen: Listen, error: Exception) -> None:
    log.note(str(listen), str(error), logging.WARNING, f"{error}; reports are still sent")
