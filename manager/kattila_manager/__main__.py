"""`kattila-manager`: serve, publish, and the operator's commands."""

from __future__ import annotations

import argparse
import sys

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops

from kattila_manager import compose
from kattila_manager.config import Config
from kattila_manager.store import database
from kattila_settings.reading import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0, 1 for a failure at run time, 2 for a wrong call or setting."""
    parser = argparse.ArgumentParser(prog="kattila-manager")
    parser.add_argument("command", choices=["serve"])
    parser.parse_args(arguments)
    compose.log_to_stderr()
    try:
        config = compose.configured()
        config.required_dns()
    except ConfigError as error:
        print(f"kattila-manager: {error}", file=sys.stderr)
        return 2
    return serve(config)


def serve(config: Config) -> int:
    """Serve until SIGTERM; SIGHUP starts the workers anew, which asks DNS at once."""
    database.migrate(config.database)
    Granian(
        "kattila_manager.compose:rsgi",
        address=config.listen.host or "::",
        port=config.listen.port,
        interface=Interfaces.RSGI,
        workers=config.workers,
        http=HTTPModes.http1,
        loop=Loops.asyncio,
        websockets=False,
        factory=True,
        backlog=4096,
        backpressure=4096,
        respawn_failed_workers=True,
        log_access=False,
    ).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
