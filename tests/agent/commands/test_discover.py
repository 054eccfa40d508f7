"""-discover and the discovery threads among real agents and hostile servers, on real tunnels."""

from __future__ import annotations

import itertools
import json
import os
import pty
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kattila_agent.commands import discover
from kattila_agent.config import PORT, default_limits
from kattila_agent.outbound.discovery import Directory, Discoverer, Relay, candidates
from kattila_agent.outbound.http.clients import AgentClient
from kattila_agent.outbound.http.connection import UnreachableError
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.collect import Inputs, measure
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.signing import Key
from support.agent_folder import OTHER_PSK, keep_id, keep_ring, settings
from support.agent_process import AGENT, environment
from support.knot import running_knot
from support.manager import now_ms
from support.mesh import INTERVAL_SECONDS, MANAGER_ADDRESS, MANAGER_PORT, Mesh, MeshNode, new_mesh
from support.netns import Namespace, new_namespace
from support.reports import KEY, PSK, RING
from support.runtime import REAL
from support.sibling import Behaviour, answers_as, close, drip, responds, serving, silence
from support.waiting import PATIENCE_SECONDS
from support.wireguard import new_device, wg

HERE, NEAR, BEHIND, FAR, OTHER, STRANGER = (f"{number:08}-0000-4000-8000-000000000000" for number in range(1, 7))
NAMES = ("here", "near", "behind", "far", "other")
# Peers of the one who asks: one that never answers, and those that another node has in an agent's place.
NOBODY = "203.0.113.200"
HOSTILE: dict[str, tuple[Behaviour, str]] = {
    "203.0.113.50": (responds(b"\0garbage"), "the answer is not from an agent of this fleet"),
    "203.0.113.51": (answers_as(KEY, OTHER, nonce="f" * 32), "the answer has the nonce of another query"),
    "203.0.113.52": (silence, "no whole answer within 2 s"),
    "203.0.113.53": (drip, "no whole answer within 2 s"),
    "203.0.113.54": (responds(b"x" * 300_000), "its answer is over 262144 bytes"),
    "203.0.113.55": (responds(b"", 302, Location=f"http://203.0.113.12:{PORT}/status/peer"), "it refuses (HTTP 302)"),
    "203.0.113.56": (answers_as(KEY, HERE), "it has the id of this node"),
    "203.0.113.57": (answers_as(Key.from_psk(OTHER_PSK), OTHER), "matches none of the 1 keys"),
    "203.0.113.58": (close, "the connection was closed before an answer came"),
}
BOASTER = "203.0.113.60"
V6 = {"here": "fd99::1", "near": "fd99::2"}


@dataclass(frozen=True)
class Fleet:
    """The node "here" sends queries. "near" reaches the manager, "behind" only through "near", and "far" not at all.

    On "other" runs no agent, but much else answers there.
    """

    mesh: Mesh
    settings: dict[str, str]

    @property
    def here(self) -> Namespace:
        return self.mesh["here"].namespace

    @property
    def folder(self) -> Path:
        return self.mesh["here"].folder

    def overlay(self, name: str) -> str:
        return self.mesh[name].overlay

    def run(
        self,
        *arguments: str,
        flag: str = "-discover",
        namespace: Namespace | None = None,
        folder: Path | None = None,
        **more: str,
    ) -> tuple[int, str, str]:
        done = subprocess.run(
            (namespace or self.here).command(*AGENT, flag, *arguments),
            cwd=folder or self.folder,
            env=environment(**(self.settings | more)),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def found(self) -> dict[str, Any]:
        code, shown, said = self.run("-json")
        assert code == 0, said
        found: dict[str, Any] = json.loads(shown)
        return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    tunnels = [*(("here", name) for name in NAMES[1:]), ("near", "behind")]
    with new_mesh(tmp_path_factory.mktemp("mesh"), NAMES, tunnels) as mesh, ExitStack() as stack:
        with mesh["here"].namespace.entered():
            given = settings(stack.enter_context(running_knot()), f"http://{MANAGER_ADDRESS}:{MANAGER_PORT}", PSK)
        join_v6(mesh)
        place_others(stack, mesh["here"], mesh["other"])
        keep_id(mesh["here"].folder, HERE)
        mesh.manager.start()
        for name, agent_id in (("near", NEAR), ("behind", BEHIND), ("far", FAR)):
            keep_id(mesh[name].folder, agent_id)
            if name != "near":
                mesh[name].block()
            mesh[name].start()
        mesh.wait_until(lambda: mesh.paths("behind") and [] not in mesh.paths("behind").values())
        yield Fleet(mesh, given)


def join_v6(mesh: Mesh) -> None:
    """Let the tunnel between two nodes carry IPv6, too."""
    for name, other in (("here", "near"), ("near", "here")):
        device, peer = mesh[name].device, mesh[other]
        mesh[name].namespace.ip("address", "add", f"{V6[name]}/64", "dev", device.name, "nodad")
        device.set("peer", peer.device.public_key, "allowed-ips", f"{peer.overlay}/32,{V6[other]}/128")


def place_others(stack: ExitStack, here: MeshNode, there: MeshNode) -> None:
    """Add addresses to a node, each with a server that is not an agent, and a peer that never existed."""
    here.device.set("peer", wg("pubkey", stdin=wg("genkey")).strip(), "allowed-ips", f"{NOBODY}/32")
    addresses = [*HOSTILE, BOASTER]
    allowed = ",".join(f"{address}/32" for address in (there.overlay, *addresses))
    here.device.set("peer", there.device.public_key, "allowed-ips", allowed)
    for address in addresses:
        there.namespace.ip("address", "add", f"{address}/24", "dev", there.device.name)
    with there.namespace.entered():
        for address, (behave, _) in HOSTILE.items():
            stack.enter_context(serving(behave, address, PORT))
        stack.enter_context(serving(answers_as(KEY, OTHER, 10**9, hostname="\x1b[2Jloud"), BOASTER, PORT))


def test_agents_that_answer_and_addresses_that_do_not(fleet: Fleet) -> None:
    found = fleet.found()
    assert (found["agent_id"], found["not_asked"]) == (HERE, [])
    agents = {each["address"]: each for each in found["agents"]}
    said = {
        address: (each["agent_id"], each["hostname"], each["distance"], each["next_hop"], each["next_hop_name"])
        for address, each in agents.items()
    }
    assert said == {
        fleet.overlay("near"): (NEAR, "near", 0, None, None),
        V6["near"]: (NEAR, "near", 0, None, None),
        fleet.overlay("behind"): (BEHIND, "behind", 1, NEAR, "near"),
        fleet.overlay("far"): (FAR, "far", None, None, None),
        BOASTER: (OTHER, "\x1b[2Jloud", 10**9, None, None),
    }
    assert all(each["round_trip_ms"] > 0 for each in found["agents"])
    reasons = {each["address"]: each["reason"] for each in found["silent"]}
    assert reasons.pop(fleet.overlay("other")) == "connection refused"
    assert reasons.pop(NOBODY) != ""
    assert set(reasons) == set(HOSTILE)
    for address, (_, why) in HOSTILE.items():
        assert why in reasons[address], address


def test_a_table_for_people(fleet: Fleet) -> None:
    code, shown, said = fleet.run()
    assert (code, PSK.decode() in said) == (0, False)
    lines = shown.splitlines()
    assert lines[0].split() == ["ADDRESS", "NAME", "DISTANCE", "ROUND", "TRIP", "NEXT", "HOP", "ID"]
    rows = [line.split() for line in lines[1:6]]
    assert [(row[1], row[2], row[5]) for row in rows] == [
        ("near", "0", "manager"),
        ("near", "0", "manager"),
        ("behind", "1", "near"),
        ("\\u001b[2Jloud", "1000000000", "-"),
        ("far", "none", "-"),
    ]
    assert lines[6] == "5 of 16 addresses answered"
    assert f"  {fleet.overlay('other')}: connection refused" in lines
    assert PSK.decode() not in shown


@contextmanager
def at_a_terminal(fleet: Fleet) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[bytes], bytes]]]:
    """Run it with a terminal as stderr; also yield what reads that until something is shown, or to the end."""
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        fleet.here.command(*AGENT, "-discover"),
        cwd=fleet.folder,
        env=environment(**fleet.settings),
        stdout=subprocess.PIPE,
        stderr=other_end,
    ) as process:
        os.close(other_end)
        shown = b""

        def read_until(text: bytes) -> bytes:
            nonlocal shown
            # Reading fails when the other end is closed.
            with suppress(OSError):
                while text not in shown:
                    shown += os.read(terminal, 4096)
            return shown

        yield process, read_until
    os.close(terminal)


def test_progress_is_for_terminals(fleet: Fleet) -> None:
    with at_a_terminal(fleet) as (process, read_until):
        shown = read_until(b"\x1b[K")
        assert process.wait(PATIENCE_SECONDS) == 0
    assert b"\r1 of 16 queried\r2 of 16 queried" in shown
    assert shown.endswith(b"\r\x1b[K")


def test_an_interrupt_ends_it_quietly(fleet: Fleet) -> None:
    with at_a_terminal(fleet) as (process, read_until):
        read_until(b"1 of 16 queried")
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, shown) == (130, b"")
        assert b"Traceback" not in read_until(b"Traceback")


@pytest.mark.parametrize("flag", ["-discover", "--discover"])
def test_without_wireguard_there_is_no_address_to_query(fleet: Fleet, tmp_path: Path, flag: str) -> None:
    with new_namespace() as bare:
        code, shown, said = fleet.run(flag=flag, namespace=bare, folder=tmp_path)
    assert (code, shown) == (1, "")
    assert "there is no address to query: this node has no WireGuard interface" in said


def test_without_peers_there_is_no_address_to_query(fleet: Fleet, tmp_path: Path) -> None:
    keep_ring(tmp_path, PSK)
    with new_namespace() as bare, new_device(bare) as device:
        bare.ip("link", "set", device.name, "up")
        code, shown, said = fleet.run("-json", namespace=bare, folder=tmp_path)
    assert code == 0
    assert "there is no address to query: the AllowedIPs hold neither single addresses nor small subnets" in said
    found = json.loads(shown)
    assert (found["agents"], found["silent"]) == ([], [])


def test_without_privilege_the_error_has_a_remedy(fleet: Fleet) -> None:
    code = (
        "import os, sys\n"
        "import kattila_agent.__main__ as agent, psutil, dotenv, platform\n"
        "import kattila_agent.commands.discover, kattila_agent.commands.measuring\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(agent.main(['-discover']))"
    )
    command = fleet.here.command(sys.executable, "-c", code)
    done = subprocess.run(command, cwd="/", env=environment(**fleet.settings), capture_output=True, check=False)
    assert done.returncode == 1
    assert b"reading WireGuard needs root or the helper, whose socket" in done.stderr


def test_without_a_key_no_query_is_sent(fleet: Fleet, tmp_path: Path) -> None:
    code, shown, said = fleet.run(folder=tmp_path, DNS="nothing.example.org")
    assert (code, shown) == (1, "")
    assert "no key to sign with" in said


def test_wrong_settings_end_with_2(fleet: Fleet) -> None:
    assert fleet.run(DNS="")[0] == 2
    assert fleet.run(AGENT_LISTEN="nowhere")[0] == 2


def test_real_siblings_become_relays_and_a_new_path_is_found(fleet: Fleet) -> None:
    directory, stop = Directory(INTERVAL_SECONDS), threading.Event()
    with fleet.here.entered(), ExitStack() as stack:
        stack.callback(stop.set)
        telemetry = measure(Inputs({}, default_limits(), REAL)).telemetry
        asked = candidates(telemetry).addresses
        # On the own subnets all; after a handshake first, the one that never shook hands last.
        assert {V6["near"], *(fleet.overlay(name) for name in NAMES[1:])} <= set(asked[:-1])
        assert asked[-1] == NOBODY
        runtime = Runtime(
            now=now_ms,
            monotonic=time.monotonic,
            since_boot_ms=lambda: 0,
            nonce=lambda: secrets.token_hex(16),
            new_id=lambda: HERE,
            share=random.random,
        )
        discoverer = Discoverer(
            runtime, directory, AgentClient().query, lambda: RING, lambda: HERE, lambda now: True, stop
        )
        directory.update(asked)
        discoverer.start()
        fleet.mesh.wait_until(lambda: [each.agent_id for each in relays(directory)] == [NEAR, BEHIND])
        near, behind = relays(directory)
        assert (near.hostname, near.distance, behind.hostname, behind.distance) == ("near", 0, "behind", 1)
        assert near.address in (fleet.overlay("near"), V6["near"])
        fleet.mesh["far"].unblock()
        fleet.mesh.wait_until(lambda: {each.agent_id for each in relays(directory)} == {NEAR, BEHIND, FAR})
        fleet.mesh["far"].block()


def relays(directory: Directory) -> tuple[Relay, ...]:
    return directory.relays(HERE, time.monotonic())


def test_when_the_time_is_over_the_remaining_addresses_are_not_queried() -> None:
    turns = itertools.count()

    def ask(address: str) -> PeerAnswer:
        raise UnreachableError("it does not answer in time")

    found = discover.survey(
        [f"192.0.2.{number}" for number in range(100)],
        HERE,
        "here",
        ask,
        lambda: 20.0 * next(turns),
        lambda _done, _of: None,
    )
    assert (found.agents, len(found.silent) + len(found.not_asked)) == ((), 100)
    assert 0 < len(found.silent) < 10
    assert "not queried, because 90 s were over" in discover.as_table(found)


def test_at_most_sixteen_queries_run_at_a_time() -> None:
    lock, here, most = threading.Lock(), [0], [0]

    def ask(address: str) -> PeerAnswer:
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
        time.sleep(0.02)
        with lock:
            here[0] -= 1
        return PeerAnswer(NEAR, "near", 0, None, (), (), "")

    done: list[int] = []
    found = discover.survey(
        list(map(str, range(200))), HERE, "here", ask, time.monotonic, lambda number, of: done.append(number)
    )
    assert (len(found.agents), most[0] <= discover.THREADS) == (200, True)
    assert done == list(range(1, 201))


def test_next_hops_are_named_and_silent_ones_grouped() -> None:
    said = {
        "192.0.2.1": PeerAnswer(NEAR, "near", 0, None, (), (), ""),
        "192.0.2.2": PeerAnswer(FAR, "far", 1, NEAR, (), (), ""),
        "192.0.2.3": PeerAnswer(OTHER, "other", 2, HERE, (), (), ""),
        "192.0.2.4": PeerAnswer(BEHIND, "stray", 1, STRANGER, (), (), ""),
    }

    def ask(address: str) -> PeerAnswer:
        if address not in said:
            raise UnreachableError("no route to host")
        return said[address]

    addresses = [*said, *(f"198.51.100.{number}" for number in range(1, 10))]
    found = discover.survey(addresses, HERE, "here", ask, itertools.count().__next__, lambda _done, _of: None)
    rows = [line.split() for line in discover.as_table(found).splitlines()]
    assert [(row[1], row[2], row[5]) for row in rows[1:5]] == [
        ("near", "0", "manager"),
        ("far", "1", "near"),
        ("stray", "1", STRANGER),
        ("other", "2", "here"),
    ]
    assert discover.as_table(found).splitlines()[-2:] == [
        "4 of 13 addresses answered",
        f"  {', '.join(addresses[4:10])} and 3 more: no route to host",
    ]
