"""From `.env` and the environment to one checked, frozen value.

May live here: which settings the agent knows, where they are read, what makes one valid. Names that are not known here
are skipped: the manager reads the same file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from dotenv.parser import parse_stream

from kattila_keys.dns import Server

PORT = 5087
MAX_LABELS = 32
MAX_INTERVAL_SECONDS = 3600
ENV_FILE = ".env"
# An empty host stands for all addresses of both families.
ALL_ADDRESSES = ""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\.?\Z){_HOST_LABEL}(\.{_HOST_LABEL})*\.?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LISTEN = re.compile(r"(?:\*|\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")

_Value = TypeVar("_Value")


class ConfigError(Exception):
    """A setting is missing or wrong; the text names it, its value, where that stands, and what is expected."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, what holds when it is not set (as text), and what it is for."""

    name: str
    default: str
    help: str


SETTINGS: tuple[Setting, ...] = (
    Setting("DNS", "", "name of the DNS TXT record that holds the fleet's PSK; needed by the daemon and by -dump"),
    Setting("DNS_SERVER", "", "ask this resolver, `ADDRESS` or `ADDRESS:PORT`, instead of the system's"),
    Setting("DNS_REQUIRE_AD", "no", "`yes`: take the PSK only from an answer that the resolver validated (DNSSEC)"),
    Setting("MANAGER_URL", "", "where reports go, as in `http://192.0.2.1:5086`; needed by the daemon"),
    Setting("STATE_DIR", "", "folder of agent_id.txt, the counters and the cached keys; default: systemd's, else here"),
    Setting("INTERVAL", "30", f"seconds from one report to the next, 1 to {MAX_INTERVAL_SECONDS}"),
    Setting("LABELS", "", "what is told of this node in its reports, as in `site=north,role=hub`"),
    Setting("AGENT_LISTEN", f"*:{PORT}", "where the agent's own API listens: `ADDRESS:PORT`, several with commas"),
    Setting("PEER_NETWORKS", "", "prefixes that may ask for /status/peer and /status/reset, beside this machine"),
)


@dataclass(frozen=True, slots=True)
class Given:
    """A setting's value as text and where it stands, as in ".env line 3" or "the environment"."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the API listens; `host` is an IP address, or empty for all addresses of both families."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Read "*:PORT", "ADDRESS", "ADDRESS:PORT", "[IPV6]" or "[IPV6]:PORT"; raises ValueError."""
        match = _LISTEN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not ADDRESS:PORT, as in *:5087, 192.0.2.1:5087 or [2001:db8::1]:5087")
        v6, v4, digits = match.groups()
        host, port = v6 or v4, int(digits or PORT)
        if port > 65535:
            raise ValueError(f"{port} is no port")
        return cls(str(ipaddress.ip_address(host)) if host else ALL_ADDRESSES, port)

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can connect there."""
        return self.host != ALL_ADDRESSES and ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or '*'}:{self.port}"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. `dns` and `manager_url` are None while they are not set."""

    dns: str | None
    dns_server: Server | None
    dns_require_ad: bool
    manager_url: str | None
    state_dir: Path
    interval_seconds: int
    labels: dict[str, str]
    listen: tuple[Listen, ...]
    peer_networks: tuple[Network, ...]

    def required_dns(self) -> str:
        """Return the name of the TXT record; raises ConfigError if it is not set."""
        return _required(self.dns, "DNS", "the name of the TXT record with the PSK, as in DNS=kattila.example.com")

    def required_manager_url(self) -> str:
        """Return the manager's URL; raises ConfigError if it is not set."""
        return _required(self.manager_url, "MANAGER_URL", "as in MANAGER_URL=http://192.0.2.1:5086")


def read(env_file: str | None, environment: Mapping[str, str], folder: Path) -> Config:
    """Read the settings of the environment and, below them, of one file.

    The file is `env_file`, else the one that KATTILA_ENV names, else `.env` in `folder` if there is one.

    Raises:
        ConfigError: a file that was asked for cannot be read, a line is no setting, or a value is wrong.
    """
    asked_for = env_file or environment.get("KATTILA_ENV") or None
    path = folder / (asked_for or ENV_FILE)
    given = _read_file(path) if asked_for or path.exists() else {}
    given |= {
        setting.name: Given(environment[setting.name], "the environment")
        for setting in SETTINGS
        if setting.name in environment
    }
    return parse(given, default_state_dir=_default_state_dir(environment, folder))


def parse(given: Mapping[str, Given], default_state_dir: Path) -> Config:
    """Check the settings; raises ConfigError for the first that is wrong. An empty value is the default."""
    return Config(
        dns=_checked(given, "DNS", _optional(_dns_name)),
        dns_server=_checked(given, "DNS_SERVER", _optional(Server.parse)),
        dns_require_ad=_checked(given, "DNS_REQUIRE_AD", _yes_or_no),
        manager_url=_checked(given, "MANAGER_URL", _optional(_url)),
        state_dir=_checked(given, "STATE_DIR", lambda text: default_state_dir / text),
        interval_seconds=_checked(given, "INTERVAL", _interval),
        labels=_checked(given, "LABELS", _labels),
        listen=_checked(given, "AGENT_LISTEN", _listens),
        peer_networks=_checked(given, "PEER_NETWORKS", _networks),
    )


def settings_table() -> str:
    """Return the settings as a Markdown table, for the README; `--help` shows the same texts."""
    rows = [f"| `{setting.name}` | {_shown(setting.default)} | {setting.help} |" for setting in SETTINGS]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _shown(default: str) -> str:
    return f"`{default}`" if default else "none"


def _read_file(path: Path) -> dict[str, Given]:
    given: dict[str, Given] = {}
    try:
        with path.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except OSError as error:
        raise ConfigError(f"cannot read the settings in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from error
    for binding in bindings:
        origin = f"{path} line {binding.original.line}"
        if binding.error:
            # The line itself may hold a secret of the manager's.
            raise ConfigError(f"{origin} is not of the form NAME=value, or a quote is not closed")
        if binding.key is not None:
            given[binding.key] = Given(binding.value or "", origin)
    return given


def _default_state_dir(environment: Mapping[str, str], folder: Path) -> Path:
    # systemd gives several folders separated by colons (systemd.exec(5), StateDirectory=).
    return folder / environment.get("STATE_DIRECTORY", "").split(":")[0]


def _required(value: str | None, name: str, example: str) -> str:
    if value is None:
        raise ConfigError(f"{name} is not set: put it into {ENV_FILE} or the environment; {example}")
    return value


def _checked(given: Mapping[str, Given], name: str, read_value: Callable[[str], _Value]) -> _Value:
    default = next(setting.default for setting in SETTINGS if setting.name == name)
    found = given.get(name, Given("", "the default"))
    text = found.value.strip()
    try:
        return read_value(text or default)
    except ValueError as error:
        raise ConfigError(f"{name}={_without_secrets(name, text)} ({found.origin}): {error}") from error


def _without_secrets(name: str, text: str) -> str:
    # A password in a URL is the very thing that is refused, so it is not repeated in a log.
    return re.sub(r"//[^/@]*@", "//…@", text) if name == "MANAGER_URL" else text


def _optional(read_value: Callable[[str], _Value]) -> Callable[[str], _Value | None]:
    return lambda text: read_value(text) if text else None


def _dns_name(text: str) -> str:
    if _DNS_NAME.fullmatch(text) is None:
        raise ValueError("not a DNS name, as in kattila.example.com")
    return text


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "no"):
        raise ValueError("expected yes or no")
    return text.lower() == "yes"


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"\s", text):
        raise ValueError("expected http:// or https:// and a host, as in http://192.0.2.1:5086")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or a password in it; reports are signed and need none")
    if parts.query or parts.fragment:
        raise ValueError("a URL with a query or a fragment; /status/… is appended to it")
    return text.rstrip("/")


def _interval(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_INTERVAL_SECONDS:
        raise ValueError(f"expected whole seconds from 1 to {MAX_INTERVAL_SECONDS}")
    return int(text)


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for part in _parts(text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or _LABEL_NAME.fullmatch(name) is None or len(value) > 255:
            raise ValueError(f"{part!r} is not NAME=VALUE; expected as in site=north,role=hub")
        if name in labels:
            raise ValueError(f"{name!r} stands twice")
        labels[name] = value
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels; the limit is {MAX_LABELS}")
    return labels


def _listens(text: str) -> tuple[Listen, ...]:
    return tuple(Listen.parse(part) for part in _parts(text))


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part, strict=False) for part in _parts(text))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
