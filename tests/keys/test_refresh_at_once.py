"""Threads and processes that need a key at the same time share one DNS query."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kattila_keys.ring_file import RingFile
from kattila_protocol.signing import Key
from support.dns_proxy import DnsProxy, dns_proxy
from support.keys import NEW_PSK, NOW, PSK, fingerprints, fingerprints_of, keys_at
from support.knot import ZONE, Knot
from support.waiting import PATIENCE_SECONDS, join_all


def test_callers_wait_for_the_query_in_progress(knot: Knot, label: str, path: Path) -> None:
    arrived, proceed = threading.Event(), threading.Event()

    def slow(_: int, answer: bytes) -> bytes:
        arrived.set()
        proceed.wait(PATIENCE_SECONDS)
        return answer

    knot.set_txt(label, NEW_PSK)
    with dns_proxy(knot.port, slow) as proxy, ThreadPoolExecutor(1) as own_thread:
        keys = keys_at(path, proxy.address, label)
        tried = keys.ring()
        first = own_thread.submit(keys.refresh_after_unknown, tried, NOW)
        assert arrived.wait(PATIENCE_SECONDS)
        assert keys.may_refresh(tried, NOW + 1)
        second = own_thread.submit(keys.refresh_after_unknown, tried, NOW + 1)
        proceed.set()
        for fresh in (first.result(), second.result()):
            assert fresh is not None
            assert fresh.current == Key.from_psk(NEW_PSK)
        assert not keys.may_refresh(keys.ring(), NOW + 1)
        assert proxy.udp_queries == 2


def test_threads_share_one_query(counting_proxy: DnsProxy, knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    start = threading.Barrier(16)

    def work() -> None:
        start.wait()
        keys.refresh_if_due(NOW)
        keys.refresh_or_log(NOW)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    join_all(threads)
    assert counting_proxy.udp_queries == 2
    assert fingerprints(keys.ring()) == fingerprints_of(PSK)


# Prints "ready", waits for a line, calls one method of Keys, and prints the current key.
ONE_PROCESS = """
import sys
from pathlib import Path
from kattila_keys.dns import query_txt
from kattila_keys.dns_server import DnsServer
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile

path, address, name, method, now, seconds = sys.argv[1:]
server = DnsServer.parse(address)
query = lambda: query_txt(name, server=server, timeout_seconds=float(seconds))
keys = Keys(RingFile(Path(path)), query, lambda: 0.5)
print("ready", flush=True)
sys.stdin.readline()
arguments = (keys.ring(), int(now)) if method == "refresh_after_unknown" else (int(now),)
getattr(keys, method)(*arguments)
if method in ("refresh", "refresh_or_log"):
    print(keys.ring().current.fingerprint)
"""


@pytest.mark.parametrize("method", ["refresh", "refresh_or_log", "refresh_if_due", "refresh_after_unknown"])
def test_processes_share_one_query(counting_proxy: DnsProxy, knot: Knot, label: str, path: Path, method: str) -> None:
    knot.set_txt(label, PSK)
    arguments = [str(path), counting_proxy.address, f"{label}.{ZONE}", method, str(NOW), str(PATIENCE_SECONDS)]
    run = [sys.executable, "-c", ONE_PROCESS, *arguments]
    processes = [
        subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    # These methods wait, so all processes have the answer.
    expected = f"{Key.from_psk(PSK).fingerprint}\n" if method in ("refresh", "refresh_or_log") else ""
    assert printed == [(expected, "")] * 4
    assert counting_proxy.udp_queries == 2
    assert fingerprints(RingFile(path).read().ring) == fingerprints_of(PSK)
