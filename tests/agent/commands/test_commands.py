"""The commands as a user runs them: real processes, output and exit codes."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kattila_agent import __version__
from kattila_agent.config import SETTINGS
from kattila_keys.ring_file import RingFile
from kattila_protocol import canonical, envelope
from kattila_protocol.names import is_id
from kattila_protocol.signing import Key
from support.agent_folder import AGENT_ID, OTHER_PSK, PSK, dead_dns, keep_id, keep_ring, ring_of, settings
from support.agent_process import AGENT, environment, run_agent, running_daemon
from support.knot import Knot, free_port
from support.manager_stand_in import running_stand_in
from support.waiting import PATIENCE_SECONDS

NOWHERE = "http://127.0.0.1:9"


def opened(body: bytes, *psks: bytes) -> dict[str, Any]:
    """Return what a dumped report says, after verifying it as a manager would."""
    cut = envelope.parse(body)
    envelope.verify(cut, ring_of(*psks), "manager")
    return canonical.parse_object(cut.data)


@pytest.mark.parametrize("flag", ["-sysinfo", "--sysinfo"])
def test_sysinfo_needs_nothing(tmp_path: Path, flag: str) -> None:
    tmp_path.chmod(0o500)
    found = run_agent(tmp_path, flag)
    assert (found.returncode, found.stderr) == (0, b"")
    shown = json.loads(found.stdout)
    assert found.stdout.startswith(b'{\n  "system": {\n')
    assert shown["system"]["hostname"] == os.uname().nodename
    assert "lo" in [interface["name"] for interface in shown["interfaces"]]
    assert shown["failures"] == []
    assert list(tmp_path.iterdir()) == []


def test_sysinfo_without_privileges(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("dropping privileges needs root; the other tests run -sysinfo without them")
    code = (
        "import kattila_agent.__main__ as agent, psutil, dotenv, os, platform\n"
        "import kattila_agent.commands.measuring, kattila_agent.commands.sysinfo\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "agent.main(['-sysinfo'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env=environment(),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    shown = json.loads(found.stdout)
    assert shown["failures"] == []
    assert shown["interfaces"]


def test_sysinfo_shows_labels_or_why_it_cannot(tmp_path: Path) -> None:
    found = run_agent(tmp_path, "-sysinfo", LABELS="site=north")
    assert json.loads(found.stdout)["system"]["labels"] == {"site": "north"}
    found = run_agent(tmp_path, "-sysinfo", LABELS="north")
    assert json.loads(found.stdout)["system"]["labels"] == {}
    assert b"shown without settings: LABELS=north (the environment)" in found.stderr


@pytest.mark.parametrize("flag", ["-dump", "--dump"])
def test_dump_writes_the_report_that_would_be_sent(knot: Knot, tmp_path: Path, flag: str) -> None:
    keep_id(tmp_path)
    target = tmp_path / "report.json"
    began = int(time.time() * 1000)
    found = run_agent(tmp_path, flag, str(target), **settings(knot, NOWHERE, PSK), LABELS="site=north")
    assert (found.returncode, found.stdout) == (0, b"")
    assert b"sample 1, tick 1" in found.stderr
    assert PSK not in found.stderr
    report = opened(target.read_bytes(), PSK)
    assert (report["agent_id"], report["sample"], report["tick"]) == (AGENT_ID, 1, 1)
    assert began <= report["sampled_at"] <= report["timestamp"] <= int(time.time() * 1000)
    assert report["telemetry"]["system"]["labels"] == {"site": "north"}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if "report" in path.name) == ["report.json"]


def test_dump_to_stdout_is_the_report_alone(knot: Knot, tmp_path: Path) -> None:
    found = run_agent(tmp_path, "-dump", "-", **settings(knot, NOWHERE, PSK))
    assert is_id(opened(found.stdout, PSK)["agent_id"])


def test_dump_without_dns_uses_the_cached_key_and_says_so(tmp_path: Path) -> None:
    keep_ring(tmp_path, OTHER_PSK, PSK)
    with dead_dns() as dns:
        found = run_agent(tmp_path, "-dump", "-", **dns)
    assert opened(found.stdout, OTHER_PSK)["tick"] == 1
    assert b"signing with the cached key" in found.stderr


def test_dump_without_any_key_says_why(knot: Knot, tmp_path: Path) -> None:
    found = run_agent(tmp_path, "-dump", "out", **settings(knot, NOWHERE))
    assert found.returncode == 1
    assert b"no key to sign with: 127.0.0.1 port " in found.stderr and b"does not exist" in found.stderr
    assert not (tmp_path / "out").exists()


def test_dump_needs_no_manager_and_no_settings_file(knot: Knot, tmp_path: Path) -> None:
    chosen = settings(knot, NOWHERE, PSK)
    del chosen["MANAGER_URL"]
    (tmp_path / "elsewhere").write_text("".join(f"{name}={value} # set\n" for name, value in chosen.items()))
    found = run_agent(tmp_path, "-dump", "-", "-env", "elsewhere")
    assert (found.returncode, bool(found.stdout)) == (0, True)


@pytest.mark.parametrize("before", ["a wide file", "a symbolic link", "nothing"])
def test_dump_never_writes_through_what_was_there(knot: Knot, tmp_path: Path, before: str) -> None:
    victim, target = tmp_path / "victim", tmp_path / "report.json"
    victim.write_text("left alone")
    if before == "a wide file":
        target.write_text("old")
        target.chmod(0o666)
    elif before == "a symbolic link":
        target.symlink_to(victim)
    found = run_agent(tmp_path, "-dump", str(target), **settings(knot, NOWHERE, PSK))
    assert found.returncode == 0
    assert victim.read_text() == "left alone"
    assert not target.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    opened(target.read_bytes(), PSK)


def test_dump_into_a_pipe(knot: Knot, tmp_path: Path) -> None:
    found = run_agent(tmp_path, "-dump", "/dev/stdout", **settings(knot, NOWHERE, PSK))
    opened(found.stdout, PSK)


def test_dump_into_a_folder_that_is_missing(knot: Knot, tmp_path: Path) -> None:
    found = run_agent(tmp_path, "-dump", "missing/report.json", **settings(knot, NOWHERE, PSK))
    assert found.returncode == 1
    shown = f"cannot write missing/report.json as uid {os.geteuid()} (No such file or directory): choose a folder"
    assert shown in found.stderr.decode()


def test_dump_beside_the_daemon_takes_its_own_numbers(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK)
        with running_daemon(tmp_path, **chosen):
            manager.wait_for_reports(1)
            dumped = [opened(run_agent(tmp_path, "-dump", "-", **chosen).stdout, PSK) for _ in range(3)]
            manager.wait_for_reports(len(manager.reports()) + 1)
        sent = [report.members for report in manager.reports()]
    numbers = sorted((report["tick"], report["sample"]) for report in sent + dumped)
    assert numbers == [(number, number) for number in range(1, len(numbers) + 1)]
    assert len({report["agent_id"] for report in sent + dumped}) == 1


@pytest.mark.parametrize(
    "words", [("-reset",), ("--reset", "127.0.0.1:{port}"), ("-reset", "127.0.0.1:{port}", "{id}")]
)
def test_reset(knot: Knot, tmp_path: Path, words: tuple[str, ...]) -> None:
    keep_id(tmp_path)
    port = free_port()
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK) | {"AGENT_LISTEN": f"*:{port}"}
        with running_daemon(tmp_path, **chosen):
            manager.wait_for_reports(1)
            found = run_agent(tmp_path, *(word.format(port=port, id=AGENT_ID) for word in words), **chosen)
            assert found.returncode == 0, found.stderr
            fresh = found.stdout.decode().strip()
            manager.wait_for(lambda: manager.received[-1].members["agent_id"] == fresh)
    assert fresh != AGENT_ID
    assert (tmp_path / "agent_id.txt").read_text() == f"{fresh}\n"


def test_reset_of_another_id_is_refused(knot: Knot, tmp_path: Path) -> None:
    keep_id(tmp_path)
    port = free_port()
    wrong = AGENT_ID.replace("1", "9")
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK) | {"AGENT_LISTEN": f"127.0.0.1:{port}"}
        with running_daemon(tmp_path, **chosen):
            manager.wait_for_reports(1)
            found = run_agent(tmp_path, "-reset", f"127.0.0.1:{port}", wrong, **chosen)
    assert found.returncode == 1
    assert f"did not reset {wrong} (HTTP 403): 'the reset is addressed to another id'".encode() in found.stderr
    assert (tmp_path / "agent_id.txt").read_text() == f"{AGENT_ID}\n"


def test_reset_where_nobody_answers(knot: Knot, tmp_path: Path) -> None:
    found = run_agent(tmp_path, "-reset", f"127.0.0.1:{free_port()}", **settings(knot, NOWHERE, PSK))
    assert found.returncode == 1
    assert b"connection refused; is it running?" in found.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-reset", "192.0.2.1"), b"-reset 192.0.2.1 needs the id of the agent there: -reset 192.0.2.1 AGENT_ID"),
        (("-reset", "node1"), b"'node1' is not ADDRESS:PORT"),
        (("-reset", "127.0.0.1", "me"), b"AGENT_ID, which is a UUID"),
        (("-reset", "127.0.0.1", AGENT_ID, "more"), b"takes an ADDRESS and an AGENT_ID"),
        (("-dump",), b"expected one argument"),
        (("-dump", "x", "-sysinfo"), b"not allowed with argument"),
        (("--sys",), b"unrecognized arguments: --sys"),
        (("-dump", "x"), b"DNS is not set: add it to .env or the environment"),
        (("-env", "missing"), b"cannot read the settings in "),
        (("surplus",), b"unrecognized arguments: surplus"),
    ],
)
def test_wrong_usage_ends_with_2_and_touches_nothing(tmp_path: Path, words: tuple[str, ...], said: bytes) -> None:
    found = run_agent(tmp_path, *words)
    assert found.returncode == 2, found.stderr
    assert said in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, b"is not set"),
        ({"DNS": "kattila.example.com"}, b"MANAGER_URL is not set"),
        ({"DNS": "kattila.example.com", "MANAGER_URL": "192.0.2.1"}, b"MANAGER_URL=192.0.2.1 (the environment)"),
    ],
)
def test_a_daemon_without_its_settings_ends_with_2(tmp_path: Path, chosen: dict[str, str], said: bytes) -> None:
    found = run_agent(tmp_path, **chosen)
    assert found.returncode == 2
    assert said in found.stderr


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "agent_id.txt").write_text("me"), b"which is not a UUID"),
        (lambda folder: (folder / "state").rmdir(), b"cannot use the state folder"),
    ],
)
def test_a_daemon_with_an_unusable_state_folder_ends_with_1(
    knot: Knot, tmp_path: Path, break_it: Callable[[Path], object], said: bytes
) -> None:
    (tmp_path / "state").mkdir()
    break_it(tmp_path)
    state = tmp_path if (tmp_path / "state").exists() else tmp_path / "state"
    chosen = settings(knot, NOWHERE, PSK) | {"AGENT_LISTEN": "127.0.0.1:0", "STATE_DIR": str(state)}
    found = run_agent(tmp_path, **chosen)
    assert found.returncode == 1
    assert said in found.stderr


@pytest.mark.parametrize("flag", ["-version", "--version"])
def test_version(tmp_path: Path, flag: str) -> None:
    assert run_agent(tmp_path, flag).stdout == f"kattila-agent {__version__}\n".encode()


@pytest.mark.parametrize("flags", [["-h"], ["-help"], ["--help"], ["-v", "-help"], ["-help", "-sysinfo"]])
def test_help_names_every_setting(tmp_path: Path, flags: list[str]) -> None:
    done = run_agent(tmp_path, *flags)
    shown = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert "-h, -help, --help" in shown
    assert [setting.name for setting in SETTINGS if f"  {setting.name} " not in shown] == []


def test_help_and_version_load_no_network_libraries() -> None:
    code = (
        "import sys, kattila_agent.__main__\n"
        "print(sorted({'requests', 'waitress', 'bottle', 'psutil'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_sysinfo_stays_light(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_agent(tmp_path, "-sysinfo").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_the_entry_point_is_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("kattila-agent")
    assert subprocess.check_output([script, "-version"], env=environment()) == subprocess.check_output(
        [*AGENT, "-version"], env=environment()
    )


def test_forget_key_removes_a_key_of_this_node(tmp_path: Path) -> None:
    keep_ring(tmp_path, PSK, OTHER_PSK)
    current, other = (Key.from_psk(psk).fingerprint for psk in (PSK, OTHER_PSK))
    with dead_dns() as dns:
        found = run_agent(tmp_path, "-forget-key", other.upper(), **dns)
        assert (found.returncode, found.stdout) == (0, f"forgot {other}; the current key is {current}\n".encode())
        found = run_agent(tmp_path, "-forget-key", other, **dns)
        assert found.returncode == 1
        assert f"{other} is not in the ring, which holds {current}" in found.stderr.decode()
    assert RingFile(tmp_path / "ring.json").read().ring.psks == {PSK}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ring.json", "ring.json.lock"]
