"""Every setting of the manager: its default, valid and invalid values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kattila_keys.dns_server import DnsServer
from kattila_manager.config import Config, read_config
from kattila_settings.settings import ConfigError
from kattila_settings.values import Listen

TOKEN = "sixteen-letters!"


def read(folder: Path, text: str) -> Config:
    (folder / ".env").write_text(text)
    return read_config(None, {}, folder)


def test_defaults_apply_without_settings_and_file(tmp_path: Path) -> None:
    assert read_config(None, {}, tmp_path) == Config(
        dns=None,
        dns_server=None,
        dns_require_ad=False,
        listen=Listen("", 5086),
        database=tmp_path / "kattila_manager.db",
        workers=2,
        pages_dir=tmp_path / "pages",
        read_token=None,
        admin_token=None,
        interval_seconds=30,
        new_agents_per_minute=600,
        new_agents_per_source=300,
        max_agents=10_000,
        retention_days=30,
        retention_bytes=10 * 2**30,
        backup_dir=tmp_path,
    )


@pytest.mark.parametrize(
    ("line", "member", "value"),
    [
        ("DNS=kattila.example.com # name of the TXT record", "dns", "kattila.example.com"),
        ("DNS_SERVER=192.0.2.53:5353", "dns_server", DnsServer("192.0.2.53", 5353)),
        ("DNS_REQUIRE_AD=yes", "dns_require_ad", True),
        ("MANAGER_LISTEN=192.0.2.1", "listen", Listen("192.0.2.1", 5086)),
        ("MANAGER_DB=/srv/kattila/other.db", "database", Path("/srv/kattila/other.db")),
        ("MANAGER_DB=/srv/kattila/other.db", "backup_dir", Path("/srv/kattila")),
        ("MANAGER_DB=/srv/kattila/other.db", "ring_file", Path("/srv/kattila/kattila_ring.json")),
        ("MANAGER_WORKERS=64", "workers", 64),
        ("PAGES_DIR=/srv/pages", "pages_dir", Path("/srv/pages")),
        (f"READ_TOKEN={TOKEN}", "read_token", TOKEN),
        (f"ADMIN_TOKEN={TOKEN}", "admin_token", TOKEN),
        ("REPORT_INTERVAL=3600", "interval_seconds", 3600),
        ("NEW_AGENTS_PER_MINUTE=60000", "new_agents_per_minute", 60_000),
        ("NEW_AGENTS_PER_SOURCE=1", "new_agents_per_source", 1),
        ("MAX_AGENTS=1000000", "max_agents", 1_000_000),
        ("RETENTION_DAYS=1", "retention_days", 1),
        ("RETENTION_MIB=16", "retention_bytes", 2**24),
        ("BACKUP_DIR=/srv/backups", "backup_dir", Path("/srv/backups")),
    ],
)
def test_a_valid_value(tmp_path: Path, line: str, member: str, value: Any) -> None:
    assert getattr(read(tmp_path, line), member) == value


@pytest.mark.parametrize(
    "line",
    [
        "DNS=two words",
        "DNS_SERVER=dns.example.com",
        "DNS_REQUIRE_AD=maybe",
        "MANAGER_LISTEN=manager.example.com",
        "MANAGER_WORKERS=0",
        "MANAGER_WORKERS=65",
        "READ_TOKEN=fifteen-letters",
        "ADMIN_TOKEN='sixteen letters!'",
        "REPORT_INTERVAL=3601",
        "NEW_AGENTS_PER_MINUTE=60001",
        "NEW_AGENTS_PER_SOURCE=0",
        "MAX_AGENTS=0",
        "RETENTION_DAYS=0",
        "RETENTION_MIB=15",
    ],
)
def test_an_error_names_the_setting_and_its_place(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, line)
    assert f"{line.partition('=')[0]}=" in str(caught.value)
    assert ".env line 1)" in str(caught.value)


@pytest.mark.parametrize("name", ["READ_TOKEN", "ADMIN_TOKEN"])
def test_an_error_and_the_representation_hide_a_token(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"{name}=a-secret")
    assert "a-secret" not in str(caught.value)
    assert TOKEN not in repr(read(tmp_path, f"{name}={TOKEN}"))
