"""The index of keys: owners, former owners, and the pairs that an update makes due."""

from __future__ import annotations

from kattila_manager.topology.wireguard.owners import Former, Owners, pair_of

KEYS = {"ka": ("wg0",)}
AB, AC, BC = ("ka", "kb"), ("ka", "kc"), ("kb", "kc")


def index() -> Owners:
    """Return the index of three agents that all list each other."""
    owners = Owners()
    for name, pairs in (("a", (AB, AC)), ("b", (AB, BC)), ("c", (AC, BC))):
        owners.put(name, {f"k{name}": ("wg0",)}, frozenset(pairs), 1)
    return owners


def test_a_pair_is_the_same_in_both_directions() -> None:
    assert pair_of("kb", "ka") == pair_of("ka", "kb") == AB


def test_an_update_makes_the_pairs_of_the_agents_keys_due() -> None:
    owners = index()
    assert owners.put("a", {"ka": ("wg0",)}, frozenset((AB, AC)), 2) == {AB, AC}
    assert set(owners.pairs()) == {AB, AC, BC}
    assert owners.pairs_of("b") == {AB, BC}


def test_a_new_owner_makes_pairs_of_other_agents_due() -> None:
    assert index().put("d", {"kb": ("wg0",)}, frozenset(), 2) == {AB, BC}


def test_a_changed_key_makes_the_pairs_of_both_keys_due_and_has_a_former_owner() -> None:
    owners = index()
    changed = pair_of("ka2", "kb")
    assert owners.put("a", {"ka2": ("wg0",)}, frozenset((changed,)), 2) == {AB, AC, changed}
    assert owners.holders("ka") == {}
    assert owners.holders("ka2") == {"a": ("wg0",)}
    assert owners.former_holders("ka") == {"a": Former("wg0", 2)} == {"a": owners.former_keys("a")["ka"]}
    # B still lists the former key, so every report of A makes its pair due.
    assert owners.put("a", {"ka2": ("wg0",)}, frozenset((changed,)), 3) == {AB, AC, changed}
    # The key returns.
    owners.put("a", {"ka": ("wg0",)}, frozenset((AB, AC)), 4)
    assert owners.former_holders("ka") == {}
    assert owners.former_keys("a") == {"ka2": Former("wg0", 4)}


def test_the_former_keys_of_an_agent_are_limited_to_the_newest_ones() -> None:
    owners = Owners()
    for number in range(100):
        owners.put("a", {f"k{number}": ("wg0",)}, frozenset(), number)
    assert list(owners.former_keys("a")) == [f"k{number}" for number in range(83, 99)]
    assert [number for number in range(100) if owners.former_holders(f"k{number}")] == list(range(83, 99))


def test_a_pair_ends_with_the_last_agent_that_lists_it() -> None:
    owners = index()
    owners.put("a", KEYS, frozenset(), 2)
    assert set(owners.pairs()) == {AB, AC, BC}
    assert owners.put("b", {"kb": ("wg0",)}, frozenset(), 2) == {AB, BC}
    assert set(owners.pairs()) == {AC, BC}


def test_removed_agents_leave_nothing_behind() -> None:
    owners = index()
    owners.put("a", {"ka2": ("wg0",)}, frozenset(), 2)
    assert owners.remove("a") == {AB, AC}
    for name in "bcd":
        owners.remove(name)
    assert (list(owners.pairs()), owners.holders("kb"), owners.former_holders("ka")) == ([], {}, {})
    assert owners.pairs_of("a") == owners.remove("a") == set()
    assert owners.former_keys("a") == {}
