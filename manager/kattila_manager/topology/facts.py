"""The facts of a report that inference reads, small enough to keep for every agent.

Names and keys are interned, because every report of a fleet repeats them. Times are ms UTC by the manager's clock.
"""

from __future__ import annotations

from sys import intern
from typing import NamedTuple

from kattila_protocol.registration import identifying_addresses
from kattila_protocol.report import Interface, Report, Telemetry, WireguardInterface, WireguardPeer

_WIREGUARD, _PEERS = "wireguard", "peers"


class Reading(NamedTuple):
    """What all peers of one interface have in common in one sample.

    `at` is when the sample was measured, and `clock` (ms) the node's own clock when the peers were read. `interval_ms`
    is the agent's report interval. `interface_index` is None if it is unknown. `rx_errors` counts the packets that the
    interface discarded; the kernel does not count those in a peer's rx.
    """

    at: int
    interval_ms: int
    clock: int
    boot_id: str
    interface_index: int | None
    rx_errors: int = 0


class PeerFacts(NamedTuple):
    """A WireGuard peer. `latest_handshake` is in seconds by the node's clock, `keepalive` in seconds."""

    key: str
    endpoint: str | None
    keepalive: int
    has_preshared_key: bool
    rx: int
    tx: int
    latest_handshake: int


class WireguardFacts(NamedTuple):
    """A WireGuard interface. `is_up` is None if the agent could not read it; `is_cut` if peers are missing."""

    name: str
    key: str
    is_up: bool | None
    is_cut: bool
    fwmark: int
    reading: Reading
    peers: tuple[PeerFacts, ...]


class Facts(NamedTuple):
    """The facts of one report. `at` is when its sample was measured.

    `is_late` marks a sample that waited on the node's disk: it is history. `is_unreadable` says that the WireGuard
    collector failed, so that `wireguard` is unknown and not empty. `hardware` identifies the machine.
    """

    agent_id: str
    sample: int
    at: int
    boot_id: str
    is_late: bool
    is_unreadable: bool
    hardware: frozenset[str]
    wireguard: tuple[WireguardFacts, ...]


def reduce(report: Report, received_at: int, interval_ms: int, *, is_late: bool) -> Facts:
    """Return the facts of a report that arrived at `received_at`.

    `interval_ms` is the report interval of agents that do not report their own. `is_late` is as in the audit log.
    """
    telemetry = report.telemetry
    at = received_at - max(0, report.timestamp - report.sampled_at)
    boot_id = intern(report.boot_id)
    links = {link.name: link for link in telemetry.interfaces}
    cut = {each.where for each in telemetry.cuts if each.what == _PEERS}
    return Facts(
        intern(report.agent_id),
        report.sample,
        at,
        boot_id,
        is_late,
        _has_failed(telemetry, _WIREGUARD),
        identifying_addresses(telemetry.interfaces),
        tuple(
            _wireguard(each, links.get(each.name), Reading(at, interval_ms, _clock(report), boot_id, None), cut)
            for each in telemetry.wireguard
        ),
    )


def _clock(report: Report) -> int:
    """Return the node's clock (ms) when it read its WireGuard interfaces.

    The sample begins before that, so a handshake may seem to be in the future.
    """
    return report.sampled_at


def _wireguard(
    interface: WireguardInterface, link: Interface | None, reading: Reading, cut: set[str]
) -> WireguardFacts:
    return WireguardFacts(
        intern(interface.name),
        intern(interface.public_key),
        None if link is None else "UP" in link.flags,
        # A cut without an interface is the sum over several.
        bool(cut) and ("" in cut or interface.name in cut),
        interface.fwmark,
        reading if link is None else reading._replace(interface_index=link.index, rx_errors=link.rx_errors),
        tuple(map(_peer, interface.peers)),
    )


def _peer(peer: WireguardPeer) -> PeerFacts:
    key, endpoint, _, latest_handshake, rx, tx, keepalive, has_preshared_key = peer
    return PeerFacts(
        intern(key),
        None if endpoint is None else intern(endpoint),
        keepalive,
        has_preshared_key,
        rx,
        tx,
        latest_handshake,
    )


def _has_failed(telemetry: Telemetry, collector: str) -> bool:
    return any(failure.collector == collector for failure in telemetry.failures)
