"""Whatever siblings do, and however many there are: queries stay at a bounded rate, and memory stays small."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_agent.outbound.discovery.directory import CALM, HURRIED
from kattila_protocol.envelope import MAX_HOPS
from support.counts import examples
from support.sibling_directory import INTERVAL, OWN, A, B, C, answer, directory_of, name_of


def test_thousands_of_candidates_stay_small_whatever_they_answer() -> None:
    addresses = tuple(f"2001:db8::{number:x}" for number in range(10_000))
    directory = directory_of(*addresses)
    for number, address in enumerate(addresses):
        directory.answered(address, answer(name_of(number), hostname="x" * 100_000), 0.01, 0.0, 0.0)
    for number in range(10_000, 10_500):
        directory.answered(addresses[0], answer(name_of(number)), 0.01, 0.0, 0.0)
    assert len(directory.relays(OWN, 1.0)) == 10_000
    assert size_of(directory) < 15_000_000


def size_of(value: object, seen: set[int] | None = None) -> int:
    """Return the bytes of a value with all that hangs on it."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    parts = [getattr(value, name) for name in getattr(value, "__slots__", ())] + list(
        getattr(value, "__dict__", {}).values()
    )
    if isinstance(value, dict):
        parts += [*value, *value.values()]
    return sys.getsizeof(value) + sum(size_of(part, seen) for part in parts)


def test_several_threads_get_different_addresses() -> None:
    directory = directory_of(*map(str, range(2000)))
    taken: list[str] = []

    def take() -> None:
        while (address := directory.due(0.0, hurried=False)) is not None:
            taken.append(address)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(set(taken))) == (2000, 2000)


# What an address does when asked: nothing, or an answer of one of three agents or oneself.
REPLIES = st.one_of(
    st.none(),
    st.builds(
        answer,
        st.sampled_from([OWN, A, B, C]),
        st.one_of(st.none(), st.integers(0, 4), st.just(10**9)),
        st.sampled_from([None, OWN, A, B]),
    ),
)
SHARES = st.floats(0, 1)


@settings(max_examples=examples(60))
@given(st.data())
def test_siblings_are_queried_at_a_bounded_rate_and_only_suitable_ones_are_relays(data: st.DataObject) -> None:
    addresses = ("a", "b", "c", "d")
    directory = directory_of(*addresses)
    asked: dict[str, list[float]] = {address: [] for address in addresses}
    now = 0.0
    for _ in range(data.draw(st.integers(10, 60))):
        now += data.draw(st.sampled_from([1.0, 29.0, 120.0, 700.0]))
        hurried = data.draw(st.booleans())
        while (address := directory.due(now, hurried=hurried)) is not None:
            asked[address].append(now)
            said = data.draw(REPLIES)
            if said is None:
                directory.failed(address, now, data.draw(SHARES))
            else:
                directory.answered(address, said, data.draw(st.floats(0, 2)), now, data.draw(SHARES))
        touched = data.draw(st.sampled_from([A, B, C]))
        if data.draw(st.booleans()):
            directory.refused(touched, now, data.draw(SHARES), has_no_path=data.draw(st.booleans()))
        elif data.draw(st.booleans()):
            directory.passed_on(touched, now)
        relays = directory.relays(OWN, now)
        assert all(relay.distance + 1 <= MAX_HOPS for relay in relays)
        assert OWN not in {relay.agent_id for relay in relays}
        assert max(Counter(relay.agent_id for relay in relays).values(), default=1) == 1
    for moments in asked.values():
        pauses = [later - before for before, later in pairwise(moments)]
        assert all(pause >= 0.8 * INTERVAL for pause in pauses)


@settings(max_examples=examples(30))
@given(st.lists(SHARES, min_size=40, max_size=40), st.booleans())
def test_back_off_stays_within_its_bounds(shares: list[float], hurried: bool) -> None:
    directory = directory_of("a")
    bounds = HURRIED if hurried else CALM
    now = 0.0
    for times, share in enumerate(shares, 1):
        assert directory.due(now, hurried=hurried) == "a"
        directory.failed("a", now, share)
        pause = bounds.seconds(times)
        assert 0 < pause <= bounds.last_seconds
        assert directory.due(now + 0.79 * pause, hurried=hurried) is None
        now += pause


def test_queries_do_not_grow_in_a_mesh_of_a_hundred_that_is_cut_off() -> None:
    count, hour = 100, 3600
    names = [name_of(number) for number in range(count)]
    directories = [directory_of(*(other for other in names if other != name)) for name in names[:5]]
    per_ten_minutes: Counter[int] = Counter()
    for now in range(hour):
        for number, directory in enumerate(directories):
            for turn in range(4):
                address = directory.due(float(now), hurried=True)
                if address is None:
                    break
                per_ten_minutes[now // 600] += 1
                directory.answered(address, answer(address, None), 0.01, float(now), (number * 7 + turn) / 40)
    rates = [per_ten_minutes[tens] / len(directories) / 10 for tens in range(6)]
    print(f"questions per agent and minute: {rates}")
    # Each gets six queries in the first ten minutes, and then one in 8 to 10 minutes.
    assert rates[0] <= (count - 1) * 6 / 10
    assert max(rates[1:]) <= (count - 1) / 8
