"""Makes the nodes' root file system with mmdebstrap, once, and keeps it."""

from __future__ import annotations

import hashlib
import shutil

from fleet.place import Place
from fleet.plan import ADMIN
from fleet.system import run

SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "procps", "python3", "sudo"),
    *("iproute2", "iputils-ping", "nftables", "wireguard-go", "wireguard-tools"),
    *("knot", "knot-dnsutils", "nginx-light"),
)
# Servers, which start only on the nodes that need them, and services and timers that a lab does not need.
DISABLED_UNITS = (
    *("knot.service", "nginx.service", "e2scrub_reap.service", "getty@tty1.service", "systemd-pstore.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
)
HOOKS = (
    f'chroot "$1" systemctl --quiet disable {" ".join(DISABLED_UNITS)}',
    'chroot "$1" systemctl --quiet mask console-getty.service',
    'rm -f "$1"/etc/ssh/ssh_host_*',
    f'chroot "$1" useradd --create-home --shell /bin/bash {ADMIN}',
    f'echo "{ADMIN} ALL=(ALL) NOPASSWD: ALL" >"$1"/etc/sudoers.d/{ADMIN}',
    # As on a hardened node: files that others may read need an explicit mode.
    'echo "session optional pam_umask.so umask=0077" >>"$1"/etc/pam.d/common-session',
)
MAKE_SECONDS = 600
# The command dies with this program, however it ends, and leaves neither processes nor mounts.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child")


def make_root(place: Place) -> None:
    """Make the root file system, unless an up-to-date one exists."""
    version = hashlib.sha256(repr((SUITE, PACKAGES, HOOKS)).encode()).hexdigest()
    stamp = place.cache / "root.complete"
    if stamp.exists() and stamp.read_text() == version:
        return
    stamp.unlink(missing_ok=True)
    if place.root.exists():
        shutil.rmtree(place.root)
    hooks = [f"--customize-hook={hook}" for hook in HOOKS]
    words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", *hooks, SUITE]
    run([*DIE_WITH_PARENT, *words, str(place.root)], seconds=MAKE_SECONDS)
    stamp.write_text(version)
