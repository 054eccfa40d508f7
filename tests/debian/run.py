"""`make test-arm64`: checks the built files on Debian 12 for arm64 and on Debian 13, with Debian's own Python.

mmdebstrap makes a root file system for each (once, in some minutes; 500 MB in tests/debian/.cache; delete it to make
new ones). Both run without a network. The agent's file has to print -sysinfo, and on Debian 13 the manager has to
install and serve. qemu-user-static emulates arm64 through binfmt_misc, which is set up for the run if necessary. Exit
codes: 0 all checks passed, or skipped with the reason in one line; 1 a check failed.
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
# Part of qemu-user-static. On a machine with systemd it is registered already.
RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
OUR_RULE = "kattila-aarch64"

# Mounts and processes of the command end with it, and with this program.
ISOLATED = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child")
ENTER = """
root=$1 user=$2
shift 2
mount -t proc proc "$root/proc" && ip link set lo up && exec chroot --userspec="$user" "$root" "$@"
"""
# QEMU passes no requests for these to the kernel (linux-user/fd-trans.c lacks RTM_GETSTATS, RTM_GETNEIGH and others).
NOT_EMULATED = {
    "arm64": [
        {"collector": "links", "reason": "the counters of all links: Operation not supported"},
        *(
            {"collector": name, "reason": "OSError: [Errno 95] Operation not supported"}
            for name in ("neighbours", "rules")
        ),
    ]
}
SERVE = """
import os, subprocess, sys, time, urllib.request
settings = {"DNS": "kattila.example.com", "DNS_SERVER": "127.0.0.1"}
log = open(sys.argv[2] + "/log", "w")
server = subprocess.Popen([sys.argv[1], "serve"], cwd=sys.argv[2], env=os.environ | settings, stdout=log, stderr=log)
for _ in range(1200):
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
    """The checks cannot run on this machine; the text names the cause."""


class CheckError(Exception):
    """A check failed; the text says what was found."""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with ExitStack() as stack:
            check_machine()
            stack.enter_context(emulation())
            built = Path(stack.enter_context(TemporaryDirectory(prefix="kattila-built-")))
            check_agent(Root("bookworm", "arm64"), built)
            check_agent(Root("trixie", "amd64"), built)
            check_manager(Root("trixie", "amd64"), built, "3.13")
    except SkippedError as reason:
        print(f"test-arm64 is skipped: {reason}")
    except (CheckError, BuildError) as failure:
        print(f"FAILED  {failure}")
        return 1
    return 0


def check_machine() -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        raise SkippedError("not root: making a root file system needs root")
    if os.uname().machine != "x86_64":
        raise SkippedError("this machine is not x86_64: arm64 is emulated only there")
    if missing:
        raise SkippedError(f"missing programs: {', '.join(missing)}: run make test-arm64 as root to install them")


@contextmanager
def emulation() -> Iterator[None]:
    """Make the kernel run arm64 programs, and undo the changes at the end."""
    with ExitStack() as stack:
        if not (BINFMT / "register").exists():
            mounted = subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=False)
            if mounted.returncode:
                raise SkippedError("this kernel has no binfmt_misc: arm64 cannot be emulated")
            stack.callback(subprocess.run, ["umount", str(BINFMT)], check=True)
        ours = BINFMT / OUR_RULE
        if not (BINFMT / "qemu-aarch64").exists():
            if not ours.exists():
                # A rule that exists already is from a killed run. It works as well, and is removed at the end.
                (BINFMT / "register").write_text(RULE.read_text().strip().replace("qemu-aarch64", OUR_RULE, 1))
            stack.callback(ours.write_text, "-1")
        yield


@dataclass(frozen=True)
class Root:
    """A root file system."""

    suite: str
    arch: str

    def __str__(self) -> str:
        return f"Debian {self.suite} on {self.arch}"

    @property
    def path(self) -> Path:
        return CACHE / f"{self.suite}-{self.arch}"

    def make(self) -> None:
        """Make the root file system, unless an up-to-date one exists."""
        version = hashlib.sha256(f"{self.suite} {self.arch} {PACKAGES}".encode()).hexdigest()
        stamp = self.path.with_suffix(".complete")
        if stamp.exists() and stamp.read_text() == version:
            return
        print(f"Making a root file system: {self} (only once, up to some minutes)", flush=True)
        stamp.unlink(missing_ok=True)
        if self.path.exists():
            shutil.rmtree(self.path)
        CACHE.mkdir(exist_ok=True)
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--architectures={self.arch}", f"--include={PACKAGES}"]
        made = subprocess.run(
            [*ISOLATED, *words, self.suite, str(self.path)],
            check=False,
            capture_output=True,
            text=True,
            timeout=MAKE_SECONDS,
        )
        if made.returncode:
            raise SkippedError(f"mmdebstrap failed: {(made.stderr.strip().splitlines() or ['no output'])[-1]}")
        stamp.write_text(version)

    def run(self, *words: str, user: str = "65534:65534") -> str:
        """Run a command in it without network and environment, and return its output; raises CheckError."""
        command = [*ISOLATED, "--net", "sh", "-c", ENTER, "sh", str(self.path), user, *words]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=RUN_SECONDS, env=ENVIRONMENT
        )
        if done.returncode or done.stderr:
            raise CheckError(f"{self}: {' '.join(words)} exited with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    @contextmanager
    def folder(self) -> Iterator[str]:
        """Make an empty folder writable for everyone, yield its path inside, and remove it at the end."""
        folder = self.path / "opt" / "kattila"
        # A killed run may have left it.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        folder.chmod(0o777)
        try:
            yield f"/opt/{folder.name}"
        finally:
            shutil.rmtree(folder)

    def outside(self, path: str) -> Path:
        """Return the path outside for a path inside."""
        return self.path / path.removeprefix("/")


def check_agent(root: Root, built: Path) -> None:
    """Check that the agent's file prints -sysinfo as an unprivileged user, with Debian's python3."""
    root.make()
    (file,) = build_agent([root.arch], built)
    with root.folder() as folder:
        installed = f"{folder}/{file.name}"
        shutil.copy2(file, root.outside(installed))
        began = time.monotonic()
        version = root.run(installed, "-version").strip()
        python = root.run("python3", "--version").strip()
        shown = json.loads(root.run(installed, "-sysinfo"))
        seconds = time.monotonic() - began
    failures = [failure for failure in shown["failures"] if failure not in NOT_EMULATED.get(root.arch, [])]
    expect(failures == [], f"{root}: {failures}")
    expect(shown["system"]["machine"] == MACHINES[root.arch], f"{root}: {shown['system']}")
    expect(shown["interfaces"][0]["addresses"][:1] == ["127.0.0.1/8"], f"{root}: {shown['interfaces']}")
    print(f"ok  {root}, {python}: {version}, -sysinfo works ({seconds:.1f} s)", flush=True)


def check_manager(root: Root, built: Path, python: str) -> None:
    """Check that the tarball installs without a network, as an unprivileged user, and that the manager serves."""
    (tarball,) = build_manager([python], [root.arch], built)
    with root.folder() as folder:
        subprocess.run(["tar", "-xzf", str(tarball), "-C", str(root.outside(folder))], check=True)
        program = f"{folder}/venv/bin/kattila-manager"
        root.run("python3", "-m", "venv", "--without-pip", f"{folder}/venv")
        offline = ("--no-index", "--find-links", f"{folder}/wheels", "--require-hashes", "--no-cache-dir", "--quiet")
        installer = (f"{folder}/venv/bin/python", f"{folder}/pip.whl/pip")
        root.run(*installer, "install", *offline, "-r", f"{folder}/requirements.txt")
        version = root.run(program, "--version").strip()
        healthy = json.loads(root.run(f"{folder}/venv/bin/python", "-c", SERVE, program, folder))
    expect(healthy == {"status": "ok", "version": manager_version()}, f"{root}: {healthy}")
    print(f"ok  {root}, Python {python}: {version}, installed without a network, serves", flush=True)


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise CheckError(message)


if __name__ == "__main__":
    sys.exit(main())
