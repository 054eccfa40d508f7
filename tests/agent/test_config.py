"""Every setting: its default, valid and invalid values, and the place that an error names."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kattila_agent import config
from kattila_agent.config import Config
from kattila_keys.dns_server import DnsServer
from kattila_settings.settings import ConfigError, settings_table
from kattila_settings.values import Listen


def read(folder: Path, text: str = "", **environment: str) -> Config:
    (folder / ".env").write_text(text)
    return config.read(None, environment, folder)


def complaint(folder: Path, text: str = "", **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environment)
    return str(caught.value)


def test_defaults_apply_without_settings_and_file(tmp_path: Path) -> None:
    assert config.read(None, {}, tmp_path) == Config(
        dns=None,
        dns_server=None,
        dns_require_ad=False,
        manager_url=None,
        state_dir=tmp_path,
        interval_seconds=30,
        labels={},
        listen=(Listen("", 5087),),
        peer_networks=(),
        spool_max_age_seconds=86_400,
        spool_max_bytes=64 * 2**20,
        wireguard_helper=Path("/run/kattila/wireguard.sock"),
        clock_helper=Path("/run/kattila/clock.sock"),
        limits=config.default_limits(),
        boot_id=None,
    )


@pytest.mark.parametrize(
    ("line", "member", "value"),
    [
        ("DNS=kattila.example.com # name of the TXT record", "dns", "kattila.example.com"),
        ("export DNS='kattila.example.com.'", "dns", "kattila.example.com."),
        ("DNS=_kattila.example.com", "dns", "_kattila.example.com"),
        ("DNS=", "dns", None),
        ("DNS_SERVER=192.0.2.53:5353", "dns_server", DnsServer("192.0.2.53", 5353)),
        ("DNS_REQUIRE_AD=Yes", "dns_require_ad", True),
        ("MANAGER_URL=http://192.0.2.1:5086 # where to push", "manager_url", "http://192.0.2.1:5086"),
        ("MANAGER_URL=https://manager.example.com/kattila/", "manager_url", "https://manager.example.com/kattila"),
        ("MANAGER_URL=http://[2001:db8::1]:5086", "manager_url", "http://[2001:db8::1]:5086"),
        ("INTERVAL=1", "interval_seconds", 1),
        ('LABELS="site=north, role=hub"', "labels", {"site": "north", "role": "hub"}),
        ("LABELS=site=a=b,", "labels", {"site": "a=b"}),
        ("LABELS=site=$HOME", "labels", {"site": "$HOME"}),
        ("MAX_ROUTES=1", "limits", replace(config.default_limits(), routes=1)),
        ("MAX_ALLOWED_IPS=100000", "limits", replace(config.default_limits(), allowed_ips=100_000)),
        ("MANAGER_URL=http://[fe80::1%25eth0]:5086/", "manager_url", "http://[fe80::1%25eth0]:5086"),
        ("AGENT_LISTEN=192.0.2.1", "listen", (Listen("192.0.2.1", 5087),)),
        ("AGENT_LISTEN=[2001:DB8::1]:1, *:2", "listen", (Listen("2001:db8::1", 1), Listen("", 2))),
        (
            "PEER_NETWORKS=198.51.100.7/24,2001:db8::/32",
            "peer_networks",
            (ipaddress.ip_network("198.51.100.0/24"), ipaddress.ip_network("2001:db8::/32")),
        ),
        ("SPOOL_MAX_AGE=1", "spool_max_age_seconds", 1),
        ("SPOOL_MAX_BYTES=4096", "spool_max_bytes", 4096),
        ("READ_TOKEN=of-the-manager", "labels", {}),
    ],
)
def test_a_value_is_taken(tmp_path: Path, line: str, member: str, value: Any) -> None:
    assert getattr(read(tmp_path, line), member) == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DNS", "kattila example.com", "not a DNS name"),
        ("DNS", "x" * 64 + ".example.com", "not a DNS name"),
        ("DNS", "http://example.com", "not a DNS name"),
        ("DNS_SERVER", "dns.example.com", "give an IP address"),
        ("DNS_SERVER", "192.0.2.1:99999", "no port"),
        ("DNS_REQUIRE_AD", "true", "expected yes or no"),
        ("MANAGER_URL", "192.0.2.1:5086", "expected http:// or https://"),
        ("MANAGER_URL", "ftp://192.0.2.1", "expected http:// or https://"),
        ("MANAGER_URL", "http://192.0.2.1:x", "not a URL"),
        ("MANAGER_URL", "http://", "expected http:// or https://"),
        ("MANAGER_URL", "http://[fe80::1]:5086", "needs an interface"),
        ("MANAGER_URL", "http://[FE80::1%25]:5086", "needs an interface"),
        ("MANAGER_URL", "http://[2001:db8::1%25eth0]:5086", "and no other"),
        ("MANAGER_URL", "http://192.0.2.1%25eth0:5086", "only an IPv6 address"),
        ("MANAGER_URL", "http://192.0.2.1/?token=1", "a query or a fragment"),
        ("INTERVAL", "0", "from 1 to 3600"),
        ("INTERVAL", "3601", "from 1 to 3600"),
        ("INTERVAL", "2.5", "from 1 to 3600"),
        ("INTERVAL", "\u0661", "from 1 to 3600"),
        ("LABELS", "north", "not NAME=VALUE"),
        ("LABELS", "=north", "not NAME=VALUE"),
        ("LABELS", "site=a,site=b", "is given twice"),
        ("LABELS", ",".join(f"n{number}=x" for number in range(33)), "the limit is 32"),
        ("AGENT_LISTEN", "localhost:5087", "not ADDRESS:PORT"),
        ("AGENT_LISTEN", "192.0.2.1:65536", "is not a port"),
        ("AGENT_LISTEN", "192.0.2.300", "not appear to be"),
        ("AGENT_LISTEN", ",", "no address"),
        ("PEER_NETWORKS", "198.51.100.0/33", "not appear to be"),
        ("SPOOL_MAX_AGE", "0", "from 1 to 31622400"),
        ("SPOOL_MAX_AGE", "24h", "whole seconds"),
        ("SPOOL_MAX_BYTES", "4095", "from 4096 to"),
        ("SPOOL_MAX_BYTES", "64M", "whole bytes"),
        ("WIREGUARD_HELPER", "wireguard.sock", "expected an absolute path, as in /run/kattila/wireguard.sock"),
    ],
)
def test_an_error_names_the_value_and_its_source(tmp_path: Path, name: str, value: str, expected: str) -> None:
    in_file = complaint(tmp_path, f"# settings\n\n{name}='{value}'\n")
    assert in_file.startswith(f"{name}=") and value in in_file and expected in in_file
    assert f"{tmp_path}/.env line 3" in in_file
    assert "(the environment)" in complaint(tmp_path, **{name: value})


def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = complaint(tmp_path, "MANAGER_URL=http://user:geheim@192.0.2.1:5086")
    assert "a user or a password" in text
    assert "geheim" not in text


def test_the_environment_overrides_the_file_even_when_empty(tmp_path: Path) -> None:
    assert read(tmp_path, "INTERVAL=10", INTERVAL="20").interval_seconds == 20
    assert read(tmp_path, "INTERVAL=10", INTERVAL="").interval_seconds == 30


def test_another_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("INTERVAL=10")
    (tmp_path / "other").write_text("INTERVAL=11")
    (tmp_path / "third").write_text("INTERVAL=12")
    assert config.read("other", {"KATTILA_ENV": "third"}, tmp_path).interval_seconds == 11
    assert config.read(None, {"KATTILA_ENV": "third"}, tmp_path).interval_seconds == 12
    with pytest.raises(ConfigError, match=r"cannot read the settings in .*missing: No such file"):
        config.read("missing", {}, tmp_path)


@pytest.mark.parametrize("line", ["INTERVAL='30", "=30"])
def test_an_invalid_line_is_named_but_not_shown(tmp_path: Path, line: str) -> None:
    text = complaint(tmp_path, f"DNS=example.com\n{line}\n")
    assert ".env line 2 is not of the form NAME=value" in text
    assert "30" not in text.partition("line 2")[2]


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DNS=\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        config.read(None, {}, tmp_path)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/kattila"}, "/var/lib/kattila"),
        ({"STATE_DIRECTORY": "/var/lib/kattila:/var/lib/other"}, "/var/lib/kattila"),
        ({"STATE_DIRECTORY": "/var/lib/kattila", "STATE_DIR": "/srv/state"}, "/srv/state"),
    ],
)
def test_the_state_folder(tmp_path: Path, environment: dict[str, str], folder: str) -> None:
    assert config.read(None, environment, tmp_path).state_dir == Path(folder)


def test_the_boot_id_of_systemd(tmp_path: Path) -> None:
    boot_id = "9d3b6c21-5e7f-4a80-b1c2-fedcba987654"
    for text in (boot_id, boot_id.replace("-", "")):
        assert config.read(None, {"KATTILA_BOOT_ID": text}, tmp_path).boot_id == boot_id
    with pytest.raises(ConfigError, match=r"KATTILA_BOOT_ID=today .*not a UUID"):
        config.read(None, {"KATTILA_BOOT_ID": "today"}, tmp_path)
    (tmp_path / ".env").write_text(f"KATTILA_BOOT_ID={boot_id}\n")  # A file stays when the boot is over.
    assert config.read(None, {}, tmp_path).boot_id is None


def test_a_missing_required_setting_is_named(tmp_path: Path) -> None:
    empty = config.read(None, {}, tmp_path)
    with pytest.raises(ConfigError, match="DNS is not set"):
        empty.required_dns()
    with pytest.raises(ConfigError, match="MANAGER_URL is not set"):
        empty.required_manager_url()


def test_the_table_has_a_row_for_each_setting() -> None:
    rows = settings_table(config.SETTINGS).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [setting.name for setting in config.SETTINGS]
