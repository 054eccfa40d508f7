"""The event model of WireGuard's timers shows the kernel facts that the verdicts rely on."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from kattila_simulate.tunnel import Counters, Flow, Tunnel
from kattila_simulate.wireguard import EndSettings

SECOND = 1000
MINUTE = 60 * SECOND
QUIET, KEEPING = EndSettings(), EndSettings(keepalive_seconds=25)


def tunnel(a: EndSettings = KEEPING, b: EndSettings = QUIET, *flows: Flow, loss: float = 0.0, seed: int = 1) -> Tunnel:
    made = Tunnel(Random(seed), (a, b), flows, loss)
    made.run(10 * SECOND)
    return made


def growth(made: Tunnel, seconds: int) -> tuple[int, int, int, int]:
    """Return by how much tx and rx of the first end, and tx and rx of the second end grow."""
    before = [made.sample(side) for side in (0, 1)]
    made.run(made.now + seconds * SECOND)
    after = [made.sample(side) for side in (0, 1)]
    return (
        after[0].tx - before[0].tx,
        after[0].rx - before[0].rx,
        after[1].tx - before[1].tx,
        after[1].rx - before[1].rx,
    )


def handshakes(made: Tunnel, seconds: int, side: int = 0) -> list[int]:
    """Return the time between a handshake and the next one, in seconds, for as long as given."""
    times = [made.sample(side).latest_handshake]
    for _ in range(seconds):
        made.run(made.now + SECOND)
        latest = made.sample(side).latest_handshake
        if latest != times[-1]:
            times.append(latest)
    return [after - before for before, after in pairwise(times)]


# --- Handshakes


def test_a_keepalive_begins_a_handshake_and_both_ends_know_it() -> None:
    made = tunnel()
    one, other = made.sample(0), made.sample(1)
    assert one.latest_handshake > 0
    assert abs(one.latest_handshake - other.latest_handshake) <= 1
    # Initiation, answer, and the keepalive that confirms the session.
    assert (one.tx, one.rx, other.tx, other.rx) == (148 + 32, 92, 92, 148 + 32)


def test_without_keepalive_and_traffic_nothing_happens() -> None:
    made = tunnel(QUIET, QUIET)
    made.run(60 * MINUTE)
    assert made.sample(0)[3:] == made.sample(1)[3:] == (0, 0, 0, 0)


def test_an_initiator_with_a_keepalive_renews_when_it_sends_after_120_s() -> None:
    assert all(120 <= between <= 146 for between in handshakes(tunnel(), 3600))


def with_initiator(side: int, a: EndSettings, b: EndSettings) -> Tunnel:
    """Return a tunnel whose first handshake one end began, without data."""
    made = tunnel(a, b)
    for end in made.ends:
        end.stop()
        end.is_up = True
    made.ends[side].start_handshake()
    made.run(made.now + SECOND)
    return made


def test_a_responder_with_a_keepalive_lets_the_initiator_renew_when_it_receives_after_165_s() -> None:
    between = handshakes(with_initiator(0, QUIET, KEEPING), 3600)
    assert len(between) > 15
    assert all(165 <= each <= 180 for each in between)


def test_a_responder_with_a_keepalive_renews_itself_when_no_packet_arrives_between_165_and_180_s() -> None:
    # Its packets at 160 and 185 s.
    [first, *_] = handshakes(with_initiator(0, QUIET, EndSettings(80)), 3600)
    assert 180 <= first <= 260


def test_a_side_without_a_session_renews_when_it_sends() -> None:
    made = tunnel(QUIET, QUIET)
    made.send(0)
    made.run(10 * MINUTE)
    known = made.sample(0).latest_handshake
    assert known
    made.send(1)
    made.run(made.now + SECOND)
    assert made.sample(0).latest_handshake > known


def test_a_handshake_is_known_to_the_responder_only_with_the_first_packet_of_the_session() -> None:
    made = tunnel(QUIET, QUIET)
    made.send(0)
    made.run(made.now + 25)
    assert (made.sample(0).latest_handshake, made.sample(1).latest_handshake) == (0, 0)
    made.run(made.now + 20)
    assert (bool(made.sample(0).latest_handshake), made.sample(1).latest_handshake) == (True, 0)
    made.run(made.now + 20)
    assert made.sample(1).latest_handshake


# --- Retries


def test_a_handshake_is_tried_twenty_times_then_the_keepalive_tries_again() -> None:
    made = tunnel(QUIET, QUIET)
    made.cut()
    made.send(0)
    made.run(made.now + 20 * MINUTE)
    assert made.sample(0).tx == 20 * 148
    keeping = tunnel()
    keeping.cut()
    # Without a session, twenty initiations take about 103 s, and the pause is one keepalive.
    keeping.run(5 * MINUTE)
    tx, *_ = growth(keeping, 1200)
    assert 20 * 148 * 9 <= tx <= 20 * 148 * 11


def test_data_without_an_answer_begins_a_handshake_after_15_s() -> None:
    made = tunnel(QUIET, QUIET)
    made.send(0)
    made.run(made.now + 60 * SECOND)
    made.cut()
    made.send(0)
    assert growth(made, 14)[0] == 0
    assert growth(made, 2)[0] == 148


def test_data_is_answered_with_an_empty_packet_and_a_keepalive_is_not() -> None:
    made = tunnel(QUIET, QUIET)
    made.send(0)
    made.run(made.now + 60 * SECOND)
    made.send(0)
    assert growth(made, 9)[2] == 0
    assert growth(made, 2)[2] == 32
    keeping = tunnel()
    assert growth(keeping, 60) == (64, 0, 0, 64)


# --- Cuts, preshared keys and clocks


def test_row_15_answers_that_do_not_arrive() -> None:
    made = tunnel(QUIET, KEEPING)
    made.cut(0)
    made.run(5 * MINUTE)
    # B's initiations reach A, and A answers each of them; five to seven in 30 s.
    total = [growth(made, 30) for _ in range(4)]
    for a_tx, a_rx, b_tx, b_rx in total:
        assert (a_tx // 92, a_rx // 148, b_tx // 148, b_rx) == (a_rx // 148, a_rx // 148, b_tx // 148, 0)
    assert (552, 888, 888, 0) in total


def test_different_preshared_keys_look_like_lost_answers() -> None:
    made = tunnel(EndSettings(preshared_key="one"), EndSettings(25, "other"))
    made.run(5 * MINUTE)
    assert (552, 888, 888, 0) in [growth(made, 30) for _ in range(4)]
    assert made.sample(0).latest_handshake == made.sample(1).latest_handshake == 0


def test_packets_without_a_route_or_an_endpoint_are_not_counted() -> None:
    made = tunnel()
    made.ends[0].has_route = False
    assert growth(made, 600)[0] == 0
    without = tunnel(EndSettings(25, has_endpoint=False), QUIET)
    without.run(10 * MINUTE)
    assert without.sample(0).tx == 0


def test_the_own_output_filter_is_counted_in_tx() -> None:
    made = tunnel()
    made.cut(0)
    a_tx, _, _, b_rx = growth(made, 60)
    assert (a_tx > 0, b_rx) == (True, 0)


def test_data_from_a_source_outside_the_allowed_ips_is_answered_and_not_counted() -> None:
    made = tunnel(QUIET, QUIET, Flow(0, 5 * SECOND, is_answered=False))
    made.run(5 * MINUTE)
    made.ends[1].has_allowed_source = False
    a_tx, a_rx, b_tx, b_rx = growth(made, 600)
    assert a_tx > 100 * 132
    assert a_rx == b_tx > 0
    # Only handshakes and keepalives count, about every 120 s.
    assert 0 < b_rx < 6 * (148 + 32)
    assert made.sample(1).rx_errors > 50


def test_an_initiation_that_is_not_newer_is_refused_silently() -> None:
    made = tunnel()
    made.step_clock(0, -60 * MINUTE)
    made.run(10 * MINUTE)
    a_tx, a_rx, b_tx, b_rx = growth(made, 60)
    assert (a_tx >= 148, a_rx, b_tx, b_rx) == (True, 0, 0, 0)
    # Once the clock has passed the last accepted timestamp, the tunnel works again.
    made.run(63 * MINUTE)
    assert made.sample(0).clock - made.sample(0).latest_handshake * SECOND < 3 * MINUTE


def test_a_step_of_the_clock_moves_only_later_handshakes() -> None:
    made = tunnel()
    known = made.sample(0).latest_handshake
    made.step_clock(0, 8 * MINUTE)
    assert made.sample(0).latest_handshake == known
    made.run(5 * MINUTE)
    assert made.sample(0).latest_handshake - made.sample(1).latest_handshake in range(479, 482)


def test_a_restart_loses_counters_and_sessions_and_the_tunnel_returns() -> None:
    made = tunnel()
    made.run(5 * MINUTE)
    made.reboot(1)
    assert made.sample(1) == Counters(made.sample(1).clock, 2, 5, 0, 0, 0)
    made.recreate(1)
    assert made.sample(1).interface_index == 6
    made.run(10 * MINUTE)
    assert made.sample(1).clock - made.sample(1).latest_handshake * SECOND < 3 * MINUTE
    made.stop(1)
    assert growth(made, 120)[2:] == (0, 0)


# --- The model itself


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_counters(seed: int) -> None:
    flows = (Flow(0, 20 * SECOND), Flow(1, 70 * SECOND, is_answered=False))
    one, other = (tunnel(KEEPING, KEEPING, *flows, loss=0.02, seed=seed) for _ in range(2))
    one.run(60 * MINUTE)
    for minute in range(1, 61):
        other.run(minute * MINUTE)
    assert [one.sample(side) for side in (0, 1)] == [other.sample(side) for side in (0, 1)]


def test_answered_traffic_keeps_a_session_without_keepalives() -> None:
    made = tunnel(QUIET, QUIET, Flow(0, 20 * SECOND))
    made.run(60 * MINUTE)
    assert all(120 <= between <= 151 for between in handshakes(made, 3600))
    a_tx, a_rx, b_tx, b_rx = growth(made, 600)
    assert (a_tx, a_rx) == (b_rx, b_tx)
    assert a_rx > 20 * 132
