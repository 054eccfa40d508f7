"""What tests do with a lab: commands on nodes and on the control host."""

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

# For a roll-out in one batch, where batches are not what is looked at.
AT_ONCE = '{"kattila_batches": ["100%"]}'
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
MANAGER_COMMAND = "/usr/local/bin/kattila-manager"
CHANGES_ANYWAY = re.compile(
    r"^(run|tmp|var/tmp|var/log|var/lib/systemd|var/lib/knot|var/lib/knot-other|(root|home/\w+)/\.(ansible|sudo_as_admin_successful))$|/__pycache__$"
)
# By path: size, mode, moment of the change.
Disk = dict[str, tuple[int, int, int]]
SETTLED = "systemctl is-system-running --wait"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Run:
    """How a playbook ended, and all it said. counts: by host, as `changed`, from its recapitulation."""

    code: int
    text: str

    def counts(self, what: str) -> dict[str, int]:
        found = re.findall(rf"^(\S+) +: ok=.*\b{what}=(\d+)", self.text, re.MULTILINE)
        return {host: int(number) for host, number in found}


@dataclass(frozen=True)
class Fleet:
    """A lab that is up."""

    place: Place

    def on(self, node: str, command: str, stdin: str = "") -> str:
        """What a shell command prints on a node. Raises LabError if it fails."""
        return remote(self.place, node, command, stdin).strip()

    def on_all(self, nodes: Sequence[str], command: str) -> dict[str, str]:
        """The same on several nodes at once, by node."""
        with ThreadPoolExecutor(len(nodes)) as pool:
            return dict(zip(nodes, pool.map(lambda node: self.on(node, command), nodes), strict=True))

    def control(
        self, *words: str, seconds: float = 900, extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the control host, in the checkout; its standard output and error come back as one text."""
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
        """Let a node reboot, and wait until it is up again."""
        before = self.on(node, BOOT_ID)
        # It may cut the connection before the command has ended.
        self.on(node, "nohup systemctl reboot >/dev/null 2>&1 & exit 0")
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            await_ssh(self.place, node, deadline)
            with suppress(LabError):  # it is on its way down
                if self.on(node, BOOT_ID) != before and self.on(node, SETTLED) == "running":
                    return
            time.sleep(0.2)

    def playbook(self, name: str, *words: str, extra: Mapping[str, str] | None = None) -> Run:
        """Run a playbook of the project against the whole fleet."""
        ran = self.control("ansible-playbook", f"playbooks/{name}", *words, extra=extra)
        return Run(ran.returncode, ran.stdout)

    def manager(self, *words: str) -> Any:
        """What `kattila-manager` answers on its node, with --json."""
        return json.loads(self.on(LAB.manager, f"{MANAGER_COMMAND} {' '.join(words)} --json"))

    def agents_by_name(self) -> dict[str, dict[str, Any]]:
        """What the manager knows of each node's agent."""
        return {agent["hostname"]: agent for agent in self.manager("agents")["agents"]}

    def states(self) -> dict[str, str]:
        """Of each agent that the manager knows, by host name: is it heard of?"""
        return {name: agent["state"] for name, agent in self.agents_by_name().items()}

    def newest_report(self, agent: str) -> dict[str, Any]:
        """What an agent, given by id or host name, said last."""
        return dict(json.loads(self.on(LAB.manager, f"{MANAGER_COMMAND} report {agent}")))

    def disk(self, node: str) -> Disk:
        """Everything on a node that its root file system does not have, or not so.

        Read from the layer above it, so that nothing hides; but for what changes on any node that runs.
        """
        upper = self.place.node(node) / "upper"
        return {name: told for name, told in _entries(upper, upper) if not self._is_folder_of_root(name, told)}

    def _is_folder_of_root(self, name: str, told: tuple[int, int, int]) -> bool:
        # The layer above has a folder as soon as anything in it was changed.
        below = self.place.root / name
        return below.is_dir() and below.lstat().st_mode == told[1]

    def key(self) -> str:
        """The fleet's PSK, as it was when the lab came up."""
        return (self.place.state / "key").read_text()

    def clone(self, source: str, target: str) -> None:
        """Boot a node anew from a copy of another's disk; it keeps only its place in the network."""
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
        """All that must never be shown: the fleet's key, tokens, private keys of tunnels."""
        tokens = self.on(
            LAB.manager, "sed -n 's/^[A-Z]*_TOKEN=//p' /etc/kattila/manager.env 2>/dev/null || true"
        ).split()
        keys = self.on_all(AGENTS, f"cat {wireguard.FOLDER}/{wireguard.INTERFACE}.key")
        return {self.key(), *keys.values(), *(token.strip("'\"") for token in tokens)}

    def set_key(self, *values: str) -> None:
        """Let the fleet's TXT record hold these texts, or none, by a signed update (RFC 2136)."""
        server = underlay(LAB, LAB.machine(LAB.resolver))[0]
        lines = [f"server {server}", f"zone {LAB.zone}", f"del {LAB.key_record} TXT"]
        lines += [f'add {LAB.key_record} 5 TXT "{value}"' for value in values]
        self.on(LAB.resolver, "knsupdate -k /etc/knot/update.key", "\n".join([*lines, "send", ""]))


def differences(one: Disk, other: Disk) -> set[str]:
    """The paths that only one of them has, or that are not the same."""
    return {path for path, _ in one.items() ^ other.items()}


def eventually(seconds: float, ask: Callable[[], Answer], told: Callable[[Answer], bool]) -> Answer:
    """Ask until the answer tells what is wanted, and return it. Fails with the last one after so many seconds."""
    deadline = time.monotonic() + seconds
    while not told(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(1)
    return answer


def _entries(upper: Path, folder: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for path in sorted(folder.iterdir()):
        name = str(path.relative_to(upper))
        if CHANGES_ANYWAY.search(name):
            continue
        told = path.lstat()
        if path.is_dir() and not path.is_symlink():
            yield from _entries(upper, path)
        yield name, (0 if path.is_dir() else told.st_size, told.st_mode, 0 if path.is_dir() else told.st_mtime_ns)
