"""Other agents from Debian to compare with, if installed: how to start each, and how to run one cycle.

A cycle reads what they have in common with our agent: load, memory, uptime, and the counters of all interfaces. None of
them reads WireGuard.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rival:
    """A running program. `run_cycle` makes it do one cycle, and raises OSError while it is not ready."""

    process: subprocess.Popen[bytes]
    run_cycle: Callable[[], object]


@dataclass(frozen=True)
class Kind:
    """A program: its Debian package, its file name, and a function that starts it in a folder."""

    name: str
    program: str
    start: Callable[[str, Path], Rival]

    @property
    def path(self) -> str | None:
        """Return the path of the program, None if it is not installed."""
        return shutil.which(self.program, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def _start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / "rival.log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _free_port() -> int:
    # zabbix accepts no port above 32767. In the benchmark's own namespace these ports are free.
    for port in range(20_000, 32_768):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")


def _node_exporter(program: str, folder: Path) -> Rival:
    port = _free_port()
    process = _start(folder, program, f"--web.listen-address=127.0.0.1:{port}")

    def scrape() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/metrics")
        if b"node_network_receive_bytes_total" not in connection.getresponse().read():
            raise RuntimeError("node-exporter returns no interface counters")
        connection.close()

    return Rival(process, scrape)


_ZABBIX_KEYS = ("system.cpu.load[all,avg1]", "vm.memory.size[available]", "system.uptime", "net.if.discovery")


def _zabbix(program: str, folder: Path) -> Rival:
    port = _free_port()
    config = folder / "zabbix.conf"
    config.write_text(
        f"Server=127.0.0.1\nListenIP=127.0.0.1\nListenPort={port}\nHostname=bench\nLogType=console\n"
        f"ControlSocket={folder}/agent.sock\nPluginSocket={folder}/plugin.sock\nPidFile={folder}/zabbix.pid\n"
    )
    process = _start(folder, program, "-c", str(config))

    def item(key: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"ZBXD\x01" + struct.pack("<II", len(key), 0) + key.encode())
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer[13:]

    def run_cycle() -> None:
        links = [name for _, name in socket.if_nameindex()]
        for key in (*_ZABBIX_KEYS, *(f"net.if.{direction}[{link}]" for link in links for direction in ("in", "out"))):
            value = item(key)
            if not value or value.startswith(b"ZBX_NOTSUPPORTED"):
                raise RuntimeError(f"zabbix_agent2 does not return {key}")

    return Rival(process, run_cycle)


def _collectd(program: str, folder: Path) -> Rival:
    # collectd runs its own cycles. The benchmark waits for its output file to grow.
    prefix = Path(program).parents[1]
    plugins = "".join(f"LoadPlugin {name}\n" for name in ("load", "memory", "uptime", "interface", "csv"))
    config = folder / "collectd.conf"
    config.write_text(
        f'BaseDir "{folder}"\nPIDFile "{folder}/collectd.pid"\nPluginDir "{prefix}/lib/collectd"\n'
        f'TypesDB "{prefix}/share/collectd/types.db"\nHostname "bench"\nFQDNLookup false\nInterval 0.1\n'
        f'{plugins}<Plugin csv>\n  DataDir "{folder}/csv"\n</Plugin>\n'
    )
    process = _start(folder, program, "-f", "-C", str(config))

    def written() -> int:
        uptimes = list((folder / "csv/bench/uptime").glob("uptime-*"))
        if not uptimes:
            raise OSError("nothing written yet")
        return uptimes[0].read_bytes().count(b"\n")

    def wait() -> None:
        before = written()
        deadline = time.monotonic() + 5
        while written() == before:
            if time.monotonic() > deadline:
                raise RuntimeError("collectd wrote nothing for 5 s")
            time.sleep(0.01)

    return Rival(process, wait)


KINDS = (
    Kind("prometheus-node-exporter", "prometheus-node-exporter", _node_exporter),
    Kind("zabbix-agent2", "zabbix_agent2", _zabbix),
    Kind("collectd-core", "collectd", _collectd),
)
