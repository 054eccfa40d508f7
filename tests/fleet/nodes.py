"""Commands for tests on a lab's nodes and on its control host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fleet import wireguard
from fleet.place import Place
from fleet.plan import LAB, underlay
from fleet.system import LabError, kill_all, members, remove_groups, run
from fleet.up import BOOT_SECONDS, await_ssh, boot, control_environment, inside, remote

AGENTS = tuple(node.name for node in LAB.agents)
NODES = tuple(node.name for node in LAB.nodes)

# Extra variables for a rollout in one batch, in tests that are not about batches.
ONE_BATCH = '{"kattila_batches": ["100%"]}'
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
MANAGER_COMMAND = "/usr/local/bin/kattila-manager"
# Paths that change on every running node.
IGNORED_PATHS = re.compile(
    r"^(run|tmp|var/tmp|var/log|var/lib/systemd|var/lib/knot|var/lib/knot-other|(root|home/\w+)/\.(ansible|sudo_as_admin_successful))$|/__pycache__$"
)
# By path: size, mode and time of the last change in nanoseconds.
Disk = dict[str, tuple[int, int, int]]
AWAIT_BOOT = "systemctl is-system-running --wait"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Run:
    """The exit code and the output of a playbook."""

    code: int
    text: str

    def counts(self, result: str) -> dict[str, int]:
        """Return the number of tasks with a result by host, such as `changed`, from the recap."""
        found = re.findall(rf"^(\S+) +: ok=.*\b{result}=(\d+)", self.text, re.MULTILINE)
        return {host: int(number) for host, number in found}


@dataclass(frozen=True)
class Fleet:
    """A lab that is up."""

    place: Place

    def on(self, node: str, command: str, stdin: str = "") -> str:
        """Run a shell command on a node and return its output; raises LabError if it fails."""
        return remote(self.place, node, command, stdin).strip()

    def on_all(self, nodes: Sequence[str], command: str) -> dict[str, str]:
        """Run a shell command on several nodes in parallel, and return the output by node."""
        with ThreadPoolExecutor(len(nodes)) as pool:
            return dict(zip(nodes, pool.map(lambda node: self.on(node, command), nodes), strict=True))

    def control(
        self, *words: str, seconds: float = 900, extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the control host in the checkout; standard output and error are merged."""
        return subprocess.run(
            [*inside(self.place, LAB.control), *words],
            cwd=self.place.checkout,
            env=control_environment(self.place) | dict(extra or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )

    def reboot(self, node: str) -> None:
        """Reboot a node, and wait until it is up again."""
        before = self.on(node, BOOT_ID)
        # In the background, because the reboot may close the connection before the command ends.
        self.on(node, "nohup systemctl reboot >/dev/null 2>&1 & exit 0")
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            await_ssh(self.place, node, deadline)
            with suppress(LabError):  # the node is still shutting down
                if self.on(node, BOOT_ID) != before and self.on(node, AWAIT_BOOT) == "running":
                    return
            time.sleep(0.2)

    def playbook(self, name: str, *words: str, extra: Mapping[str, str] | None = None) -> Run:
        """Run one of the project's playbooks on the whole fleet."""
        ran = self.control("ansible-playbook", f"playbooks/{name}", *words, extra=extra)
        return Run(ran.returncode, ran.stdout)

    def manager(self, *words: str) -> Any:
        """Run `kattila-manager` with --json on the manager's node, and return its output."""
        return json.loads(self.on(LAB.manager, f"{MANAGER_COMMAND} {' '.join(words)} --json"))

    def agents_by_name(self) -> dict[str, dict[str, Any]]:
        """Return the manager's list of agents by host name."""
        return {agent["hostname"]: agent for agent in self.manager("agents")["agents"]}

    def states(self) -> dict[str, str]:
        """Return the state of each agent that the manager knows, by host name."""
        return {name: agent["state"] for name, agent in self.agents_by_name().items()}

    def newest_report(self, agent: str) -> dict[str, Any]:
        """Return the newest report of an agent, given by id or host name."""
        return dict(json.loads(self.on(LAB.manager, f"{MANAGER_COMMAND} report {agent}")))

    def disk(self, node: str) -> Disk:
        """Return everything on a node that differs from the root file system, except IGNORED_PATHS.

        Read from the upper layer of the node's overlay file system, so that nothing can hide.
        """
        upper = self.place.node(node) / "upper"
        return {name: entry for name, entry in _entries(upper, upper) if not self._is_folder_of_root(name, entry)}

    def _is_folder_of_root(self, name: str, entry: tuple[int, int, int]) -> bool:
        # The upper layer has a copy of each folder in which anything changed.
        below = self.place.root / name
        return below.is_dir() and below.lstat().st_mode == entry[1]

    def key(self) -> str:
        """Return the PSK that the fleet had when the lab came up."""
        return (self.place.state / "key").read_text()

    def clone(self, source: str, target: str) -> None:
        """Boot a node from a copy of another node's disk; only its place in the network stays."""
        name = self.place.name(target)
        kill_all(lambda: members(name))
        remove_groups(name)
        folder = self.place.node(target)
        shutil.rmtree(folder)
        folder.mkdir()
        run(["cp", "-a", str(self.place.node(source) / "upper"), str(folder / "upper")])
        self._trust_host_key_of(source, target)
        boot(LAB, self.place, LAB.machine(target))
        await_ssh(self.place, target, time.monotonic() + BOOT_SECONDS)

    def _trust_host_key_of(self, source: str, target: str) -> None:
        known = self.place.state / "known_hosts"
        keys = dict(line.split(" ", 1) for line in known.read_text().splitlines())
        keys[target] = keys[source]
        known.write_text("".join(f"{node} {key}\n" for node, key in keys.items()))

    def secrets(self) -> set[str]:
        """Return all secrets that no output may contain: the fleet's PSK, tokens and WireGuard private keys."""
        tokens = self.on(
            LAB.manager, "sed -n 's/^[A-Z]*_TOKEN=//p' /etc/kattila/manager.env 2>/dev/null || true"
        ).split()
        keys = self.on_all(AGENTS, f"cat {wireguard.FOLDER}/{wireguard.INTERFACE}.key")
        return {self.key(), *keys.values(), *(token.strip("'\"") for token in tokens)}

    def set_key(self, *values: str) -> None:
        """Replace the values of the fleet's TXT record by a signed update (RFC 2136)."""
        server = underlay(LAB, LAB.machine(LAB.resolver))[0]
        lines = [f"server {server}", f"zone {LAB.zone}", f"del {LAB.key_record} TXT"]
        lines += [f'add {LAB.key_record} 5 TXT "{value}"' for value in values]
        self.on(LAB.resolver, "knsupdate -k /etc/knot/update.key", "\n".join([*lines, "send", ""]))


def differences(one: Disk, other: Disk) -> set[str]:
    """Return the paths that differ between two disks."""
    return {path for path, _ in one.items() ^ other.items()}


def eventually(seconds: float, read: Callable[[], Answer], accept: Callable[[Answer], bool]) -> Answer:
    """Read until the answer is accepted, and return it; fails with the last answer after `seconds`."""
    deadline = time.monotonic() + seconds
    while not accept(answer := read()):
        assert time.monotonic() < deadline, answer
        time.sleep(1)
    return answer


def _entries(upper: Path, folder: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for path in sorted(folder.iterdir()):
        name = str(path.relative_to(upper))
        if IGNORED_PATHS.search(name):
            continue
        status = path.lstat()
        if path.is_dir() and not path.is_symlink():
            yield from _entries(upper, path)
        yield name, (0 if path.is_dir() else status.st_size, status.st_mode, 0 if path.is_dir() else status.st_mtime_ns)
