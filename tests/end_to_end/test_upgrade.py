"""`serve` migrates the database of an older version without losing data."""

from __future__ import annotations

import json
from pathlib import Path

from kattila_manager.store import database
from support.fleet import HOUR, MINUTE, fleet_in
from support.manager import Manager, now_ms
from support.reports import body, node, nonce_of, report, sealed
from support.store import copy_rows, older_database, sqlite

ONE, TWO = node(1), node(2)
SAMPLES = 300


def old_manager(folder: Path, now: int) -> Manager:
    """Prepare a manager on a database of the first schema with reports of two agents."""
    (folder / "filled").mkdir()
    with fleet_in(folder / "filled") as fleet:
        for sample in range(1, SAMPLES + 1):
            for sender in (ONE, TWO):
                fleet.file(report(sender, sample, now - (SAMPLES - sample) * MINUTE))
        copy_rows(fleet.database, older_database(folder, "0001"))
    return Manager(folder)


def test_a_database_of_the_first_schema_is_backed_up_migrated_and_used(tmp_path: Path) -> None:
    now = now_ms()
    manager = old_manager(tmp_path, now)
    with sqlite(manager.database) as connection:
        before = connection.execute("SELECT id, body FROM reports ORDER BY id").fetchall()
    assert "was made by an older version: start 'kattila-manager serve'" in manager.command("agents").stderr
    manager.start()
    try:
        newest = manager.post(body(ONE, SAMPLES + 2, now_ms())).verdict(nonce_of(ONE, SAMPLES + 2, SAMPLES + 2))
        assert (newest.outcome, newest.highest_sample) == ("accepted", SAMPLES + 2)
        spooled = report(ONE, SAMPLES + 1, now_ms(), tick=SAMPLES + 3, sampled_at=now_ms() - HOUR)
        assert manager.post(sealed(spooled)).verdict(spooled.nonce).outcome == "accepted"
        assert manager.rows("SELECT id, body FROM reports ORDER BY id")[: 2 * SAMPLES] == before
        assert manager.rows("SELECT sample FROM reports WHERE sampled_at IS NOT NULL") == [(SAMPLES + 1,)]
        assert {agent["hostname"] for agent in json.loads(manager.command("agents", "--json").stdout)["agents"]} == {
            ONE.hostname,
            TWO.hostname,
        }
        assert f"{2 * SAMPLES + 2} reports read, {2 * SAMPLES + 2} MACs verified" in manager.command("check").stdout
    finally:
        manager.kill()
    [backup] = tmp_path.glob("kattila_manager-*-schema-0001.db")
    with sqlite(backup) as connection:
        assert connection.execute("SELECT id, body FROM reports ORDER BY id").fetchall() == before
    newest_schema = database.revisions()[-1]
    assert f"migrating the database from schema 0001 to {newest_schema}; the backup is {backup}" in manager.log
