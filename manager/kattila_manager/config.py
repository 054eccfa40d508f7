"""The manager's settings as one checked, frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kattila_keys.dns_server import DnsServer
from kattila_settings import values
from kattila_settings.settings import Setting, Settings, read_settings, required
from kattila_settings.values import Listen

PORT = 5086
_MIB = 1024 * 1024
_MIN_TOKEN_BYTES = 16

SETTINGS: tuple[Setting, ...] = (
    Setting("DNS", "", "name of the DNS TXT record that holds the fleet's PSK"),
    Setting("DNS_SERVER", "", "query this resolver, `ADDRESS` or `ADDRESS:PORT`, instead of the system's"),
    Setting("DNS_REQUIRE_AD", "no", "`yes`: accept the PSK only from an answer that the resolver validated (DNSSEC)"),
    Setting("MANAGER_LISTEN", f"*:{PORT}", "where the manager's API listens: `ADDRESS:PORT`"),
    Setting(
        "MANAGER_DB",
        "kattila_manager.db",
        "the SQLite database; key ring and lock files are in its folder",
    ),
    Setting("MANAGER_WORKERS", "2", "worker processes that take reports, 1 to 64"),
    Setting("PAGES_DIR", "pages", "folder that `publish` writes the pages to; served under /"),
    Setting(
        "READ_TOKEN", "", "token that allows reading agents, alarms and pages; unset: loopback only", is_secret=True
    ),
    Setting("ADMIN_TOKEN", "", "token that allows resetting agents; unset: no one can", is_secret=True),
    Setting(
        "REPORT_INTERVAL",
        "30",
        "seconds between two reports of an agent that does not report its own `INTERVAL`; an agent is silent after "
        "three of its intervals without a report",
    ),
    Setting(
        "NEW_AGENTS_PER_MINUTE",
        "600",
        "most new agents in a minute; further ones keep their reports and try again, 1 to 60000",
    ),
    Setting(
        "NEW_AGENTS_PER_SOURCE",
        "300",
        "most of these from one address (or IPv6 /64), such as nodes behind one NAT, relay or proxy, 1 to 60000",
    ),
    Setting("MAX_AGENTS", "10000", "most agents in all; forget removed ones to make room for new ones"),
    Setting("RETENTION_DAYS", "30", "reports older than this are removed"),
    Setting("BACKUP_DIR", "", "folder for backups of the database; unset: the folder of the database"),
    Setting(
        "RETENTION_MIB",
        "10240",
        "if the reports in the database take more, the oldest are removed; the last hour stays",
    ),
)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. `dns` and the tokens are None if they are not set."""

    dns: str | None
    dns_server: DnsServer | None
    dns_require_ad: bool
    listen: Listen
    database: Path
    workers: int
    pages_dir: Path
    read_token: str | None = field(repr=False)
    admin_token: str | None = field(repr=False)
    interval_seconds: int
    new_agents_per_minute: int
    new_agents_per_source: int
    max_agents: int
    retention_days: int
    retention_bytes: int
    backup_dir: Path

    @property
    def ring_file(self) -> Path:
        """Where the key ring is kept."""
        return self.database.with_name("kattila_ring.json")

    def required_dns(self) -> str:
        """Return the name of the TXT record; raises ConfigError if it is not set."""
        return required(self.dns, "DNS", "the name of the TXT record with the PSK, as in DNS=kattila.example.com")


def read_config(env_file: str | None, environment: Mapping[str, str], folder: Path) -> Config:
    """Read and check the settings.

    Raises:
        ConfigError: see `kattila_settings.settings`.
    """
    return _parse(read_settings(SETTINGS, env_file, environment, folder), folder)


def _parse(settings: Settings, folder: Path) -> Config:
    database = settings.parse("MANAGER_DB", partial(_path, folder))
    return Config(
        dns=settings.parse("DNS", values.optional(values.dns_name)),
        dns_server=settings.parse("DNS_SERVER", values.optional(DnsServer.parse)),
        dns_require_ad=settings.parse("DNS_REQUIRE_AD", values.yes_or_no),
        listen=settings.parse("MANAGER_LISTEN", values.listen(PORT)),
        database=database,
        workers=settings.parse("MANAGER_WORKERS", values.whole_number(1, 64, "workers")),
        pages_dir=settings.parse("PAGES_DIR", partial(_path, folder)),
        read_token=settings.parse("READ_TOKEN", values.optional(_token)),
        admin_token=settings.parse("ADMIN_TOKEN", values.optional(_token)),
        interval_seconds=settings.parse("REPORT_INTERVAL", values.whole_number(1, 3600, "seconds")),
        new_agents_per_minute=settings.parse("NEW_AGENTS_PER_MINUTE", values.whole_number(1, 60_000, "agents")),
        new_agents_per_source=settings.parse("NEW_AGENTS_PER_SOURCE", values.whole_number(1, 60_000, "agents")),
        max_agents=settings.parse("MAX_AGENTS", values.whole_number(1, 1_000_000, "agents")),
        retention_days=settings.parse("RETENTION_DAYS", values.whole_number(1, 3650, "days")),
        retention_bytes=settings.parse("RETENTION_MIB", values.whole_number(16, 16 * _MIB, "MiB")) * _MIB,
        backup_dir=settings.parse("BACKUP_DIR", values.optional(partial(_path, folder))) or database.parent,
    )


def _path(folder: Path, text: str) -> Path:
    path = folder / text
    if "\0" in text:
        raise ValueError("a path cannot contain a null character")
    if not path.is_absolute():
        raise ValueError("the working folder was removed: set an absolute path, or change to another folder")
    return path


def _token(text: str) -> str:
    if len(text) < _MIN_TOKEN_BYTES or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"expected at least {_MIN_TOKEN_BYTES} printable ASCII characters without spaces")
    return text
