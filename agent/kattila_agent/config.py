"""The agent's settings as one checked, frozen value."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID

from kattila_keys.dns_server import DnsServer
from kattila_protocol.bounds import MAX_LABELS, MAX_LINE
from kattila_settings import values
from kattila_settings.settings import ConfigError, Setting, Settings, read_settings, required
from kattila_settings.values import Listen

PORT = 5087
MAX_INTERVAL_SECONDS = 3600
MAX_LIMIT = 100_000
MAX_SPOOL_AGE_SECONDS = 366 * 24 * 3600
# A file takes at least one block of the disk.
MIN_SPOOL_BYTES = 4096
MAX_SPOOL_BYTES = 2**40
WIREGUARD_HELPER = Path("/run/kattila/wireguard.sock")
CLOCK_HELPER = Path("/run/kattila/clock.sock")
# A systemd unit sets it (%b), because the /proc of a confined service is not that of its container.
BOOT_ID_VARIABLE = "KATTILA_BOOT_ID"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The address in a URL, and its zone after an escaped (RFC 6874) or a plain percent sign.
_WITH_ZONE = re.compile(r"(https?://\[[0-9a-f:.]+)%(?:25)?([^\]]*)(\].*)", re.IGNORECASE | re.DOTALL)
_LABEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "DNS", "", "name of the DNS TXT record that holds the fleet's PSK; needed by the daemon, -dump and -discover"
    ),
    Setting("DNS_SERVER", "", "use this resolver, `ADDRESS` or `ADDRESS:PORT`, instead of the system's"),
    Setting("DNS_REQUIRE_AD", "no", "`yes`: take the PSK only from an answer that the resolver validated (DNSSEC)"),
    Setting("MANAGER_URL", "", "URL of the manager, as in `http://192.0.2.1:5086`; needed by the daemon"),
    Setting(
        "STATE_DIR",
        "",
        "folder of agent_id.txt, the counters and the cached keys; default: systemd's, or this folder",
    ),
    Setting(
        "INTERVAL",
        "30",
        f"seconds from one report to the next, 1 to {MAX_INTERVAL_SECONDS}; after three of them without a report, the "
        "manager counts the agent as silent",
    ),
    Setting("LABELS", "", "labels of this node in its reports, as in `site=north,role=hub`"),
    Setting("AGENT_LISTEN", f"*:{PORT}", "where the agent's own API listens: `ADDRESS:PORT`, or several, with commas"),
    Setting(
        "PEER_NETWORKS",
        "",
        "prefixes that may call /status/peer, /status/relay and /status/reset, besides this machine and its tunnels",
    ),
    Setting(
        "SPOOL_MAX_AGE", "86400", "seconds that an undelivered report stays on disk; then it is dropped, and counted"
    ),
    Setting("SPOOL_MAX_BYTES", "67108864", "most bytes of undelivered reports; beyond that the oldest are dropped"),
    Setting(
        "WIREGUARD_HELPER",
        str(WIREGUARD_HELPER),
        "socket of the helper that reads WireGuard for an agent without privilege; used if it exists",
    ),
    Setting(
        "CLOCK_HELPER",
        str(CLOCK_HELPER),
        "socket of the helper that reads the clock's state if the agent's service may not; used if it exists",
    ),
    Setting(
        "MAX_INTERFACES",
        "1000",
        "most interfaces in a report, and most tunnels; it counts those that were left out",
    ),
    Setting(
        "MAX_ADDRESSES",
        "2000",
        "most addresses of all interfaces together; beyond that, the first 8 of each interface and family are reported",
    ),
    Setting(
        "MAX_ROUTES",
        "2000",
        "most routes, both families together, each counted once per next hop; as many default routes are reported "
        "beyond that",
    ),
    Setting("MAX_NEIGHBOURS", "1000", "most neighbours, both families together; and most additional VXLAN remotes"),
    Setting("MAX_RULES", "256", "most policy rules, both families together"),
    Setting("MAX_PEERS", "1000", "most WireGuard peers of all interfaces together"),
    Setting("MAX_ALLOWED_IPS", "5000", "most AllowedIPs of all peers together; peers with few are reported in full"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most entries of each kind in a report."""

    interfaces: int
    addresses: int
    routes: int
    neighbours: int
    rules: int
    peers: int
    allowed_ips: int


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. `dns` and `manager_url` are None if they are not set.

    `boot_id` is this boot's id from the environment, None if it is not set there.
    """

    dns: str | None
    dns_server: DnsServer | None
    dns_require_ad: bool
    manager_url: str | None
    state_dir: Path
    interval_seconds: int
    labels: dict[str, str]
    listen: tuple[Listen, ...]
    peer_networks: tuple[Network, ...]
    spool_max_age_seconds: int
    spool_max_bytes: int
    wireguard_helper: Path
    clock_helper: Path
    limits: Limits
    boot_id: str | None

    def required_dns(self) -> str:
        """Return the name of the TXT record; raises ConfigError if it is not set."""
        return required(self.dns, "DNS", "the name of the TXT record with the PSK, as in DNS=kattila.example.com")

    def required_manager_url(self) -> str:
        """Return the manager's URL; raises ConfigError if it is not set."""
        return required(self.manager_url, "MANAGER_URL", "as in MANAGER_URL=http://192.0.2.1:5086")


def default_limits() -> Limits:
    """Return the default limits."""
    return _limits(Settings(SETTINGS, {}))


def read(env_file: str | None, environment: Mapping[str, str], folder: Path) -> Config:
    """Read and check the settings; relative paths are taken from `folder`.

    Raises:
        ConfigError: the named file cannot be read, a line is not a setting, or a value is wrong.
    """
    settings = read_settings(SETTINGS, env_file, environment, folder)
    return _parse(settings, _default_state_dir(environment, folder), _boot_id(environment))


def _parse(settings: Settings, default_state_dir: Path, boot_id: str | None) -> Config:
    return Config(
        dns=settings.parse("DNS", values.optional(values.dns_name)),
        dns_server=settings.parse("DNS_SERVER", values.optional(DnsServer.parse)),
        dns_require_ad=settings.parse("DNS_REQUIRE_AD", values.yes_or_no),
        manager_url=settings.parse("MANAGER_URL", values.optional(_url)),
        state_dir=settings.parse("STATE_DIR", lambda text: default_state_dir / text),
        interval_seconds=settings.parse("INTERVAL", values.whole_number(1, MAX_INTERVAL_SECONDS, "seconds")),
        labels=settings.parse("LABELS", _labels),
        listen=settings.parse("AGENT_LISTEN", _listens),
        peer_networks=settings.parse("PEER_NETWORKS", _networks),
        spool_max_age_seconds=settings.parse("SPOOL_MAX_AGE", values.whole_number(1, MAX_SPOOL_AGE_SECONDS, "seconds")),
        spool_max_bytes=settings.parse(
            "SPOOL_MAX_BYTES", values.whole_number(MIN_SPOOL_BYTES, MAX_SPOOL_BYTES, "bytes")
        ),
        wireguard_helper=settings.parse("WIREGUARD_HELPER", _absolute_path),
        clock_helper=settings.parse("CLOCK_HELPER", _absolute_path),
        limits=_limits(settings),
        boot_id=boot_id,
    )


def _limits(settings: Settings) -> Limits:
    read_one = values.whole_number(1, MAX_LIMIT, "entries")
    return Limits(**{field.name: settings.parse(f"MAX_{field.name.upper()}", read_one) for field in fields(Limits)})


def _default_state_dir(environment: Mapping[str, str], folder: Path) -> Path:
    # systemd may set several folders, separated by colons (systemd.exec(5), StateDirectory=).
    return folder / environment.get("STATE_DIRECTORY", "").split(":")[0]


def _boot_id(environment: Mapping[str, str]) -> str | None:
    text = environment.get(BOOT_ID_VARIABLE)
    try:
        # systemd writes it without dashes.
        return str(UUID(text)) if text else None
    except ValueError:
        raise ConfigError(f"{BOOT_ID_VARIABLE}={text} (the environment): not a UUID, as systemd's %b is") from None


def port_of(url: str) -> int:
    """Return the TCP port of an HTTP or HTTPS URL."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def host_of(url: str) -> str:
    """Return the name or IP address in a URL, with the zone of a link-local one, as in "fe80::1%eth0"."""
    bare, zone = without_zone(url)
    host = urlsplit(bare).hostname or ""
    return host if zone is None else f"{host}%{zone}"


def without_zone(url: str) -> tuple[str, str | None]:
    """Return a URL without the zone of its address, and the zone, None if there is none.

    The zone is the name or index of an interface of this node, so that the server must not see it.
    """
    found = _WITH_ZONE.fullmatch(url)
    return (url, None) if found is None else (found[1] + found[3], unquote(found[2]))


def _url(text: str) -> str:
    bare, zone = without_zone(text)
    try:
        parts = urlsplit(bare)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"\s", text):
        raise ValueError("expected http:// or https:// and a host, as in http://192.0.2.1:5086")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or a password; reports are signed and need neither")
    if parts.query or parts.fragment:
        raise ValueError("a URL with a query or a fragment; /status/… is appended to it")
    if zone is None and "%" in parts.hostname:
        raise ValueError("a name or an IPv4 address with a percent sign; only an IPv6 address may have a zone")
    if (zone is not None) != _is_link_local(parts.hostname) or zone == "":
        raise ValueError("a link-local address, and no other, needs an interface, as in http://[fe80::1%25eth0]:5086")
    return text.rstrip("/")


def _is_link_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.version == 6 and address.is_link_local


def _absolute_path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("expected an absolute path, as in /run/kattila/wireguard.sock")
    return path


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for part in values.split_at_commas(text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or _LABEL_NAME.fullmatch(name) is None or len(value) > MAX_LINE:
            raise ValueError(f"{part!r} is not NAME=VALUE; expected as in site=north,role=hub")
        if name in labels:
            raise ValueError(f"{name!r} is given twice")
        labels[name] = value
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels; the limit is {MAX_LABELS}")
    return labels


def _listens(text: str) -> tuple[Listen, ...]:
    read_one = values.listen(PORT)
    listens = tuple(read_one(part) for part in values.split_at_commas(text))
    if not listens:
        raise ValueError(f"no address; expected as in *:{PORT}")
    return listens


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part, strict=False) for part in values.split_at_commas(text))
