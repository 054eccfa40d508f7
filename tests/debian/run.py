"""`make test-arm64`: what is built for nodes runs on Debian 12 for arm64 and on Debian 13, with their own Python alone.

mmdebstrap makes a root file system for each (once, some minutes, 500 MB in tests/debian/.cache; remove it to make them
anew). In there, without a network, the agent's file shows the system, and on Debian 13 the manager is installed and
serves. arm64 is emulated by qemu-user-static through binfmt_misc, which is set up for the run where it is not. Exit
codes: 0 all proofs held, or skipped with the reason in one line; 1 a proof failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from build_agent import build as build_agent
from build_manager import build as build_manager
from build_manager import version as manager_version
from wheels import MACHINES, BuildError

CACHE = Path(__file__).resolve().parent / ".cache"
PACKAGES = "python3,iproute2"
MAKE_SECONDS = 1200
RUN_SECONDS = 300
PROGRAMS = ("mmdebstrap", "arch-test", "qemu-aarch64-static", "unshare", "setpriv")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

BINFMT = Path("/proc/sys/fs/binfmt_misc")
# Comes with qemu-user-static, for systems with systemd, which does by itself what is done here.
RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
OUR_RULE = "kattila-aarch64"

# Its mounts and processes end with it, and with this program.
APART = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child")
ENTER = """
root=$1 user=$2
shift 2
mount -t proc proc "$root/proc" && ip link set lo up && exec chroot --userspec="$user" "$root" "$@"
"""
# QEMU hands on no question for these to the kernel (linux-user/fd-trans.c knows neither RTM_GETNEIGH nor RTM_GETRULE).
NOT_EMULATED = {
    "arm64": [
        {"collector": name, "reason": "OSError: [Errno 95] Operation not supported"} for name in ("neighbours", "rules")
    ]
}
SERVE = """
import os, subprocess, sys, time, urllib.request
settings = {"DNS": "kattila.example.com", "DNS_SERVER": "127.0.0.1"}
log = open(sys.argv[2] + "/log", "w")
server = subprocess.Popen([sys.argv[1], "serve"], cwd=sys.argv[2], env=os.environ | settings, stdout=log, stderr=log)
for _ in range(200):
    time.sleep(0.1)
    try:
        print(urllib.request.urlopen("http://127.0.0.1:5086/status/healthcheck").read().decode())
        break
    except OSError:
        pass
else:
    sys.stderr.write(open(log.name).read())
server.terminate()
sys.exit(server.wait())
"""


class SkippedError(Exception):
    """It cannot run here; the text says why."""


class ProofError(Exception):
    """Something is not as it should be; the text says what."""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with ExitStack() as stack:
            check_machine()
            stack.enter_context(emulation())
            built = Path(stack.enter_context(TemporaryDirectory(prefix="kattila-built-")))
            prove_agent(Root("bookworm", "arm64"), built)
            prove_agent(Root("trixie", "amd64"), built)
            prove_manager(Root("trixie", "amd64"), built, "3.13")
    except SkippedError as reason:
        print(f"test-arm64 is skipped: {reason}")
    except (ProofError, BuildError) as failure:
        print(f"FAILED  {failure}")
        return 1
    return 0


def check_machine() -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        raise SkippedError("making a root file system needs root")
    if os.uname().machine != "x86_64":
        raise SkippedError("it emulates arm64 on an x86_64 machine, which this one is not")
    if missing:
        raise SkippedError(f"{', '.join(missing)} missing: as root, make test-arm64 installs them with apt-get")


@contextmanager
def emulation() -> Iterator[None]:
    """Let the kernel run programs for arm64; what was not there before is removed at the end."""
    with ExitStack() as stack:
        if not (BINFMT / "register").exists():
            mounted = subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=False)
            if mounted.returncode:
                raise SkippedError("this kernel has no binfmt_misc, through which arm64 is emulated")
            stack.callback(subprocess.run, ["umount", str(BINFMT)], check=True)
        ours = BINFMT / OUR_RULE
        if not (BINFMT / "qemu-aarch64").exists():
            if not ours.exists():
                # As one is there, a run was killed; it is as good, and goes at the end of this one.
                (BINFMT / "register").write_text(RULE.read_text().strip().replace("qemu-aarch64", OUR_RULE, 1))
            stack.callback(ours.write_text, "-1")
        yield


@dataclass(frozen=True)
class Root:
    """One root file system."""

    suite: str
    arch: str

    def __str__(self) -> str:
        return f"Debian {self.suite} on {self.arch}"

    @property
    def path(self) -> Path:
        return CACHE / f"{self.suite}-{self.arch}"

    def make(self) -> None:
        """Make it, unless it is there as this file wants it."""
        wanted = hashlib.sha256(f"{self.suite} {self.arch} {PACKAGES}".encode()).hexdigest()
        stamp = self.path.with_suffix(".complete")
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"Making a root file system: {self} (once, up to some minutes)", flush=True)
        stamp.unlink(missing_ok=True)
        if self.path.exists():
            shutil.rmtree(self.path)
        CACHE.mkdir(exist_ok=True)
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--architectures={self.arch}", f"--include={PACKAGES}"]
        made = subprocess.run(
            [*APART, *words, self.suite, str(self.path)],
            check=False,
            capture_output=True,
            text=True,
            timeout=MAKE_SECONDS,
        )
        if made.returncode:
            raise SkippedError(f"mmdebstrap failed: {(made.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
        stamp.write_text(wanted)

    def run(self, *words: str, user: str = "65534:65534") -> str:
        """Run a command in it, without network and environment, and return what it prints; raises ProofError."""
        command = [*APART, "--net", "sh", "-c", ENTER, "sh", str(self.path), user, *words]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=RUN_SECONDS, env=ENVIRONMENT
        )
        if done.returncode or done.stderr:
            raise ProofError(f"{self}: {' '.join(words)} ended with {done.returncode} and said: {done.stderr.strip()}")
        return done.stdout

    @contextmanager
    def folder(self) -> Iterator[str]:
        """Yield the path, as it is seen inside, of an empty folder that everybody may use; removed at the end."""
        folder = self.path / "opt" / "kattila"
        # A run that was killed left it.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        folder.chmod(0o777)
        try:
            yield f"/opt/{folder.name}"
        finally:
            shutil.rmtree(folder)

    def outside(self, path: str) -> Path:
        """Return where a path of it is out here."""
        return self.path / path.removeprefix("/")


def prove_agent(root: Root, built: Path) -> None:
    """The file shows the system, as nobody, with no more than Debian's python3."""
    root.make()
    (file,) = build_agent([root.arch], built)
    with root.folder() as folder:
        installed = f"{folder}/{file.name}"
        shutil.copy2(file, root.outside(installed))
        began = time.monotonic()
        said = root.run(installed, "-version").strip()
        python = root.run("python3", "--version").strip()
        shown = json.loads(root.run(installed, "-sysinfo"))
        seconds = time.monotonic() - began
    failures = [failure for failure in shown["failures"] if failure not in NOT_EMULATED.get(root.arch, [])]
    expect(failures == [], f"{root}: {failures}")
    expect(shown["system"]["machine"] == MACHINES[root.arch], f"{root}: {shown['system']}")
    expect(shown["interfaces"][0]["addresses"][:1] == ["127.0.0.1/8"], f"{root}: {shown['interfaces']}")
    print(f"ok  {root}, {python}: {said}, -sysinfo shows it ({seconds:.1f} s)", flush=True)


def prove_manager(root: Root, built: Path, python: str) -> None:
    """The tarball installs without a network, as nobody, and serves."""
    (tarball,) = build_manager([python], [root.arch], built)
    with root.folder() as folder:
        subprocess.run(["tar", "-xzf", str(tarball), "-C", str(root.outside(folder))], check=True)
        program = f"{folder}/venv/bin/kattila-manager"
        root.run("python3", "-m", "venv", "--without-pip", f"{folder}/venv")
        offline = ("--no-index", "--find-links", f"{folder}/wheels", "--require-hashes", "--no-cache-dir", "--quiet")
        installer = (f"{folder}/venv/bin/python", f"{folder}/pip.whl/pip")
        root.run(*installer, "install", *offline, "-r", f"{folder}/requirements.txt")
        said = root.run(program, "--version").strip()
        healthy = json.loads(root.run(f"{folder}/venv/bin/python", "-c", SERVE, program, folder))
    expect(healthy == {"status": "ok", "version": manager_version()}, f"{root}: {healthy}")
    print(f"ok  {root}, Python {python}: {said}, installed without a network, serves", flush=True)


def expect(held: bool, otherwise: str) -> None:
    if not held:
        raise ProofError(otherwise)


if __name__ == "__main__":
    sys.exit(main())
