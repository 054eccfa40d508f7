"""`publish`: once, or in a cycle.

May live here: what is printed of it, and its exit code.
"""

from __future__ import annotations

from kattila_manager import compose
from kattila_manager.commands.errors import Say
from kattila_manager.config import Config
from kattila_manager.publishing.publisher import Done
from kattila_manager.wording import plural


def once(config: Config, say: Say) -> int:
    """Publish once and say what was done; 1 if something failed."""
    done = compose.publish_once(compose.make_publisher(config))
    say(_words(done, config))
    return 1 if done.failures else 0


def every(config: Config, seconds: float) -> int:
    """Publish until SIGTERM."""
    compose.publish_every(config, seconds)
    return 0


def _words(done: Done, config: Config) -> str:
    parts = [
        f"{plural(done.agents, 'agent')}",
        f"{plural(done.opened, 'alarm')} opened, {done.closed:,} closed",
        f"{plural(done.pages, 'page')} written to {config.pages_dir}",
        f"{plural(done.pruned, 'report')} pruned",
    ]
    return "; ".join(parts)
