"""Who holds an id: the rules for boots and hardware addresses, as a table and as scenarios."""

from __future__ import annotations

from itertools import permutations

import pytest

from kattila_manager.store.ingest.identity import SILENCE_MS, Claim, Identity, Ruling, bind, judge
from kattila_protocol.registration import identifying_addresses, normalised_addresses
from kattila_protocol.report import Interface

MINE, OTHERS, NEW = frozenset({"02:00:00:00:00:01"}), frozenset({"02:00:00:00:00:02"}), frozenset({"02:00:00:00:00:03"})
NONE: frozenset[str] = frozenset()
HELD = bind(Claim("boot-1", MINE))
REBOOTED = judge(HELD, Claim("boot-2", MINE), 0, is_newest=True)[1]
CHALLENGED = judge(HELD, Claim("clone", OTHERS), 0, is_newest=True)[1]
PROVEN = judge(CHALLENGED, Claim("boot-1", MINE), 0, is_newest=True)[1]
TAKEN_OVER = judge(HELD, Claim("clone", OTHERS), SILENCE_MS, is_newest=True)[1]

HOLDER, UNPROVEN, CONFLICT = Ruling.HOLDER, Ruling.UNPROVEN, Ruling.CONFLICT

TABLE = {
    "the same boot again": (HELD, Claim("boot-1", MINE), 0, HOLDER),
    "the same boot after a new interface came": (HELD, Claim("boot-1", MINE | NEW), 0, HOLDER),
    "the same boot with all its hardware changed": (HELD, Claim("boot-1", NEW), 0, HOLDER),
    "a reboot": (HELD, Claim("boot-2", MINE), 0, HOLDER),
    "a reboot with one interface more": (HELD, Claim("boot-2", MINE | NEW), 0, HOLDER),
    "a reboot that shows no hardware yet": (HELD, Claim("boot-2", NONE), 0, HOLDER),
    "a second reboot": (REBOOTED, Claim("boot-3", MINE), 0, HOLDER),
    "other hardware, the holder heard a moment ago": (HELD, Claim("clone", OTHERS), SILENCE_MS - 1, UNPROVEN),
    "other hardware, the holder silent": (HELD, Claim("clone", OTHERS), SILENCE_MS, HOLDER),
    "other hardware again, still unproven": (CHALLENGED, Claim("clone", OTHERS), SILENCE_MS - 1, UNPROVEN),
    "the challenger once the holder is silent": (CHALLENGED, Claim("clone", OTHERS), SILENCE_MS, HOLDER),
    "a second challenger": (CHALLENGED, Claim("clone-2", NEW), 0, UNPROVEN),
    "the holder while it is challenged": (CHALLENGED, Claim("boot-1", MINE), 0, HOLDER),
    "the challenger after the holder reported": (PROVEN, Claim("clone", OTHERS), 0, CONFLICT),
    "the proven newcomer, whatever the silence": (PROVEN, Claim("clone", OTHERS), 10 * SILENCE_MS, CONFLICT),
    "the proven newcomer after its own reboot": (PROVEN, Claim("clone-reboot", OTHERS), 0, UNPROVEN),
    "the holder after it all": (PROVEN, Claim("boot-1", MINE), 0, HOLDER),
    "the holder's reboot after it all": (PROVEN, Claim("boot-2", MINE), 0, HOLDER),
    "a boot that comes back: a clone with the same hardware": (REBOOTED, Claim("boot-1", MINE), 0, HOLDER),
    "the owner of the hardware against who took over": (TAKEN_OVER, Claim("boot-1", MINE), 0, HOLDER),
    "the owner rebooted against who took over": (TAKEN_OVER, Claim("boot-2", MINE), 0, HOLDER),
    "who took over continues": (TAKEN_OVER, Claim("clone", OTHERS), 0, HOLDER),
    "who took over reboots": (TAKEN_OVER, Claim("clone-reboot", OTHERS), 0, HOLDER),
}


@pytest.mark.parametrize("case", TABLE)
def test_ruling(case: str) -> None:
    known, claim, silent_ms, expected = TABLE[case]
    assert judge(known, claim, silent_ms, is_newest=True)[0] is expected


@pytest.mark.parametrize("case", TABLE)
def test_a_repeated_claim_gets_the_same_ruling(case: str) -> None:
    known, claim, silent_ms, expected = TABLE[case]
    once = judge(known, claim, silent_ms, is_newest=True)[1]
    assert judge(once, claim, 0, is_newest=True) == (expected, once)


def test_with_equal_hardware_the_first_boot_keeps_the_id() -> None:
    ruling, after = judge(REBOOTED, Claim("boot-1", MINE), 0, is_newest=True)
    assert ruling is HOLDER
    assert judge(after, Claim("boot-2", MINE), 0, is_newest=True)[0] is CONFLICT
    assert judge(after, Claim("boot-1", MINE), 0, is_newest=True)[0] is HOLDER


def test_the_owner_of_the_hardware_gets_its_id_back_and_the_newcomer_is_refused() -> None:
    for boot in ("boot-1", "boot-2"):
        after = judge(TAKEN_OVER, Claim(boot, MINE), 0, is_newest=True)[1]
        assert judge(after, Claim("clone", OTHERS), 0, is_newest=True)[0] is CONFLICT
        assert judge(after, Claim(boot, MINE), 0, is_newest=True)[0] is HOLDER


@pytest.mark.parametrize("order", sorted(set(permutations(["original", "clone", "original", "clone"]))))
def test_in_any_order_the_first_keeps_its_id_and_two_holders_never_last(order: tuple[str, ...]) -> None:
    claims = {"original": Claim("boot-1", MINE), "clone": Claim("clone", OTHERS)}
    known, last = HELD, {}
    for who in (*order, *order):
        last[who], known = judge(known, claims[who], 0, is_newest=True)
    assert last == {"original": HOLDER, "clone": CONFLICT}
    assert known.boot_id == "boot-1"
    assert known.hardware == MINE


@pytest.mark.parametrize("known", [HELD, REBOOTED, CHALLENGED, PROVEN, TAKEN_OVER])
@pytest.mark.parametrize("claim", [Claim("boot-1", MINE), Claim("boot-2", MINE), Claim("clone", OTHERS)])
def test_a_possibly_old_message_proves_nothing_against_the_current_boot(known: Identity, claim: Claim) -> None:
    was_seen = claim.boot_id in known.former | known.refused | {known.boot_id}
    ruling, after = judge(known, claim, 0, is_newest=False)
    assert after.refused == known.refused
    if was_seen:
        assert after == known
    if claim.boot_id in known.former:
        assert ruling is UNPROVEN


def link(name: str, address: str | None, kind: str | None = None, *flags: str) -> Interface:
    return Interface(1, name, kind, flags, "UP", 1500, address, ())


def test_virtual_links_count_as_hardware_only_without_physical_ones() -> None:
    loopback = link("lo", "00:00:00:00:00:00", None, "LOOPBACK")
    bridge, tunnel = link("br0", "02:00:00:00:00:09", "bridge"), link("wg0", None, "wireguard")
    card = link("eth0", "02:00:00:00:00:01")
    assert identifying_addresses([loopback, bridge, card, tunnel]) == {"02:00:00:00:00:01"}
    assert identifying_addresses([loopback, bridge, tunnel]) == {"02:00:00:00:00:09"}
    assert identifying_addresses([loopback, tunnel, link("dummy", "00:00:00:00:00:00")]) == NONE
    assert identifying_addresses([]) == NONE


def test_hardware_addresses_ignore_case() -> None:
    assert identifying_addresses([link("eth0", "02:00:5E:00:00:0A")]) == {"02:00:5e:00:00:0a"}
    assert normalised_addresses(["02:00:5E:00:00:0A", "02:00:5e:00:00:0a", "00:00:00:00:00:00", "", None]) == {
        "02:00:5e:00:00:0a"
    }
