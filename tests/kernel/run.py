"""`make test-kernel`: checks the netlink readers against kernel WireGuard, GRE and others in a virtual machine.

Needs neither KVM nor WireGuard in this machine's kernel: QEMU emulates a machine with Debian's cloud kernel and a root
file system made by mmdebstrap. It runs guest.py, which prints one line per check. The sources are on a second,
read-only disk, so the root disk is made only once and kept in tests/kernel/.cache (about 1 GB; delete it to make a new
one). The Makefile installs the programs. Exit codes: 0 all checks passed, or skipped with the reason in one line; 1 a
check failed, or the virtual machine did not finish.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = HERE / ".cache"

PROGRAMS = ("qemu-system-x86_64", "mmdebstrap", "mke2fs")
SUITE = "bookworm"
OUR_PACKAGES = (
    "agent/kattila_agent",
    "protocol/kattila_protocol",
    "protocol/kattila_keys",
    "protocol/kattila_settings",
)
PACKAGES = "systemd,systemd-sysv,python3,iproute2,wireguard-tools,wireguard-go,kmod,linux-image-cloud-amd64"
# Three minutes on an idle machine. Emulation on a busy one may take ten times as long.
RUN_SECONDS = 1800
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# The checks, and tests that run here as well because the virtual machine's kernel has link types this one may lack.
TESTS = (
    "tests/kernel/guest.py",
    "tests/kernel/in_namespace.py",
    "tests/kernel/mesh.py",
    "tests/agent/collectors/test_kernel.py",
    "tests/agent/collectors/test_l2tp.py",
    "tests/agent/collectors/test_unusual.py",
    "tests/agent/collectors/test_policy_routes.py",
    "tests/support/agent_process.py",
    "tests/support/collector_messages.py",
    "tests/support/iproute2.py",
    "tests/support/netlink.py",
    "tests/support/netns.py",
    "tests/support/runtime.py",
    "tests/support/waiting.py",
)
LIBRARIES = (
    *("py", "pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"),
    *("dotenv", "psutil", "pyroute2"),
)

UNIT = """[Unit]
Description=Checks of kattila's netlink readers
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mount -o ro /dev/vdb /mnt && exec python3 -B /mnt/tests/kernel/guest.py >/dev/ttyS1 2>&1'
"""


# Folders in which the virtual machine's Python finds the sources, whatever environment a test sets.
PATHS = "".join(f"/mnt/{name}\n" for name in ("agent", "protocol", "tests", "site"))


class SkippedError(Exception):
    """The checks cannot run on this machine; the text names the cause."""


def main() -> int:
    try:
        check_programs()
        make_root()
    except SkippedError as reason:
        print(f"test-kernel is skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="kattila-kernel-") as folder:
        return boot(Path(folder))


def check_programs() -> None:
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCH_PATH) is None]
    if os.uname().machine != "x86_64":
        raise SkippedError("this machine is not x86_64, like the virtual machine")
    if os.geteuid() != 0:
        raise SkippedError("not root: making a root file system needs root")
    if missing:
        raise SkippedError(f"missing programs: {', '.join(missing)}")


def make_root() -> None:
    """Make root.img, vmlinuz and initrd.img in the cache, unless they are up to date."""
    version = hashlib.sha256(f"{SUITE} {PACKAGES} {UNIT} {PATHS}".encode()).hexdigest()
    stamp = CACHE / "complete"
    if stamp.exists() and stamp.read_text() == version:
        return
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir()
    print("Making the root file system (once, about a minute)", flush=True)
    with tempfile.TemporaryDirectory(prefix="kattila-root-") as folder:
        root = Path(folder) / "root"
        words = ["nice", "-n", "10", "mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
        made = subprocess.run(words, check=False, capture_output=True, text=True)
        if made.returncode:
            raise SkippedError(f"mmdebstrap failed: {(made.stderr.strip().splitlines() or ['no output'])[-1]}")
        (root / "etc/systemd/system/kattila-checks.service").write_text(UNIT)
        (root / "usr/lib/python3/dist-packages/kattila.pth").write_text(PATHS)
        for name in ("vmlinuz", "initrd.img"):
            newest = max((root / "boot").glob(f"{name}-*"))
            shutil.copyfile(newest, CACHE / name)
        make_disk(root, CACHE / "root.img", "1500M")
    stamp.write_text(version)


def make_disk(folder: Path, image: Path, size: str) -> None:
    words = ["mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(image), size]
    # Even with -q it prints that it creates a file.
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PATH": SEARCH_PATH})


def boot(folder: Path) -> int:
    """Boot the virtual machine, print its checks, and return the exit code; it never outlives this program."""
    sources = folder / "sources"
    for package in OUR_PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    copy_tests(sources)
    make_disk(sources, folder / "sources.img", "48M")
    checks, console = folder / "checks", folder / "console"
    checks.touch()
    started = time.monotonic()
    machine = subprocess.Popen(command(folder, checks, console), stdin=subprocess.DEVNULL)
    try:
        shown = follow(machine, checks, started + RUN_SECONDS)
    finally:
        if machine.poll() is None:
            machine.kill()
        machine.wait()
    print(f"The virtual machine ran for {time.monotonic() - started:.0f} s")
    last = shown.strip().rpartition("\n")[2]
    if last.startswith("checks: ") and ", 0 failed" in last:
        return 0
    if not last.startswith("checks: "):
        print(f"The virtual machine did not finish. Its console:\n{console.read_text(errors='replace')[-3000:]}")
    return 1


def copy_tests(sources: Path) -> None:
    """Copy the checks, the tests and their libraries; the virtual machine has the same Python version."""
    for name in TESTS:
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, sources / name)
    (sources / "site").mkdir()
    for name in LIBRARIES:
        module = importlib.util.find_spec(name)
        if module is None or module.origin is None:
            raise FileNotFoundError(f"{name} is not installed here")
        source = Path(module.origin)
        if module.submodule_search_locations is None:
            shutil.copyfile(source, sources / "site" / source.name)
        else:
            ignored = shutil.ignore_patterns("__pycache__", "tests")
            shutil.copytree(source.parent, sources / "site" / name, ignore=ignored)


def command(folder: Path, checks: Path, console: Path) -> list[str]:
    return [
        *("nice", "-n", "10", "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", "2", "-m", "768", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", str(CACHE / "vmlinuz"), "-initrd", str(CACHE / "initrd.img")),
        *("-append", "root=/dev/vda rw console=ttyS0 quiet systemd.unit=kattila-checks.service"),
        *("-drive", f"file={CACHE / 'root.img'},if=virtio,format=raw,snapshot=on"),
        *("-drive", f"file={folder / 'sources.img'},if=virtio,format=raw,readonly=on"),
        *("-serial", f"file:{console}", "-serial", f"file:{checks}"),
    ]


def follow(machine: subprocess.Popen[bytes], checks: Path, deadline: float) -> str:
    """Print the checks as they finish, until the machine is off or the deadline passes; return their output."""
    shown = ""
    with checks.open(errors="replace") as stream:
        while machine.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            shown += (more := stream.read().replace("\r", ""))
            print(more, end="", flush=True)
        shown += (more := stream.read().replace("\r", ""))
        print(more, end="", flush=True)
    return shown


if __name__ == "__main__":
    sys.exit(main())
