"""The agent's single file: its contents, that it needs only Python, and that it works like the installed agent."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from build_agent import is_needed
from kattila_agent import __version__
from kattila_protocol import canonical, envelope
from onefile.start import WrongMachineError, check_machine
from support.agent_folder import AGENT_ID, OTHER_PSK, PSK, dead_dns, keep_id, keep_ring, ring_of, settings
from support.agent_process import AGENT, Daemon, environment
from support.knot import Knot
from support.manager_stand_in import running_stand_in
from support.netns import new_namespace
from support.waiting import PATIENCE_SECONDS
from wheels import MACHINES, ROOT, pins

HERE = {machine: arch for arch, machine in MACHINES.items()}.get(platform.machine(), "")
NOBODY = 65534
# A Python without our packages.
BARE = "/usr/bin/python3"
# Values that change all the time.
VOLATILE = {"since_boot_ms", "read_at", "uptime_seconds", "load", "memory_available", "duration_us", "clock"}


@pytest.fixture
def agent(built: Path) -> str:
    """Return the path of the file for this machine."""
    if not HERE:
        pytest.skip(f"the agent is not built for {platform.machine()}")
    return str(built / f"agent-{HERE}")


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command, with an empty environment by default."""
    chosen: dict[str, Any] = {"env": {}, "cwd": "/", "text": False} | options
    return subprocess.run(words, capture_output=True, timeout=PATIENCE_SECONDS, check=False, **chosen)


def bare_python() -> str:
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    if not Path(BARE).exists() or run(BARE, "-c", check).returncode != 0:
        pytest.skip(f"{BARE} is missing or older than 3.11")
    return BARE


def stable(value: Any) -> Any:
    """Return telemetry without the volatile values."""
    if isinstance(value, dict):
        return {name: stable(member) for name, member in value.items() if name not in VOLATILE}
    return [stable(member) for member in value] if isinstance(value, list) else value


def test_the_build_is_reproducible_in_another_folder_and_environment(built: Path, tmp_path: Path) -> None:
    for folder in ("protocol", "agent/kattila_agent", "release", "requirements"):
        shutil.copytree(ROOT / folder, tmp_path / folder, copy_function=shutil.copyfile)
    shutil.copyfile(ROOT / "LICENSE", tmp_path / "LICENSE")
    chosen = environment(TZ="Pacific/Auckland", PYTHONHASHSEED="7")
    command = ("sh", "-c", 'umask 077; exec "$@"', "sh", sys.executable, str(tmp_path / "release" / "build_agent.py"))
    again = run(*command, "--output", str(tmp_path / "bin"), env=os.environ | chosen)
    assert again.returncode == 0, again.stderr.decode()
    for arch in MACHINES:
        path = tmp_path / "bin" / f"agent-{arch}"
        assert path.read_bytes() == (built / path.name).read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert path.read_bytes().startswith(b"#!/usr/bin/env python3\n")


@pytest.mark.parametrize("arch", MACHINES)
def test_the_file_contains_only_needed_modules(built: Path, arch: str) -> None:
    with zipfile.ZipFile(built / f"agent-{arch}") as file:
        names = file.namelist()
    modules = {name.split("/")[0].removesuffix(".py") for name in names if ".dist-info" not in name}
    ours = {"__main__", "onefile", "kattila_agent", "kattila_keys", "kattila_protocol", "kattila_settings"}
    theirs = {"bottle", "certifi", "charset_normalizer", "dns", "dotenv", "idna", "psutil", "pyroute2", "requests"}
    assert modules == ours | theirs | {"urllib3", "waitress", "LICENSE"}
    assert [name for name in names if not is_needed(name)] == ["LICENSE", "onefile/machine"]
    assert [name for name in names if name.endswith(".so")] == ["psutil/_psutil_linux.abi3.so"]
    assert (built / f"agent-{arch}").stat().st_size < 2_000_000


@pytest.mark.parametrize("arch", MACHINES)
def test_the_file_contains_every_licence(built: Path, arch: str) -> None:
    with zipfile.ZipFile(built / f"agent-{arch}") as file:
        texts = {name: file.read(name).decode() for name in file.namelist() if ".dist-info/" in name}
        own = file.read("LICENSE")
    licensed = {name.split("-")[0].replace("_", "-") for name, text in texts.items() if "LICENSE" in name and text}
    assert licensed == pins(ROOT / "requirements" / "agent.txt").keys()
    assert [name.split("-")[0] for name in texts if name.endswith("NOTICE")] == ["requests"]
    # pyroute2 is used under one of its two licences.
    of_pyroute2 = {name.rpartition("/")[2] for name in texts if name.startswith("pyroute2-")}
    assert of_pyroute2 == {"LICENSE", "LICENSE.Apache-2.0"}
    assert own == (ROOT / "LICENSE").read_bytes()


def test_the_agent_needs_no_network_home_folder_environment_or_privilege(agent: str) -> None:
    bare_python()
    with new_namespace() as cut_off:
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs")
        found = run(*cut_off.command(*drop, agent, "-sysinfo"), env={"HOME": "/nonexistent"})
    assert (found.returncode, found.stderr) == (0, b"")
    shown = json.loads(found.stdout)
    assert shown["failures"] == []
    assert [interface["name"] for interface in shown["interfaces"]][:1] == ["lo"]


def test_the_agent_runs_on_a_read_only_system(agent: str) -> None:
    bare_python()
    script = (
        "mount --bind $1 /mnt && for each in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o ro none $each || exit; done;"
        "mount -o remount,bind,ro / && cd / && ! touch /x /tmp/x 2>/dev/null && exec /mnt/$2 -sysinfo"
    )
    if os.geteuid() != 0:
        pytest.skip("not root: a mount namespace needs root")
    path = Path(agent)
    found = run("unshare", "--mount", "sh", "-c", script, "sh", str(path.parent), path.name)
    assert (found.returncode, found.stderr) == (0, b"")
    assert json.loads(found.stdout)["failures"] == []


def test_the_file_reports_the_same_as_the_installed_agent(agent: str, tmp_path: Path) -> None:
    with new_namespace() as namespace:
        namespace.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        namespace.ip("link", "set", "lo", "up")
        namespace.ip("address", "add", "192.0.2.1/24", "dev", "v0")
        shown = [
            run(*namespace.command(*command, "-sysinfo"), env=environment(), cwd=tmp_path)
            for command in ([sys.executable, agent], AGENT)
        ]
    assert [found.stderr for found in shown] == [b"", b""]
    first, second = (stable(json.loads(found.stdout)) for found in shown)
    assert first == second
    assert "192.0.2.1/24" in json.dumps(first)


def test_the_file_makes_a_dump_with_the_cached_key(agent: str, tmp_path: Path) -> None:
    keep_id(tmp_path)
    keep_ring(tmp_path, PSK)
    with dead_dns() as dns:
        found = run(sys.executable, agent, "-dump", "-", env=dns, cwd=tmp_path)
    parts = envelope.parse(found.stdout)
    envelope.verify(parts, ring_of(PSK), "manager")
    assert canonical.parse_object(parts.data)["agent_id"] == AGENT_ID


def test_a_daemon_continues_after_its_file_is_replaced(agent: str, knot: Knot, tmp_path: Path) -> None:
    installed = Path(shutil.copy(agent, tmp_path / "agent"))
    keep_ring(tmp_path, PSK)
    with running_stand_in(PSK) as manager:
        daemon = Daemon(tmp_path, program=[sys.executable, str(installed)], **settings(knot, manager.url, OTHER_PSK))
        try:
            manager.wait_for_reports(1)
            (tmp_path / "new").write_text("another version")
            (tmp_path / "new").replace(installed)
            # A DNS query loads most of the modules that were not loaded yet.
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for_log(f"the current key is {ring_of(OTHER_PSK).current.fingerprint}")
        finally:
            assert daemon.stop() == 0


def test_the_helper_loads_only_the_file_and_the_standard_library(agent: str, tmp_path: Path) -> None:
    for name in ("hashlib.py", "kattila_agent.py", "onefile.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from a folder')")
    code = (
        "import runpy, sys\n"
        "sys.argv = ['agent', '-wireguard-helper', 'x']\n"
        "try: runpy.run_path(%r, run_name='__main__')\n"
        "except SystemExit as done: print(done.code)\n"
        "print(*{m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)}, sep='\\n')"
    )
    chosen = {"CACHE_DIRECTORY": str(tmp_path), "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    found = run(sys.executable, "-I", "-S", "-c", code % agent, env=chosen, cwd=tmp_path)
    exit_code, *files = found.stdout.decode().splitlines()
    assert exit_code == "2"
    assert found.stderr.startswith(b"usage: kattila-wireguard-helper, without arguments")
    prefixes = (sys.base_prefix, f"{agent}/", "/proc/self/fd/")
    assert [file for file in files if not file.startswith(prefixes)] == []
    assert any(file.endswith("kattila_agent/helpers/wireguard_helper.py") for file in files)
    assert not any("psutil" in file or "dotenv" in file for file in files)


def test_the_wireguard_helper_answers(agent: str) -> None:
    found = run(sys.executable, "-I", agent, "-wireguard-helper", stdin=subprocess.DEVNULL)
    greeting, *_, last = found.stdout.splitlines()
    assert greeting == b"kattila-wireguard 1"
    assert last.startswith((b"end ", b"failed ")), found


def test_the_clock_helper_answers(agent: str) -> None:
    found = run(sys.executable, "-I", agent, "--clock-helper", stdin=subprocess.DEVNULL)
    assert re.fullmatch(rb"kattila-clock 1 [0-9]+ [0-9]+\n", found.stdout), found


@pytest.mark.parametrize("flag", ["-version", "--version"])
def test_the_file_prints_its_version(agent: str, flag: str) -> None:
    assert run(sys.executable, agent, flag).stdout == f"kattila-agent {__version__}\n".encode()


def test_an_old_python_prints_a_clear_message(agent: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(agent) as file:
        source = file.read("__main__.py").decode()
    ast.parse(source, feature_version=(3, 4))
    pretend_old = "import sys; sys.version_info = (3, 10, 13)\n"
    found = run(sys.executable, "-c", pretend_old + source)
    assert found.returncode == 1
    assert b"kattila-agent: " in found.stderr
    assert b", but 3.11 or newer is needed: run it with a newer one" in found.stderr


def test_the_file_for_another_architecture_is_refused(built: Path) -> None:
    other = next(arch for arch in MACHINES if arch != HERE)
    found = run(sys.executable, str(built / f"agent-{other}"), "-sysinfo")
    assert (found.returncode, found.stdout) == (1, b"")
    assert f"this file is for {MACHINES[other]}, but this machine is {platform.machine()}".encode() in found.stderr


def test_a_32_bit_python_on_a_64_bit_machine_is_refused() -> None:
    check_machine("aarch64", "aarch64", 2**63 - 1)
    with pytest.raises(WrongMachineError, match="32-bit Python"):
        check_machine("aarch64", "aarch64", 2**31 - 1)


def test_the_agent_runs_without_memfd(agent: str, tmp_path: Path) -> None:
    code = (
        "import os, runpy, sys\n"
        "def refuse(name): raise PermissionError(13, 'Permission denied')\n"
        "os.memfd_create = refuse\n"
        "sys.argv = ['agent', '-sysinfo']\n"
        f"runpy.run_path({agent!r}, run_name='__main__')"
    )
    found = run(sys.executable, "-c", code, env={"TMPDIR": str(tmp_path)})
    assert json.loads(found.stdout)["failures"] == []
    assert list(tmp_path.iterdir()) == []
