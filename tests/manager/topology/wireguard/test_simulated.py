"""Verdicts on simulated tunnels: healthy ones raise no alarm, and every kind of cut is found in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import pytest

from kattila_manager.topology.wireguard.reasons import Reason
from kattila_manager.topology.wireguard.states import TunnelState, Verdict
from kattila_simulate.tunnel import Flow, Tunnel
from kattila_simulate.wireguard import EndSettings
from support.counts import CUTS, HEALTHY_DAYS, HEALTHY_TUNNELS
from support.fleet import DAY, HOUR, MINUTE, SECOND
from support.tunnel_watch import Seen, TunnelWatch

INTERVALS = (10 * SECOND, 30 * SECOND, 30 * SECOND, 30 * SECOND, 60 * SECOND)
USUAL = (30 * SECOND, 30 * SECOND)
_FAILED = (TunnelState.DOWN, TunnelState.ONE_WAY, TunnelState.REFUSED)


# --- Healthy tunnels


def healthy_watch(random: Random, loss: float) -> TunnelWatch:
    """Return a tunnel with any keepalives, traffic, clocks and intervals."""
    endpoints = [True, random.random() < 0.7]
    random.shuffle(endpoints)
    settings = [
        EndSettings(
            random.choice((0, 0, 15, 25, 25, 60, 120, 300)),
            has_endpoint=has_endpoint,
            clock_ahead_ms=random.choice((0, 0, 8 * MINUTE, -3 * MINUTE)),
        )
        for has_endpoint in endpoints
    ]
    flows = tuple(
        Flow(side, random.randrange(2, 200) * SECOND, is_answered=random.random() < 0.6)
        for side in (0, 1)
        if random.random() < 0.4
    )
    tunnel = Tunnel(random, (settings[0], settings[1]), flows, loss)
    return TunnelWatch(tunnel, random, (random.choice(INTERVALS), random.choice(INTERVALS)))


def disturb(watch: TunnelWatch, random: Random) -> None:
    """Let something harmless happen: a restart of a node, an interface or publish, a clock step, lost reports."""
    tunnel, side, draw = watch.tunnel, random.randrange(2), random.random()
    if draw < 0.2:
        tunnel.reboot(side)
    elif draw < 0.3:
        tunnel.recreate(side)
    elif draw < 0.4:
        watch.restart_publisher()
    elif draw < 0.6:
        # A step back would make the other end refuse handshakes, which is a failure.
        tunnel.step_clock(side, random.choice((5 * SECOND, 30 * SECOND, 5 * MINUTE, HOUR)))
    elif draw < 0.8:
        is_off = random.random() < 0.5
        if is_off:
            tunnel.stop(side)
        watch.is_silent[side] = True
        list(watch.run(tunnel.now + random.randrange(20, 200) * SECOND))
        watch.is_silent[side] = False
        if is_off:
            tunnel.reboot(side)


def watch_for(watch: TunnelWatch, random: Random, until: int) -> tuple[Counter[str], int]:
    """Return the states of a tunnel until a time, and how many alarms opened."""
    states: Counter[str] = Counter()
    alarms, was_alarmed = 0, False
    while watch.tunnel.now < until:
        for seen in watch.run(min(until, watch.tunnel.now + random.randrange(10 * MINUTE, 6 * HOUR))):
            states[seen.verdict.state] += 1
            alarms += seen.is_alarmed and not was_alarmed
            was_alarmed = seen.is_alarmed
        disturb(watch, random)
        was_alarmed = watch.is_alarmed
    return states, alarms


def test_healthy_tunnels_raise_no_alarm_at_a_loss_up_to_one_percent() -> None:
    alarmed, states = [], Counter[str]()
    for seed in range(HEALTHY_TUNNELS):
        random = Random(seed)
        watch = healthy_watch(random, loss=random.random() * 0.01)
        found, alarms = watch_for(watch, random, HEALTHY_DAYS * DAY)
        states += found
        alarmed += [seed] * alarms
    assert states.total() > HEALTHY_TUNNELS * HEALTHY_DAYS * 2000
    assert states["up"] > 0.5 * states.total()
    assert alarmed == []


def test_healthy_tunnels_raise_few_alarms_at_a_loss_of_two_percent() -> None:
    alarms, tunnels = 0, HEALTHY_TUNNELS // 4
    for seed in range(tunnels):
        random = Random(f"two percent {seed}")
        alarms += watch_for(healthy_watch(random, loss=0.02), random, HEALTHY_DAYS * DAY)[1]
    # At most one per ten tunnel-weeks.
    assert alarms <= max(1, tunnels * HEALTHY_DAYS / 7 / 10)


# --- Cuts


class Failure(NamedTuple):
    """How a tunnel failed: the times are ms since the cut, and until the alarm closed after the repair."""

    first_at: int | None
    alarm_at: int | None
    closed_after: int | None
    bound: int
    close_bound: int
    verdict: Verdict


def fail(
    watch: TunnelWatch, random: Random, cut: Callable[[Tunnel], None], repair: Callable[[Tunnel], None]
) -> Failure:
    """Let a tunnel fail at a random moment, watch it past the bound, and repair it."""
    tunnel = watch.tunnel
    list(watch.run(20 * MINUTE + random.randrange(30 * MINUTE)))
    keepalives = [end.settings.keepalive_seconds for end in tunnel.ends]
    keepalive = SECOND * min((each for each in keepalives if each), default=0)
    step = max(watch.intervals)
    bound = 180 * SECOND + keepalive + 2 * step
    began, first_at, alarm_at = tunnel.now, None, None
    cut(tunnel)
    seen = None
    for seen in watch.run(began + bound + 5 * MINUTE):
        if first_at is None and seen.verdict.state in _FAILED:
            first_at = seen.at - began
        if alarm_at is None and seen.is_alarmed:
            alarm_at = seen.at - began
    assert seen is not None
    repaired, closed_after = tunnel.now, None
    repair(tunnel)
    for after in watch.run(repaired + 15 * MINUTE):
        if closed_after is None and not after.is_alarmed:
            closed_after = after.at - repaired
    # Without a keepalive, the next traffic closes it; its retries may have stopped before the repair.
    close_bound = 2 * step + (keepalive or 3 * MINUTE)
    return Failure(first_at, alarm_at, closed_after, bound, close_bound, seen.verdict)


def cut_watch(random: Random, intervals: tuple[int, int]) -> TunnelWatch:
    """Return a tunnel that a keepalive or traffic keeps up."""
    keepalives = random.choice(((25, 0), (0, 25), (25, 25), (60, 0), (0, 60), (15, 60), (120, 0), (300, 0), (0, 0)))
    flows: tuple[Flow, ...] = ()
    if keepalives == (0, 0) or random.random() < 0.5:
        flows = (Flow(random.randrange(2), random.randrange(2, 20) * SECOND, is_answered=random.random() < 0.7),)
    settings = (EndSettings(keepalives[0]), EndSettings(keepalives[1]))
    return TunnelWatch(Tunnel(random, settings, flows, random.random() * 0.01), random, intervals)


_BOTH = {Reason.NOTHING_ARRIVES, Reason.NEITHER_RECEIVES}
# One side sends and nothing arrives; the other one has nothing to send.
_UNTRIED = {Reason.OTHER_NOT_TRIED, Reason.NOTHING_TO_SEND, Reason.NOT_ARRIVED, Reason.TRIED, Reason.THREE_LOST}


@pytest.mark.parametrize("intervals", [USUAL, None], ids=["30 s", "10 to 60 s"])
@pytest.mark.parametrize("directions", [(0, 1), (0,), (1,)], ids=["both ways", "one way", "the other way"])
def test_every_cut_is_found_in_time_with_its_direction_and_side(
    directions: tuple[int, ...], intervals: tuple[int, int] | None
) -> None:
    for number in range(CUTS):
        random = Random(f"{directions} {number}")
        watch = cut_watch(random, intervals or (random.choice(INTERVALS), random.choice(INTERVALS)))
        failure = fail(watch, random, lambda tunnel: tunnel.cut(*directions), Tunnel.repair)
        assert failure.first_at is not None, number
        assert failure.alarm_at is not None, number
        assert failure.alarm_at <= failure.bound, number
        assert failure.closed_after is not None, number
        assert failure.closed_after <= failure.close_bound, number
        verdict = failure.verdict
        if len(directions) == 2:
            assert verdict.reason in _BOTH | _UNTRIED, number
            assert (verdict.state, verdict.fix) == (TunnelState.DOWN, ()), number
        elif verdict.state is TunnelState.ONE_WAY:
            # The deaf side is the one to fix.
            assert verdict.fix == (1 - directions[0],), number
        else:
            assert (verdict.reason in _UNTRIED, verdict.first) == (True, directions[0]), number


@pytest.mark.parametrize("interval", [10 * SECOND, 30 * SECOND])
def test_row_57_a_tunnel_whose_data_is_discarded_is_up(interval: int) -> None:
    """Handshakes succeed every 120 s, and between them the receiver counts nothing."""
    for number in range(CUTS // 4):
        random = Random(f"discarded {number}")
        flows = Flow(0, 5 * SECOND, is_answered=False), Flow(1, 7 * SECOND, is_answered=False)
        tunnel = Tunnel(random, (EndSettings(random.choice((0, 25))), EndSettings()), flows)
        tunnel.ends[1].has_allowed_source = False
        watch = TunnelWatch(tunnel, random, (interval, interval))
        list(watch.run(10 * MINUTE))
        assert {seen.verdict.state for seen in watch.run(70 * MINUTE)} == {TunnelState.UP}, number


def test_a_node_that_is_cut_off_raises_no_alarm_for_its_tunnels() -> None:
    """Its agent is silent, and that is the alarm. Its first reports afterwards arrive before its handshakes."""
    for number in range(CUTS):
        random = Random(f"cut off {number}")
        watch = cut_watch(random, USUAL)
        tunnel = watch.tunnel
        seen: list[Seen] = []
        list(watch.run(20 * MINUTE + random.randrange(30 * MINUTE)))
        tunnel.cut()
        watch.is_silent[0] = True
        seen += watch.run(tunnel.now + random.randrange(1, 20) * MINUTE)
        tunnel.repair()
        watch.is_silent[0] = False
        # Without a keepalive, handshakes begin with the next traffic.
        seen += watch.run(tunnel.now + 20 * MINUTE)
        assert [each for each in seen if each.is_alarmed] == [], number
        # With a keepalive of 300 s, the newest verdict may be that renewal is due.
        assert TunnelState.UP in {each.verdict.state for each in seen[-20:]}, number


@pytest.mark.parametrize(
    ("keys", "states"),
    [
        (("", "other"), {(TunnelState.REFUSED, (0, 1))}),
        # Rows 18 and 19: the counters decide whether lost answers remain possible.
        (("one", "other"), {(TunnelState.REFUSED, (0, 1)), (TunnelState.ONE_WAY, (0,)), (TunnelState.ONE_WAY, (1,))}),
    ],
)
def test_different_preshared_keys_are_found_in_time(
    keys: tuple[str, str], states: set[tuple[TunnelState, tuple[int, ...]]]
) -> None:
    def change(tunnel: Tunnel) -> None:
        tunnel.ends[0].preshared_key, tunnel.ends[1].preshared_key = keys

    def undo(tunnel: Tunnel) -> None:
        tunnel.ends[0].preshared_key = tunnel.ends[1].preshared_key = "one"

    for number in range(CUTS):
        random = Random(f"{keys} {number}")
        watch = cut_watch(random, USUAL)
        undo(watch.tunnel)
        failure = fail(watch, random, change, undo)
        assert failure.alarm_at is not None, number
        # The session is good for up to 180 s after the change.
        assert failure.alarm_at <= failure.bound + 180 * SECOND, number
        assert (failure.verdict.state, failure.verdict.fix) in states, number


def test_a_side_that_does_not_send_is_found_in_time() -> None:
    def set_route(tunnel: Tunnel, has_route: bool) -> None:
        tunnel.ends[0].has_route = has_route

    for number in range(CUTS):
        random = Random(f"no route {number}")
        settings = EndSettings(random.choice((15, 25, 60))), EndSettings(random.choice((0, 0, 25)))
        watch = TunnelWatch(Tunnel(random, settings), random, USUAL)
        failure = fail(watch, random, lambda tunnel: set_route(tunnel, False), lambda tunnel: set_route(tunnel, True))
        assert failure.alarm_at is not None, number
        assert failure.alarm_at <= failure.bound + 30 * SECOND, number
        assert (failure.verdict.reason, failure.verdict.fix) == (Reason.NOT_SENDING, (0,)), number


def test_a_clock_that_went_back_is_found_in_time() -> None:
    for number in range(CUTS):
        random = Random(f"clock {number}")
        watch = TunnelWatch(Tunnel(random, (EndSettings(25), EndSettings())), random, USUAL)
        failure = fail(
            watch,
            random,
            lambda tunnel: tunnel.step_clock(0, -HOUR),
            lambda tunnel: tunnel.step_clock(0, HOUR),
        )
        assert failure.alarm_at is not None, number
        # Keepalives arrive until the session is over, so packets are lost only from then on.
        assert failure.alarm_at <= failure.bound + USUAL[0], number
        assert (failure.verdict.reason, failure.verdict.fix) == (Reason.CLOCK_BEHIND, (0,)), number
