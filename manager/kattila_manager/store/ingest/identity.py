"""Decides which machine holds an agent id, from boots and hardware addresses.

A reboot never brings back an earlier boot_id. So if a boot_id returns after another one was seen, two machines use the
id. The newcomer is the one without the hardware addresses that the id is bound to; otherwise the boot seen later.

Containers of one host share its boot_id. If hardware returns within a boot after disjoint hardware was seen, two
machines use the id as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

# A machine with other hardware takes over an id once the holder was silent for four intervals of 30 s. By then a live
# holder has reported, and proven that there are two machines.
SILENCE_MS = 2 * 60 * 1000
# Two machines alternate within a few intervals. Later, somebody has plugged the old network card in again.
ALTERNATING_MS = 10 * 60 * 1000
# A boot with more addresses than this keeps only the newest ones. A claim has no more of them.
_MOST_ADDRESSES = 256


class Ruling(Enum):
    """The decision on a claim to an id."""

    HOLDER = auto()
    UNPROVEN = auto()
    CONFLICT = auto()


@dataclass(frozen=True, slots=True)
class Claim:
    """A machine's claim to an id: its boot, its hardware addresses, and those of its virtual interfaces, too."""

    boot_id: str
    hardware: frozenset[str]
    others: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Identity:
    """The machine that holds an id.

    The id is bound to `hardware`; `boot_hardware` are the addresses of the current boot. `challenger` is the boot of
    another machine that recently claimed the id, or "". `former` and `refused` are earlier boots. Under the current
    boot, `displaced` are sets of hardware that other hardware recently followed, and `refused_hardware` those of
    other machines.
    """

    boot_id: str
    boot_hardware: frozenset[str]
    hardware: frozenset[str]
    challenger: str = ""
    former: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    displaced: frozenset[frozenset[str]] = frozenset()
    refused_hardware: frozenset[frozenset[str]] = frozenset()


def limited(hardware: frozenset[str]) -> frozenset[str]:
    """Return the hardware addresses of a claim, of very many always the same ones.

    They are kept for as long as the id, in several columns.
    """
    return hardware if len(hardware) <= _MOST_ADDRESSES else frozenset(sorted(hardware)[:_MOST_ADDRESSES])


def bind(claim: Claim) -> Identity:
    """Return the identity of an id that no machine held before."""
    return Identity(claim.boot_id, claim.hardware, claim.hardware)


def judge(identity: Identity, claim: Claim, silent_ms: int, *, is_newest: bool) -> tuple[Ruling, Identity]:
    """Judge a claim, `silent_ms` after the holder's last message; return the ruling and the new identity.

    Only the newest message under the id proves that its machine is alive, and that there are two. An older one may be
    a replay, captured before a reboot.
    """
    if claim.boot_id == identity.boot_id:
        return _judge_within_boot(identity, claim, is_newest=is_newest)
    if claim.boot_id in identity.refused:
        return Ruling.CONFLICT, identity
    if claim.boot_id in identity.former or _is_owner_against(identity, claim):
        if not is_newest:
            return Ruling.UNPROVEN, identity
        return Ruling.HOLDER, _take_over(_refuse(identity, identity.boot_id), claim)
    if _share(claim.hardware, identity.boot_hardware) or silent_ms >= SILENCE_MS:
        return Ruling.HOLDER, _take_over(identity, claim)
    return Ruling.UNPROVEN, replace(identity, challenger=claim.boot_id)


def _judge_within_boot(identity: Identity, claim: Claim, *, is_newest: bool) -> tuple[Ruling, Identity]:
    known, shown = identity.boot_hardware, claim.hardware | claim.others
    if _share(claim.hardware, known) or shown & known:
        grown = known | claim.hardware
        identity = replace(identity, boot_hardware=grown if len(grown) <= _MOST_ADDRESSES else claim.hardware)
    elif any(hardware & shown for hardware in identity.refused_hardware):
        return Ruling.CONFLICT, identity
    elif not is_newest:
        return Ruling.HOLDER, identity
    elif not any(hardware & shown for hardware in identity.displaced):
        # Its network card was changed, unless the displaced hardware returns.
        identity = replace(identity, boot_hardware=claim.hardware, displaced=identity.displaced | {known})
    elif known & identity.hardware and not shown & identity.hardware:
        return Ruling.CONFLICT, _refuse_hardware(identity, claim.hardware)
    else:
        identity = replace(_refuse_hardware(identity, known), boot_hardware=claim.hardware)
    return Ruling.HOLDER, _refuse(identity, identity.challenger) if is_newest else identity


def _refuse_hardware(identity: Identity, hardware: frozenset[str]) -> Identity:
    displaced = frozenset(each for each in identity.displaced if not each & hardware)
    return replace(identity, displaced=displaced, refused_hardware=identity.refused_hardware | {hardware})


def _is_owner_against(identity: Identity, claim: Claim) -> bool:
    owns = bool(claim.hardware & identity.hardware)
    return owns and not _share(identity.boot_hardware, identity.hardware)


def _share(one: frozenset[str], other: frozenset[str]) -> bool:
    return not one or not other or bool(one & other)


def _refuse(identity: Identity, boot_id: str) -> Identity:
    if not boot_id:
        return identity
    return replace(identity, challenger="", refused=identity.refused | {boot_id}, former=identity.former - {boot_id})


def _take_over(identity: Identity, claim: Claim) -> Identity:
    former = (identity.former | {identity.boot_id}) - identity.refused - {claim.boot_id, ""}
    bound = claim.hardware if _share(claim.hardware, identity.hardware) else identity.hardware
    return replace(
        identity,
        boot_id=claim.boot_id,
        boot_hardware=claim.hardware,
        hardware=bound or identity.hardware,
        challenger="",
        former=former,
        displaced=frozenset(),
        refused_hardware=frozenset(),
    )
