"""Names are resolved in bounded time; a silent resolver keeps the last known addresses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from kattila_agent.outbound.http.connection import Connection, UnreachableError
from kattila_agent.outbound.http.resolver import Resolver, is_address, look_up
from support.waiting import PATIENCE_SECONDS, wait_for

NAME = "manager.example"
SILENCE = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SOON = 0.5
# Prints the error of a request if the only name server never answers.
ASK_THE_SILENT = """
import socket
from kattila_agent.outbound.http.connection import Connection, UnreachableError
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.53", 53))
try:
    Connection("http://manager.example:5086").post("/status/updates", b"{}")
except UnreachableError as error:
    print(error)
"""
IN_A_NETWORK_OF_ITS_OWN = ["unshare", "--mount", "--net", "sh", "-ec"]


class Scripted:
    """A resolver that says one thing after the other, when it may."""

    def __init__(self, *says: Sequence[str] | Exception) -> None:
        self.says = list(says)
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, host: str) -> Sequence[str]:
        self.asked += 1
        assert self.may_answer.wait(PATIENCE_SECONDS)
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said


@pytest.fixture
def hung() -> Iterator[Scripted]:
    scripted = Scripted(["192.0.2.1"])
    scripted.may_answer.clear()
    yield scripted
    scripted.may_answer.set()


def test_the_system_knows_this_machine() -> None:
    assert set(look_up("localhost")) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("host", "is_an_address"),
    [("192.0.2.1", True), ("[2001:db8::1]", True), ("fe80::1%eth0", True), (NAME, False), ("192.0.2", False)],
)
def test_an_address_needs_no_lookup(host: str, is_an_address: bool) -> None:
    assert is_address(host) == is_an_address


def test_each_answer_replaces_the_one_before() -> None:
    resolver = Resolver(Scripted(["192.0.2.1"], ["192.0.2.2", "2001:db8::2"]))
    assert [resolver.addresses(NAME), resolver.addresses(NAME)] == [["192.0.2.1"], ["192.0.2.2", "2001:db8::2"]]


def test_the_first_lookup_fails_in_time_if_the_resolver_hangs(hung: Scripted) -> None:
    with pytest.raises(socket.gaierror, match="does not answer in time"):
        Resolver(hung, SOON).addresses(NAME)


def test_a_hanging_resolver_gets_one_lookup_per_name(hung: Scripted) -> None:
    resolver = Resolver(hung, SOON)
    for _ in range(3):
        with pytest.raises(socket.gaierror):
            resolver.addresses(NAME)
    assert hung.asked == 1


def test_a_late_answer_counts_the_next_time(hung: Scripted) -> None:
    resolver = Resolver(hung, SOON)
    with pytest.raises(socket.gaierror):
        resolver.addresses(NAME)
    hung.may_answer.set()

    def found() -> Sequence[str]:
        with suppress(socket.gaierror):
            return resolver.addresses(NAME)
        return []

    assert wait_for(found, "an answer") == ["192.0.2.1"]


def test_the_last_answer_counts_while_the_resolver_is_silent() -> None:
    scripted = Scripted(["192.0.2.1"], SILENCE, ["192.0.2.2"])
    resolver = Resolver(scripted, PATIENCE_SECONDS)
    assert [resolver.addresses(NAME) for _ in range(2)] == [["192.0.2.1"]] * 2
    scripted.may_answer.clear()
    resolver._seconds = SOON
    assert resolver.addresses(NAME) == ["192.0.2.1"]
    scripted.may_answer.set()


def test_a_removed_name_is_gone() -> None:
    resolver = Resolver(Scripted(["192.0.2.1"], UNKNOWN))
    resolver.addresses(NAME)
    with pytest.raises(socket.gaierror, match="not known"):
        resolver.addresses(NAME)


def test_an_impossible_name_is_unknown() -> None:
    with pytest.raises(socket.gaierror):
        Resolver().addresses("a" * 64 + ".example")


def test_all_addresses_are_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=_answer_once, args=(server,), daemon=True).start()
        connection = Connection(f"http://{NAME}:{port}", resolver=Resolver(Scripted(["127.0.0.9", "127.0.0.1"])))
        assert connection.post("/", b"{}").status == 204
        assert connection.address == "127.0.0.1"
        connection.close()


def test_the_error_says_why_a_name_has_no_address() -> None:
    connection = Connection(f"http://{NAME}:1", resolver=Resolver(Scripted(UNKNOWN)))
    with pytest.raises(UnreachableError, match=r"its name cannot be resolved \(Name or service not known\)"):
        connection.post("/", b"{}")


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_a_silent_name_server_does_not_delay_a_request(tmp_path: Path) -> None:
    # The system's resolver would wait for two and a half minutes, and report another error.
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\noptions timeout:30 attempts:5\n")
    script = f'ip link set lo up; mount --bind {tmp_path}/resolv.conf /etc/resolv.conf; exec "$0" -c "$1"'
    words = [*IN_A_NETWORK_OF_ITS_OWN, script, sys.executable, ASK_THE_SILENT]
    said = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True).stdout
    assert said == "its name cannot be resolved (the resolver does not answer in time)\n"


def _answer_once(server: socket.socket) -> None:
    taken, _ = server.accept()
    with taken:
        taken.recv(65536)
        taken.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        taken.recv(65536)
