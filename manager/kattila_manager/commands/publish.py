"""`publish`: publishes once, or in a cycle."""

from __future__ import annotations

from kattila_manager import compose
from kattila_manager.commands.errors import Say
from kattila_manager.config import Config
from kattila_manager.publishing.publisher import CycleResult
from kattila_manager.wording import plural


def once(config: Config, say: Say) -> int:
    """Publish once and print a summary; return 1 if a step failed."""
    result = compose.publish_once(compose.make_publisher(config))
    say(_summary(result, config))
    return 1 if result.failures else 0


def every(config: Config, seconds: float) -> int:
    """Publish until SIGTERM."""
    compose.publish_every(config, seconds)
    return 0


def _summary(result: CycleResult, config: Config) -> str:
    parts = [
        f"{plural(result.agents, 'agent')}",
        f"{plural(result.opened, 'alarm')} opened, {result.closed:,} closed",
        f"{plural(result.pages, 'page')} written to {config.pages_dir}",
        f"{plural(result.pruned, 'report')} pruned",
    ]
    return "; ".join(parts)
