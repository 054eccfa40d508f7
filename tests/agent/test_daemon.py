"""The real daemon against a stand-in for the manager and a real DNS server."""

from __future__ import annotations

import ctypes
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kattila_agent.daemon import JITTER, next_due
from kattila_protocol import canonical
from kattila_protocol.errors import ClockSkew, IdentityConflict, Overloaded, Replay
from kattila_protocol.names import is_id
from kattila_protocol.signing import fingerprint
from support.agent_folder import AGENT_ID, OTHER_PSK, PSK, dead_dns, keep_id, keep_ring, last_sample, settings
from support.agent_process import PATIENT_AGENT, run_agent, running_daemon
from support.knot import Knot, free_port
from support.manager_stand_in import (
    REGISTER,
    UPDATES,
    Rule,
    accept,
    refuse,
    running_stand_in,
    signed_with,
    unsigned,
)
from support.waiting import ENDLESS_SECONDS, PATIENCE_SECONDS, wait_for

OTHER_ID = "22222222-2222-4222-8222-222222222222"


def test_the_first_report_goes_at_once(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK) | {"INTERVAL": str(int(ENDLESS_SECONDS))}
        with running_daemon(tmp_path, **chosen):
            manager.wait_for_reports(1)


def test_reports_arrive_in_every_interval(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        began = time.monotonic()
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK), LABELS="site=north") as daemon:
            reports = manager.wait_for_reports(4)
            code = daemon.stop()
        members = [report.members for report in reports]
        # Three whole intervals after the first cycle was due, less the jitter.
        assert reports[3].arrived_at - began > 3 * (1 - JITTER)
        assert [report["sample"] for report in members] == [1, 2, 3, 4]
        assert [report["tick"] for report in members] == [1, 2, 3, 4]
        assert {report["agent_id"] for report in members} == {(tmp_path / "agent_id.txt").read_text().strip()}
        assert len({report["nonce"] for report in members}) == 4
        assert members[0]["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert members[0]["telemetry"]["system"]["labels"] == {"site": "north"}
        telemetry = reports[0].telemetry
        assert telemetry["failures"] == []
        assert (telemetry["interval_seconds"], telemetry["keys"]) == (1, [[fingerprint(PSK), "current"]])
        assert 0 < telemetry["since_boot_ms"] < reports[1].telemetry["since_boot_ms"]
        assert code == 0
        registered = [request.members for request in manager.registrations()]
        assert [request["agent_id"] for request in registered] == [members[0]["agent_id"]]
        assert registered[0]["to"] == "manager"
    assert PSK.decode() not in daemon.log
    assert daemon.log.count("the manager takes the reports") == 1
    assert fingerprint(PSK) in daemon.log
    assert stat.S_IMODE((tmp_path / "ring.json").stat().st_mode) == 0o600


def test_a_report_contains_the_route_to_the_manager_and_the_last_clock_offset(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        manager.next_answer(UPDATES, accept(clock_offset=-1234), refuse(ClockSkew("far"), clock_offset=700_000))
        named = manager.url.replace("127.0.0.1", "localhost")
        with running_daemon(tmp_path, **settings(knot, named, PSK)):
            first, second, third = [report.telemetry for report in manager.wait_for_reports(3)[:3]]
    offsets = [telemetry["clock"]["clock_offset"] for telemetry in (first, second, third)]
    assert offsets == [None, -1234, 700_000]
    # Before a name was resolved, it has no address.
    assert first["lookups"] == []
    (lookup,) = second["lookups"]
    assert lookup[:5] == ["manager", None, "127.0.0.1", 0, "lo"]
    assert [run["collector"] for run in second["runs"]][-1] == "lookups"
    assert all(run["duration_us"] > 0 for run in second["runs"])


def test_the_route_to_a_manager_with_an_address_is_in_the_first_report(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager, running_daemon(tmp_path, **settings(knot, manager.url, PSK)):
        telemetry = manager.wait_for_reports(1)[0].telemetry
    assert [lookup[2] for lookup in telemetry["lookups"]] == ["127.0.0.1"]


def test_the_connection_is_kept_between_reports(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager, running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
        manager.wait_for_reports(1)
        first = established_to(daemon.process.pid, manager.url)
        manager.wait_for_reports(3)
        assert first == established_to(daemon.process.pid, manager.url) != set()


def established_to(pid: int, url: str) -> set[str]:
    port = url.rpartition(":")[2]
    listed = subprocess.check_output(["ss", "-Htnp", "dport", "=", f":{port}"], text=True).splitlines()
    return {line.split()[3] for line in listed if f"pid={pid}," in line}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_without_waiting_for_a_silent_manager(knot: Knot, tmp_path: Path, number: int) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with running_daemon(tmp_path, program=PATIENT_AGENT, **settings(knot, url, PSK)) as daemon:
            daemon.wait_for_log("answers on")
            connection, _ = silent.accept()
            with connection:
                assert daemon.stop(number) == 0


def test_it_stops_whichever_thread_receives_the_signal(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager, running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
        manager.wait_for_reports(1)
        main = daemon.process.pid
        others = [int(path.name) for path in Path(f"/proc/{main}/task").iterdir() if path.name != str(main)]
        # As the kernel may choose (signal(7)), and once in hundreds of restarts did.
        assert ctypes.CDLL(None).tgkill(main, max(others), signal.SIGTERM) == 0
        assert daemon.process.wait(PATIENCE_SECONDS) == 0
    assert "stopped (SIGTERM)" in daemon.log


def test_a_replay_heals(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        manager.next_answer(UPDATES, accept(), refuse(Replay("behind"), highest_tick=700, highest_sample=300))
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
            members = [report.members for report in manager.wait_for_reports(4)]
            daemon.stop()
    assert [(report["tick"], report["sample"]) for report in members[:4]] == [(1, 1), (2, 2), (701, 301), (702, 302)]
    assert members[1]["sampled_at"] == members[2]["sampled_at"]
    assert members[1]["nonce"] != members[2]["nonce"]
    assert daemon.log.count("continuing above tick 700") == 1


def test_registration_raises_the_numbers(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        manager.next_answer(REGISTER, accept(highest_tick=40, highest_sample=30))
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK)):
            report = manager.wait_for_reports(1)[0].members
    assert (report["tick"], report["sample"]) == (41, 31)


def test_an_issued_id_is_adopted(knot: Knot, tmp_path: Path) -> None:
    keep_id(tmp_path)
    with running_stand_in(PSK) as manager:
        manager.next_answer(REGISTER, accept(agent_id=OTHER_ID))
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
            reports = manager.wait_for_reports(2)
    assert {report.members["agent_id"] for report in reports} == {OTHER_ID}
    assert (tmp_path / "agent_id.txt").read_text() == f"{OTHER_ID}\n"
    assert len(manager.registrations()) == 1
    assert f"registered as {OTHER_ID}; the manager issued this id" in daemon.log


def test_an_identity_conflict_leads_to_a_new_id(knot: Knot, tmp_path: Path) -> None:
    keep_id(tmp_path)
    with running_stand_in(PSK) as manager:
        manager.next_answer(UPDATES, refuse(IdentityConflict("another machine holds it")))
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
            first, second, third = (report.members for report in manager.wait_for_reports(3)[:3])
    assert first["agent_id"] == AGENT_ID
    assert is_id(second["agent_id"]) and second["agent_id"] != AGENT_ID
    assert third["agent_id"] == second["agent_id"]
    assert (second["tick"], second["sample"], second["sampled_at"]) == (1, 1, first["sampled_at"])
    assert [request.members["agent_id"] for request in manager.registrations()] == [AGENT_ID, second["agent_id"]]
    assert daemon.log.count("another machine reports as") == 1


def test_a_failed_registration_never_stops_reporting(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        manager.next_answer(REGISTER, refuse(Overloaded("too many")), accept())
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
            manager.wait_for_reports(3)
    assert len(manager.registrations()) == 1
    assert daemon.log.count("not registered, reporting anyway: too many") == 1


def test_an_unsigned_answer_is_not_a_delivery(knot: Knot, tmp_path: Path) -> None:
    answers: list[tuple[Rule, str]] = [
        (unsigned(), "no known key signed the manager's answer (HTTP 200), which says: "),
        (unsigned(403, b'{"detail":"\\u001b[31mgo away"}'), "(HTTP 403), which says: '\\u001b[31mgo away'"),
        (unsigned(302, b""), "(HTTP 302)"),
        (signed_with(OTHER_PSK), "which says: the MAC matches none of the 1 keys"),
        (unsigned(201, b"[" * 100_000), "(HTTP 201)"),
        (unsigned(200, b"x" * 300_000), "the manager cannot be reached: its answer is over 262144 bytes"),
        (accept(nonce="0" * 32), "the verdict has the nonce of another message"),
    ]
    with running_stand_in(PSK) as manager:
        manager.next_answer(UPDATES, *(rule for rule, _ in answers))
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
            log = daemon.wait_for_log("the manager takes the reports")
    places = [log.find(said) for _, said in answers]
    assert -1 not in places
    assert places == sorted(places)
    assert places[-1] < log.index("the manager takes the reports")
    assert "\x1b" not in log


def test_clock_skew_is_logged_once_with_the_difference(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        skewed = [refuse(ClockSkew("off"), clock_offset=-7_200_500 + number) for number in range(2)]
        manager.next_answer(UPDATES, *skewed)
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
            manager.wait_for_reports(3)
    assert daemon.log.count("clock is 7200.5 s behind the manager's") == 1
    assert daemon.log.count("this node's clock") == 1


def test_a_manager_that_starts_later(knot: Knot, tmp_path: Path) -> None:
    port = free_port()
    with running_daemon(tmp_path, **settings(knot, f"http://127.0.0.1:{port}", PSK)) as daemon:
        daemon.wait_for_log("the manager cannot be reached: connection refused")
        tried = last_sample(tmp_path)
        wait_for(lambda: last_sample(tmp_path) > tried + 1, "another cycle")
        with running_stand_in(PSK, port=port) as manager:
            manager.wait_for_reports(1)
            log = daemon.wait_for_log("the manager takes the reports")
    assert log.count("cannot be reached") == 1


def test_a_silently_closed_connection_is_retried_at_once(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        manager.next_answer(UPDATES, accept(), lambda request: None)
        with running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
            reports = manager.wait_for_reports(4)
    # The same message, signed again for the new connection.
    again = [(report.members["tick"], report.members["nonce"]) for report in reports[1:3]]
    assert again[0] == again[1]
    assert "cannot be reached" not in daemon.log


def test_a_node_that_boots_without_dns_reports_with_its_cached_key(tmp_path: Path) -> None:
    keep_ring(tmp_path, PSK)
    with (
        running_stand_in(PSK) as manager,
        dead_dns() as dns,
        running_daemon(tmp_path, program=PATIENT_AGENT, **dns, MANAGER_URL=manager.url, INTERVAL="1") as daemon,
    ):
        manager.wait_for_reports(1)
        assert daemon.stop() == 0


def test_a_missing_key_is_logged_once_and_reports_start_when_dns_has_one(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url)
        with running_daemon(tmp_path, **chosen) as daemon:
            daemon.wait_for_log("no PSK yet")
            time.sleep(2)
            assert manager.received == []
            knot.set_txt(chosen["DNS"].partition(".")[0], PSK)
            daemon.process.send_signal(signal.SIGHUP)
            manager.wait_for_reports(1)
    assert daemon.log.count("no PSK yet") == 1
    assert daemon.log.count(f"{chosen['DNS']} does not exist") == 1


def test_a_new_key_is_taken_after_a_refusal(knot: Knot, tmp_path: Path) -> None:
    keep_ring(tmp_path, OTHER_PSK)
    with running_stand_in(PSK) as manager, running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
        manager.wait_for_reports(1)
    assert f"the current key is {fingerprint(PSK)} (before: {fingerprint(OTHER_PSK)})" in daemon.log


def test_a_rotation_is_taken_at_sighup(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK)
        with running_daemon(tmp_path, **chosen) as daemon:
            manager.wait_for_reports(1)
            time.sleep(1.1)
            manager.psk = OTHER_PSK
            knot.set_txt(chosen["DNS"].partition(".")[0], OTHER_PSK)
            daemon.process.send_signal(signal.SIGHUP)
            manager.wait_for(lambda: manager.received[-1].key.fingerprint == fingerprint(OTHER_PSK))
            assert daemon.process.poll() is None


def test_proxies_of_the_environment_are_not_used(knot: Knot, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK) | {"http_proxy": nowhere, "HTTP_PROXY": nowhere}
        with running_daemon(tmp_path, **chosen):
            manager.wait_for_reports(1)


def test_a_state_folder_that_breaks_while_it_runs(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager, running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
        manager.wait_for_reports(1)
        good = (tmp_path / "agent_id.txt").read_text()
        (tmp_path / "agent_id.txt").write_text("nonsense")
        daemon.wait_for_log("no report: ")
        time.sleep(1.2)
        (tmp_path / "agent_id.txt").write_text(good)
        count = len(manager.reports())
        manager.wait_for_reports(count + 1)
    assert daemon.log.count("which is not a UUID") == 1


def test_reports_are_strict_json(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager, running_daemon(tmp_path, **settings(knot, manager.url, PSK)):
        report = manager.wait_for_reports(1)[0]
    assert canonical.encode(report.members) in report.body


@pytest.mark.parametrize(
    ("due", "now", "expected"),
    [
        (0, 0.1, 30),
        (0, -1.5, 30),
        (30, 29, 60),
        (0, 29.9, 30),
        (0, 30.0, 60),
        (0, 95, 120),
        (60, 61, 90),
    ],
)
def test_a_cycle_is_due_in_whole_intervals_and_never_twice_in_a_row(due: float, now: float, expected: float) -> None:
    assert next_due(due, now, 30) == expected


def test_a_schedule_does_not_drift() -> None:
    due = 1000.0
    for number in range(1, 1000):
        due = next_due(due, due + 0.7, 30)
        assert due == 1000 + 30 * number


def test_a_second_daemon_on_one_state_folder_is_refused(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK) | {"AGENT_LISTEN": "127.0.0.1:0"}
        with running_daemon(tmp_path, **chosen) as daemon:
            daemon.wait_for_log("answers on")
            second = run_agent(tmp_path, **chosen)
    refused = second.stderr.decode()
    assert second.returncode == 1
    assert f"kattila-agent: another agent uses {tmp_path}/spool: two on one machine need a STATE_DIR each" in refused


RETURN = """
from kattila_agent.daemon import return_memory

def resident():
    return int(open("/proc/self/status").read().partition("VmRSS:")[2].split()[0]) // 1024

# One block at the end keeps the C library from returning the others.
blocks = [bytes(1000) for _ in range(50_000)]
last = bytes(1000)
del blocks
before = resident()
return_memory()
print(before - resident())
"""


def test_freed_memory_is_returned_to_the_kernel() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library is not glibc, and has no malloc_trim")
    assert int(subprocess.check_output([sys.executable, "-c", RETURN])) > 20
