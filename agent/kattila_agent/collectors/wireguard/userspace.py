"""A userspace device's own socket, as wireguard-go and its kin offer it (www.wireguard.com/xplatform).

May live here: the operation "get=1" and its answer. Whoever may ask may also set, and the answer holds the private key
and all preshared keys: they end here. Errors name a field and show nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kattila_agent.collectors.unix_socket import UnreadableError, ask, lines
from kattila_agent.collectors.wireguard import curve25519, spelling
from kattila_agent.collectors.wireguard.gathering import Gathering, Limits, Peer, VanishedError, whole_number
from kattila_agent.collectors.wireguard.spelling import ScopeName
from kattila_protocol.canonical import MAX_INTEGER

FOLDER = Path("/var/run/wireguard")

TIMEOUT_SECONDS = 5.0

_QUESTION = b"get=1\n\n"
_END = b"\n\n"
# What an interface and a peer have one of.
_ONCE = frozenset(
    (
        b"private_key",
        b"listen_port",
        b"fwmark",
        b"preshared_key",
        b"endpoint",
        b"last_handshake_time_sec",
        b"rx_bytes",
        b"tx_bytes",
        b"persistent_keepalive_interval",
    )
)


def read(path: Path) -> bytes:
    """Return the answer, which holds secrets: give it to `parse` and keep no other reference.

    Raises:
        PermissionError: the socket is another user's.
        VanishedError: nobody is behind the socket any more.
        UnreadableError: no whole answer.
    """
    try:
        return ask(path, _QUESTION, _END, timeout_seconds=TIMEOUT_SECONDS)
    except (FileNotFoundError, ConnectionError):
        raise VanishedError from None


def parse(name: str, answer: bytes, limits: Limits, scope_name: ScopeName = spelling.scope_name) -> Gathering:
    """Return what the answer tells of the interface.

    Raises:
        UnreadableError: the answer is not whole, or tells an error.
        ValueError: a field holds something else than it should.
    """
    if not answer.endswith(_END):
        raise UnreadableError("the answer of its socket is not whole")
    parsing = _Parsing(Gathering(name, limits), scope_name)
    parsing.take(answer)
    parsing.gathering.check()
    return parsing.gathering


class _Parsing:
    """Fields in their order: those of the interface, then for each peer its public key and what belongs to it."""

    def __init__(self, gathering: Gathering, scope_name: ScopeName) -> None:
        self.gathering = gathering
        # What is not set is not sent.
        gathering.listen_port = gathering.fwmark = 0
        self._scope_name = scope_name
        self._peer: Peer | None = None
        self._seen: set[bytes] = set()

    def take(self, answer: bytes) -> None:
        errno: bytes | None = None
        for name, _, value in (line.partition(b"=") for line in lines(answer[: 1 - len(_END)])):
            if errno is not None:
                raise UnreadableError("the answer of its socket is not whole")
            if name == b"errno":
                errno = value
            elif name == b"public_key":
                self._begin_peer(value)
            else:
                self._take(name, value)
        if errno is None:
            raise UnreadableError("the answer of its socket is not whole")
        if number := whole_number(errno.removeprefix(b"-"), 4096, "errno"):
            raise UnreadableError(f"its socket answers with errno {number}")

    def _take(self, name: bytes, value: bytes) -> None:
        if name in self._seen:
            raise ValueError(f"{name.decode('ascii')} stands twice")
        if name in _ONCE:
            self._seen.add(name)
        if self._peer is None:
            self._take_own(name, value)
        else:
            self._take_peers(self._peer, name, value)

    def _begin_peer(self, value: bytes) -> None:
        raw = spelling.read_hex_key(value, "public_key")
        self._peer = self.gathering.begin(spelling.key(raw, "public_key"))
        self._peer.latest_handshake = self._peer.persistent_keepalive = 0
        self._peer.has_preshared_key = False
        self._seen.clear()

    def _take_own(self, name: bytes, value: bytes) -> None:
        match name:
            case b"private_key":
                private = spelling.read_hex_key(value, "a key")
                # As `wg` does: zeros stand for none.
                if any(private):
                    self.gathering.public_key = spelling.key(curve25519.public_key(private), "public_key")
            case b"listen_port":
                self.gathering.listen_port = whole_number(value, 65535, "listen_port")
            case b"fwmark":
                self.gathering.fwmark = whole_number(value, 2**32 - 1, "fwmark")

    def _take_peers(self, peer: Peer, name: bytes, value: bytes) -> None:
        match name:
            case b"preshared_key":
                peer.has_preshared_key = any(spelling.read_hex_key(value, "a key"))
            case b"endpoint":
                peer.endpoint = spelling.read_endpoint(value.decode("ascii", "replace"), self._scope_name)
            case b"allowed_ip":
                self.gathering.allow(peer, _prefixes(value), 1)
            case b"last_handshake_time_sec":
                peer.latest_handshake = whole_number(value, MAX_INTEGER, "latest_handshake")
            case b"rx_bytes":
                peer.transfer_rx = whole_number(value, MAX_INTEGER, "transfer_rx")
            case b"tx_bytes":
                peer.transfer_tx = whole_number(value, MAX_INTEGER, "transfer_tx")
            case b"persistent_keepalive_interval":
                peer.persistent_keepalive = whole_number(value, 65535, "persistent_keepalive")


def _prefixes(value: bytes) -> Iterable[str]:
    yield spelling.read_prefix(value.decode("ascii", "replace"))
