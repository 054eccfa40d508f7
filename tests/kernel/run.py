"""`make test-kernel`: proves the netlink readers against kernel WireGuard, GRE and others in a virtual machine.

Needs no KVM and no WireGuard in this machine's kernel: QEMU boots Debian's cloud kernel under emulation, with a root
file system made by mmdebstrap, and runs guest.py there, which prints one line per proof. The sources come on a second,
read-only disk, so that the first is made once and kept in tests/kernel/.cache (about 1 GB; remove it to make it anew).
The Makefile installs what it needs. Exit codes: 0 all proofs held, or skipped with its reason in one
line; 1 a proof failed, or the machine did not come to its end.
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
PACKAGES_OF_OURS = (
    "agent/kattila_agent",
    "protocol/kattila_protocol",
    "protocol/kattila_keys",
    "protocol/kattila_settings",
)
PACKAGES = "systemd,systemd-sysv,python3,iproute2,wireguard-tools,wireguard-go,kmod,linux-image-cloud-amd64"
# Three minutes where nothing else runs; emulation on a busy machine may take ten times that.
BOOT_AND_PROVE_SECONDS = 1800
SEARCHED = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# The proofs, and tests that run here as well: the machine's kernel has the links that this one may lack.
TESTS = (
    "tests/kernel/guest.py",
    "tests/kernel/mesh.py",
    "tests/kernel/within.py",
    "tests/agent/collectors/test_kernel.py",
    "tests/agent/collectors/test_l2tp.py",
    "tests/agent/collectors/test_odd.py",
    "tests/agent/collectors/test_policy.py",
    "tests/support/agent_process.py",
    "tests/support/ip_says.py",
    "tests/support/netlink.py",
    "tests/support/netns.py",
    "tests/support/parsed.py",
)
LIBRARIES = ("py", "pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "psutil", "dotenv")

UNIT = """[Unit]
Description=What the kernel's WireGuard proves of kattila's reader
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mount -o ro /dev/vdb /mnt && exec python3 -B /mnt/tests/kernel/guest.py >/dev/ttyS1 2>&1'
"""


# Where the machine's Python finds the sources, whatever environment a test gives it.
PATHS = "".join(f"/mnt/{name}\n" for name in ("agent", "protocol", "tests", "site"))


class SkippedError(Exception):
    """It cannot run here; the text says why."""


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
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCHED) is None]
    if os.uname().machine != "x86_64":
        raise SkippedError("the virtual machine is an x86_64 one, which this machine is not")
    if os.geteuid() != 0:
        raise SkippedError("making a root file system needs root")
    if missing:
        raise SkippedError(f"{', '.join(missing)} missing")


def make_root() -> None:
    """Make root.img, vmlinuz and initrd.img in the cache, unless they are there as this file wants them."""
    wanted = hashlib.sha256(f"{SUITE} {PACKAGES} {UNIT} {PATHS}".encode()).hexdigest()
    stamp = CACHE / "complete"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir()
    print("Making the root file system (once, about a minute)", flush=True)
    with tempfile.TemporaryDirectory(prefix="kattila-root-") as folder:
        root = Path(folder) / "root"
        words = ["nice", "-n", "10", "mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
        made = subprocess.run(words, check=False, capture_output=True, text=True)
        if made.returncode:
            raise SkippedError(f"mmdebstrap failed: {(made.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
        (root / "etc/systemd/system/kattila-proofs.service").write_text(UNIT)
        (root / "usr/lib/python3/dist-packages/kattila.pth").write_text(PATHS)
        for name in ("vmlinuz", "initrd.img"):
            newest = max((root / "boot").glob(f"{name}-*"))
            shutil.copyfile(newest, CACHE / name)
        make_disk(root, CACHE / "root.img", "1500M")
    stamp.write_text(wanted)


def make_disk(folder: Path, image: Path, size: str) -> None:
    words = ["mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(image), size]
    # -q does not silence that it makes a file.
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PATH": SEARCHED})


def boot(folder: Path) -> int:
    """Boot the machine, show what it proves, and return the exit code; it ends with this program in any case."""
    sources = folder / "sources"
    for package in PACKAGES_OF_OURS:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    copy_tests(sources)
    make_disk(sources, folder / "sources.img", "48M")
    proofs, console = folder / "proofs", folder / "console"
    proofs.touch()
    started = time.monotonic()
    machine = subprocess.Popen(command(folder, proofs, console), stdin=subprocess.DEVNULL)
    try:
        shown = follow(machine, proofs, started + BOOT_AND_PROVE_SECONDS)
    finally:
        if machine.poll() is None:
            machine.kill()
        machine.wait()
    print(f"The virtual machine ran for {time.monotonic() - started:.0f} s")
    last = shown.strip().rpartition("\n")[2]
    if last.startswith("proofs: ") and ", 0 failed" in last:
        return 0
    if not last.startswith("proofs: "):
        print(f"It did not come to its end. Its console:\n{console.read_text(errors='replace')[-3000:]}")
    return 1


def copy_tests(sources: Path) -> None:
    """Lay the proofs and tests beside them, and what they need: the machine's Python is this one's."""
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


def command(folder: Path, proofs: Path, console: Path) -> list[str]:
    return [
        *("nice", "-n", "10", "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", "2", "-m", "768", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", str(CACHE / "vmlinuz"), "-initrd", str(CACHE / "initrd.img")),
        *("-append", "root=/dev/vda rw console=ttyS0 quiet systemd.unit=kattila-proofs.service"),
        *("-drive", f"file={CACHE / 'root.img'},if=virtio,format=raw,snapshot=on"),
        *("-drive", f"file={folder / 'sources.img'},if=virtio,format=raw,readonly=on"),
        *("-serial", f"file:{console}", "-serial", f"file:{proofs}"),
    ]


def follow(machine: subprocess.Popen[bytes], proofs: Path, deadline: float) -> str:
    """Show the proofs as they come, until the machine is off or the time is over; return them all."""
    shown = ""
    with proofs.open(errors="replace") as stream:
        while machine.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            shown += (more := stream.read().replace("\r", ""))
            print(more, end="", flush=True)
        shown += (more := stream.read().replace("\r", ""))
        print(more, end="", flush=True)
    return shown


if __name__ == "__main__":
    sys.exit(main())
