"""From reports of a simulated tunnel to its verdict: facts, evidence, owners and text together."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from kattila_manager.topology.facts import reduce
from kattila_manager.topology.wireguard.explanations import commands, explain
from kattila_manager.topology.wireguard.states import TunnelState
from kattila_manager.topology.wireguard.tunnels import JudgedTunnel, Tunnels
from kattila_protocol.report import Interface, Report, WireguardInterface, WireguardPeer
from kattila_simulate.tunnel import Tunnel
from kattila_simulate.wireguard import STARTED_AT, EndSettings
from support.fleet import MINUTE, SECOND
from support.reports import node, report, telemetry

STEP = 30 * SECOND
KEYS = ("ka", "kb")
OFFSET = (0, -4 * MINUTE)


def reported(tunnel: Tunnel, side: int, sample: int) -> Report:
    """Return the report of one end, by its own clock."""
    counters = tunnel.sample(side)
    sender = node(side)
    peer = WireguardPeer(
        KEYS[1 - side],
        f"192.0.2.{2 - side}:51820",
        (f"198.51.100.{2 - side}/32",),
        counters.latest_handshake,
        counters.rx,
        counters.tx,
        tunnel.ends[side].settings.keepalive_seconds,
        False,
    )
    link = Interface(counters.interface_index, "wg0", "wireguard", ("UP",), "UNKNOWN", 1420, None, ())
    measured = replace(
        telemetry(sender),
        interfaces=(link,),
        wireguard=(WireguardInterface("wg0", KEYS[side], 51820, 0, (peer,)),),
    )
    sent = report(sender, sample, counters.clock + SECOND, sampled_at=counters.clock)
    return replace(sent, telemetry=measured, boot_id=f"boot {counters.boot}")


class Reporting:
    """Two agents that report a simulated tunnel, and the manager's view of it."""

    def __init__(self) -> None:
        """Start the tunnel; the clock of the second node is four minutes behind."""
        settings = (EndSettings(25), EndSettings(clock_ahead_ms=OFFSET[1]))
        self.tunnel = Tunnel(Random(1), settings)
        self.tunnels = Tunnels()
        self.samples = 0

    def run(self, rounds: int) -> JudgedTunnel:
        """Return the tunnel after some reports of both ends."""
        for _ in range(rounds):
            self.samples += 1
            for side in (0, 1):
                self.tunnel.run(self.samples * STEP + side * 7 * SECOND)
                received_at = STARTED_AT + self.tunnel.now + SECOND
                sent = reported(self.tunnel, side, self.samples)
                self.tunnels.settle(self.tunnels.put(reduce(sent, received_at, STEP, is_late=False)))
        [[judged]] = self.tunnels.judged().values()
        return judged

    def text(self, judged: JudgedTunnel) -> str:
        return explain(judged.verdict, judged.ends, ("north", "south"), STARTED_AT + self.tunnel.now + SECOND)


def test_a_tunnel_is_up_whatever_the_offset_of_its_nodes_clocks() -> None:
    reporting = Reporting()
    judged = reporting.run(20)
    assert judged.verdict.state is TunnelState.UP
    assert reporting.text(judged).startswith("north and south completed a handshake ")
    assert judged.verdict.handshake_at is not None
    actual = reporting.tunnel.sample(0).latest_handshake * SECOND
    assert abs(judged.verdict.handshake_at - actual) <= 2 * SECOND


def test_a_cut_is_down_with_its_direction_and_commands_until_it_is_repaired() -> None:
    reporting = Reporting()
    reporting.run(20)
    reporting.tunnel.cut(0)
    judged = reporting.run(9)
    assert judged.verdict.state is TunnelState.DOWN
    assert reporting.text(judged) == (
        "north's keepalives and handshake attempts do not reach south. The direction south→north was not tried."
    )
    assert commands(judged.verdict, judged.ends)[0] == (0, "ip route get 192.0.2.2")
    reporting.tunnel.repair()
    assert reporting.run(2).verdict.state is TunnelState.UP


def test_a_reboot_of_one_end_is_no_failure() -> None:
    reporting = Reporting()
    reporting.run(20)
    reporting.tunnel.reboot(1)
    states = {reporting.run(1).verdict.state for _ in range(20)}
    assert states <= {TunnelState.UP, TunnelState.SUSPECT, TunnelState.UNCHANGED}
    assert reporting.run(1).verdict.state is TunnelState.UP
