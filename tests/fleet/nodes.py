"""What tests do with a lab: commands on nodes and on the control host."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from fleet.place import Place
from fleet.plan import LAB, underlay
from fleet.system import LabError
from fleet.up import BOOT_SECONDS, await_ssh, control_environment, inside, remote

AGENTS = tuple(node.name for node in LAB.agents)
NODES = tuple(node.name for node in LAB.nodes)

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
SETTLED = "systemctl is-system-running --wait"


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
        self, *words: str, seconds: float = 300, extra: Mapping[str, str] | None = None
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

    def set_key(self, *values: str) -> None:
        """Let the fleet's TXT record hold these texts, or none, by a signed update (RFC 2136)."""
        server = underlay(LAB, LAB.machine(LAB.resolver))[0]
        lines = [f"server {server}", f"zone {LAB.zone}", f"del {LAB.key_record} TXT"]
        lines += [f'add {LAB.key_record} 5 TXT "{value}"' for value in values]
        self.on(LAB.resolver, "knsupdate -k /etc/knot/update.key", "\n".join([*lines, "send", ""]))
