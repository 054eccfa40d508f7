"""`kattila-manager keys` and `refresh-key`."""

from __future__ import annotations

import json
from pathlib import Path

from kattila_keys.ring_file import StoredRing
from kattila_manager import wording
from kattila_protocol.ring import MOST_KEPT_MS
from support.commands import OLD_KEY, TWO, failed, run, with_dns
from support.fleet import Fleet
from support.knot import running_knot
from support.manager import Manager, now_ms
from support.reports import KEY, PSK, report, ring_of


def test_keys_shows_whether_a_rotation_is_complete(manager: Manager, fleet: Fleet) -> None:
    shown = run(manager, "keys").stdout
    assert (
        f"[2/3] The rotation to {KEY.fingerprint} is not complete: {TWO.hostname} uses {OLD_KEY.fingerprint}." in shown
    )
    assert [line.split()[:2] for line in shown.splitlines()[1:3]] == [
        [KEY.fingerprint, "current"],
        [OLD_KEY.fingerprint, "previous"],
    ]
    fleet.file(report(TWO, 3, now_ms()))
    assert f"[3/3] All agents sign with {KEY.fingerprint}." in run(manager, "keys").stdout


def test_keys_as_json_contains_no_key(manager: Manager, fleet: Fleet) -> None:
    shown = run(manager, "keys", "--json").stdout
    members = json.loads(shown)
    assert (members["current"], members["rotation_complete"]) == (KEY.fingerprint, False)
    assert members["keys"][1]["agents"] == [TWO.agent_id]
    for key in (KEY, OLD_KEY):
        assert key.psk.hex() not in shown
        assert key.psk.decode() not in shown


def test_keys_without_a_ring(tmp_path: Path) -> None:
    manager = Manager(tmp_path, ring=None)
    assert run(manager, "keys").stdout.startswith("No key is known yet: ")
    (tmp_path / "kattila_ring.json").write_text("damaged")
    (tmp_path / "kattila_ring.json").chmod(0o600)
    assert "is damaged" in failed(manager, "keys")


def test_refresh_key_queries_dns(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK], "other": [OLD_KEY.psk]}) as knot:
        manager = with_dns(tmp_path, knot, "kattila", ring=None)
        assert run(manager, "refresh-key").stdout == f"the current key is now {KEY.fingerprint} (before: none)\n"
        manager = with_dns(tmp_path, knot, "other", ring=None)
        manager.ring_file.update(lambda stored: StoredRing(stored.ring))
        shown = run(manager, "refresh-key").stdout
        assert shown == f"the current key is now {OLD_KEY.fingerprint} (before: {KEY.fingerprint})\n"
        assert "is still" in run(manager, "refresh-key").stdout
        manager = with_dns(tmp_path, knot, "missing", ring=None)
        manager.ring_file.update(lambda stored: StoredRing(stored.ring))
        message = failed(manager, "refresh-key")
    assert "missing.example.org" in message
    assert message.endswith(f"; the last good key {OLD_KEY.fingerprint} stays in use\n")


def test_keys_forget_removes_a_key(manager: Manager, fleet: Fleet) -> None:
    done = run(manager, "keys", "forget", OLD_KEY.fingerprint.upper())
    assert done.stdout == f"forgot {OLD_KEY.fingerprint}; the current key is {KEY.fingerprint}\n"
    assert f"{OLD_KEY.fingerprint}  no longer in the ring" in run(manager, "keys").stdout
    assert f"{OLD_KEY.fingerprint} is not in the ring, which holds {KEY.fingerprint}" in failed(
        manager, "keys", "forget", OLD_KEY.fingerprint
    )
    assert f"{KEY.fingerprint} is the only key" in failed(manager, "keys", "forget", KEY.fingerprint)


def test_keys_shows_a_key_on_trial_and_when_the_others_leave(tmp_path: Path) -> None:
    with running_knot({"kattila": [OLD_KEY.psk]}) as knot:
        manager = with_dns(tmp_path, knot, "kattila", ring=ring_of(KEY))
        manager.ring_file.update(lambda stored: StoredRing(stored.ring))
        run(manager, "refresh-key")
        head, new, old = run(manager, "keys").stdout.splitlines()[:3]
        members = json.loads(run(manager, "keys", "--json").stdout)["keys"]
    assert new.startswith(f"{OLD_KEY.fingerprint}  current, on trial  ")
    assert [key["standing"] for key in members] == ["trial", "first"]
    # The first answer with the new key was also the first without the old one.
    assert [key["expires_at"] for key in members] == [None, members[0]["first_seen_at"] + MOST_KEPT_MS]
    leaves = wording.moment(members[1]["expires_at"])
    assert old[head.index("LEAVES") :].startswith(leaves)
