"""The manager during a rotation of the PSK in DNS, and while DNS is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_keys.ring_file import StoredRing
from kattila_protocol import registration
from kattila_protocol.registration import Registration
from kattila_protocol.signing import Key
from support.knot import ZONE, Knot, running_knot
from support.manager import REGISTER, Manager, Reply, now_ms, running_manager
from support.reports import node, nonce_of, report, ring_of, sealed
from support.waiting import wait_for

PSKS = [f"psk number {number} of the rotation tests".encode() for number in range(6)]
KEYS = [Key.from_psk(psk) for psk in PSKS]
NAME = "rotation"
# A refresh is neither due nor too early.
QUERY_AGE_MS = 10 * 60 * 1000


@pytest.fixture
def knot() -> Iterator[Knot]:
    with running_knot({NAME: [PSKS[3]]}) as running:
        yield running


def send(manager: Manager, key: Key, sample: int) -> Reply:
    return manager.post(sealed(report(node(1), sample, now_ms()), key))


def outcome(reply: Reply, sample: int) -> str:
    return reply.verdict(nonce_of(node(1), sample, sample), ring_of(*KEYS)).outcome


def wait_for_a_key(manager: Manager) -> None:
    """Wait for the answer to the DNS query at the start."""
    wait_for(lambda: manager.ring_file.read().ring.entries, lambda: f"a key:\n{manager.log}")


def age_last_query(manager: Manager) -> None:
    """Set the last DNS query to ten minutes ago."""

    def aged(stored: StoredRing) -> StoredRing:
        queried_at = now_ms() - QUERY_AGE_MS
        return StoredRing(stored.ring, asked_at=queried_at, answered_at=queried_at)

    manager.ring_file.update(aged)


def test_the_current_and_two_previous_keys_are_accepted_and_no_older_one(tmp_path: Path, knot: Knot) -> None:
    with running_manager(
        tmp_path, ring=ring_of(KEYS[3], KEYS[2], KEYS[1]), DNS=f"{NAME}.{ZONE}", DNS_SERVER=knot.address
    ) as manager:
        for sample, number in enumerate((3, 2, 1), start=1):
            assert outcome(send(manager, KEYS[number], sample), sample) == "accepted"
        for number in (0, 5):
            refused = send(manager, KEYS[number], 9)
            assert (refused.status, refused.kind, refused.is_signed) == (403, "bad_signature", False)


def test_a_new_key_in_dns_is_accepted_after_one_query(tmp_path: Path, knot: Knot) -> None:
    with running_manager(tmp_path, ring=ring_of(KEYS[3]), DNS=f"{NAME}.{ZONE}", DNS_SERVER=knot.address) as manager:
        assert outcome(send(manager, KEYS[3], 1), 1) == "accepted"
        knot.set_txt(NAME, PSKS[4])
        age_last_query(manager)
        for sample in (2, 3, 4):
            assert outcome(send(manager, KEYS[4], sample), sample) == "accepted"
        # The previous key is still accepted, and the database shows which key was used.
        assert outcome(send(manager, KEYS[3], 5), 5) == "accepted"
        assert manager.rows("SELECT fingerprint FROM agents") == [(KEYS[3].fingerprint,)]
        # Within a minute an unknown key of an unknown sender causes no further query.
        knot.set_txt(NAME, PSKS[5])
        assert manager.post(sealed(report(node(2), 6, now_ms()), KEYS[5])).status == 403
        ring = [entry.key.fingerprint for entry in manager.ring_file.read().ring.entries]
        assert ring == [KEYS[4].fingerprint, KEYS[3].fingerprint]
        assert not any(psk.decode() in manager.log for psk in PSKS)


@pytest.mark.parametrize("first", ["a report", "a registration"])
def test_the_first_agent_that_moves_is_accepted_right_after_another_query(
    tmp_path: Path, knot: Knot, first: str
) -> None:
    with running_manager(tmp_path, ring=ring_of(KEYS[3]), DNS=f"{NAME}.{ZONE}", DNS_SERVER=knot.address) as manager:
        assert outcome(send(manager, KEYS[3], 1), 1) == "accepted"
        assert manager.command("refresh-key").returncode == 0
        knot.set_txt(NAME, PSKS[4])
        if first == "a registration":
            mine = Registration(node(1).agent_id, node(1).boot_id, "a", node(1).hardware, f"{99:032x}", now_ms())
            reply = manager.post(registration.seal(mine, KEYS[4]), REGISTER)
            assert reply.status == 200, reply.body
        else:
            assert outcome(send(manager, KEYS[4], 2), 2) == "accepted"
        assert manager.rows("SELECT * FROM refusals WHERE kind = 'bad_signature'") == []


def test_the_last_good_keys_stay_in_use_while_dns_is_down(tmp_path: Path, knot: Knot) -> None:
    with running_manager(tmp_path, ring=None, DNS=f"{NAME}.{ZONE}", DNS_SERVER=knot.address) as manager:
        wait_for_a_key(manager)
        assert outcome(send(manager, KEYS[3], 1), 1) == "accepted"
        knot.stop()
        age_last_query(manager)
        assert send(manager, KEYS[4], 2).status == 403
        assert outcome(send(manager, KEYS[3], 3), 3) == "accepted"
        manager.kill()
        manager.start()
        assert outcome(send(manager, KEYS[3], 4), 4) == "accepted"


def test_a_manager_without_key_refuses_with_no_key(tmp_path: Path) -> None:
    with running_manager(tmp_path, ring=None) as manager:
        reply = send(manager, KEYS[3], 1)
        assert (reply.status, reply.kind, reply.is_signed) == (503, "no_key", False)
        assert int(reply.headers["retry-after"]) > 0
        assert manager.get("/status/healthcheck").status == 200
