"""`kattila-manager check`."""

from __future__ import annotations

from pathlib import Path

from support.commands import OLD_KEY, ONE, TWO, run, with_dns
from support.fleet import damage, fleet_in
from support.knot import running_knot
from support.manager import Manager, now_ms
from support.reports import KEY, PSK, RING, node, report


def test_check_of_a_healthy_manager(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot, fleet_in(tmp_path) as fleet:
        manager = with_dns(tmp_path, knot, "kattila", ring=RING)
        for sample in range(1, 41):
            fleet.file(report(ONE, sample, now_ms()))
        fleet.file(report(TWO, 1, now_ms()), key=OLD_KEY)
        lines = run(manager, "check").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 5
    assert lines[1].endswith(f"kattila.example.org holds the key {KEY.fingerprint}")
    assert lines[4].endswith("41 reports read, 40 MACs verified, 1 signed with a key that is no longer in the ring")


def test_check_finds_problems_of_reports(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot, fleet_in(tmp_path) as fleet:
        manager = with_dns(tmp_path, knot, "kattila", ring=RING)
        for sample in range(1, 7):
            fleet.file(report(node(sample), sample, now_ms()))
        damage(fleet, 1)
        fleet.change("UPDATE reports SET mac = zeroblob(32) WHERE id = 2")
        fleet.change("UPDATE reports SET sample = 77 WHERE id = 3")
        fleet.change("UPDATE reports SET base_id = 999 WHERE id = 4")
        fleet.change("UPDATE reports SET body = x'00' WHERE id = 5")
        shown = run(manager, "check", code=1).stdout
    assert "WRONG  reports: 6 reports read, 1 MACs verified" in shown
    assert "report 1 cannot be read" in shown
    assert f"report 2 of {node(2).agent_id} (sample 2) does not match its MAC" in shown
    assert "report 3 names another agent, sample or tick than its row" in shown
    assert "report 4 cannot be read" in shown
    assert "report 5 cannot be read" in shown


def test_check_without_dns_and_database_reports_both(tmp_path: Path) -> None:
    shown = run(Manager(tmp_path, ring=None, DNS=""), "check", code=1).stdout
    lines = [line for line in shown.splitlines() if not line.startswith("  ")]
    assert [line.split()[0] for line in lines] == ["ok", "WRONG", "WRONG", "WRONG"]
    assert "DNS is not set" in shown
    assert "refresh-key" in shown
    assert "there is no database" in shown


def test_check_names_no_other_key_if_the_ring_has_none(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot:
        shown = run(with_dns(tmp_path, knot, "kattila", ring=None), "check", code=1).stdout
    assert f"kattila.example.org holds the key {KEY.fingerprint}\n" in shown
    assert "the ring has no key: run 'kattila-manager refresh-key'" in shown


def test_check_finds_a_damaged_file(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot:
        with fleet_in(tmp_path) as fleet:
            for sample in range(1, 200):
                fleet.file(report(ONE, sample, now_ms()))
        manager = with_dns(tmp_path, knot, "kattila", ring=RING)
        path = fleet.database
        content = bytearray(path.read_bytes())
        # A page of the file after the schema.
        content[-3 * 4096 : -2 * 4096] = b"\xff" * 4096
        path.write_bytes(content)
        done = manager.command("check")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "WRONG  database" in done.stdout
