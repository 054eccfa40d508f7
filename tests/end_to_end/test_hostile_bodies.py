"""Hostile requests are refused with bounded time and memory, and never crash a worker."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from kattila_protocol import canonical
from kattila_protocol.envelope import MAX_BODY_BYTES
from support.manager import HEALTH, UPDATES, Manager, Reply, now_ms, running_manager
from support.raw_http import ATTEMPTS, JSON, all_at_once, allow_open_files, replies, request, speak, updates
from support.reports import body, node, nonce_of, report, sealed, sealed_bytes
from support.waiting import PATIENCE_SECONDS

MIB = 1024 * 1024
CHUNKED = {"Transfer-Encoding": "chunked"}
DEEP = b"[" * 10_000 + b"]" * 10_000
# The memory that one hostile request may cost a worker, including what Python's allocator keeps.
SPARE_BYTES = 48 * MIB


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    allow_open_files(4096)
    with running_manager(tmp_path_factory.mktemp("hostile"), ADMIN_TOKEN="admin-token-of-the-tests") as running:
        yield running


@pytest.fixture(autouse=True)
def _workers_survive(manager: Manager) -> Iterator[None]:
    pids = [process.pid for process in manager.processes()]
    yield
    assert [process.pid for process in manager.processes()] == pids, f"a worker died:\n{manager.log}"
    assert "Traceback" not in manager.log
    assert manager.get(HEALTH).status == 200


def data(seed: int) -> bytes:
    """Return valid DATA of a node that no other test uses."""
    return canonical.encode(report(node(1000 + seed), 1, now_ms()))


def is_refused(reply: Reply, status: int, kind: str) -> None:
    assert (reply.status, reply.kind, reply.members["status"]) == (status, kind, status)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.members["title"]
    assert reply.members["detail"]


def test_a_declared_body_of_100_mb_is_refused_before_it_arrives(manager: Manager) -> None:
    before = manager.rss_bytes()
    (reply,) = speak(manager.port, updates(b"", {"Content-Length": str(100 * MIB)}))
    # A server that waited for the body would answer 408.
    is_refused(reply, 413, "too_large")
    assert manager.rss_bytes() - before < SPARE_BYTES


@pytest.mark.parametrize("length", [f"{100 * MIB}", f"{100 * MIB:030}"])
def test_a_client_that_sends_100_mb_is_disconnected(manager: Manager, length: str) -> None:
    before = manager.rss_bytes()
    reply, sent = send_endlessly(manager, updates(b"", {"Content-Length": length}), lambda part: part, 100 * MIB)
    is_refused(reply, 413, "too_large")
    assert sent < 100 * MIB, "the server read all of it"
    assert manager.rss_bytes() - before < SPARE_BYTES


def test_endless_chunks_are_disconnected(manager: Manager) -> None:
    before = manager.rss_bytes()
    head = updates(b"", CHUNKED)
    reply, sent = send_endlessly(manager, head, lambda part: b"%x\r\n%b\r\n" % (len(part), part), 100 * MIB)
    is_refused(reply, 413, "too_large")
    assert sent < 100 * MIB, "the server read all of it"
    assert manager.rss_bytes() - before < SPARE_BYTES


def test_endless_chunks_with_a_small_declared_length_are_disconnected(manager: Manager) -> None:
    # Chunks override the declared length (RFC 9112, section 6.3).
    before = manager.rss_bytes()
    head = updates(b"", CHUNKED | {"Content-Length": "5"})
    reply, sent = send_endlessly(manager, head, lambda part: b"%x\r\n%b\r\n" % (len(part), part), 100 * MIB)
    is_refused(reply, 413, "too_large")
    assert sent < 100 * MIB, "the server read all of it"
    assert manager.rss_bytes() - before < SPARE_BYTES


@pytest.mark.parametrize("path", ["/status/register", "/status/admin/reset", "/status/agents", "/nowhere"])
def test_every_other_endpoint_has_the_same_limit(manager: Manager, path: str) -> None:
    head = request("POST", path, b"", JSON | CHUNKED)
    reply, sent = send_endlessly(manager, head, lambda part: b"%x\r\n%b\r\n" % (len(part), part), 100 * MIB)
    is_refused(reply, 413, "too_large")
    assert sent < 100 * MIB


def test_many_large_bodies_at_once_use_bounded_memory(manager: Manager) -> None:
    before = manager.rss_bytes()
    large = updates(b'{"data":{' + b" " * (MAX_BODY_BYTES - 20))
    for answers in (all_at_once(manager.port, [large] * 64) for _ in range(2)):
        assert {answer.status for answer in answers} == {400}
    assert manager.rss_bytes() - before < 200 * MIB


def send_endlessly(manager: Manager, head: bytes, framed: Callable[[bytes], bytes], size: int) -> tuple[Reply, int]:
    """Send a header and then parts of 64 kB until the server closes; return its answer and the number of bytes sent."""
    sent, received, part = 0, b"", framed(b"x" * 65536)
    with socket.create_connection(("127.0.0.1", manager.port), timeout=PATIENCE_SECONDS) as connected:
        connected.sendall(head)
        with suppress(ConnectionError, TimeoutError):
            while sent < size:
                connected.sendall(part)
                sent += 65536
        with suppress(ConnectionError):
            while more := connected.recv(65536):
                received += more
    found = replies(received)
    assert found, f"the connection was reset before an answer could be read, after {sent} bytes"
    return found[0], sent


UNSIGNED = {
    "empty": b"",
    "not JSON": b"hello",
    "an empty object": b"{}",
    "a list": b"[]",
    "null": b"null",
    "nested 10,000 deep": DEEP,
    "nested 10,000 deep in data": b'{"data":' + DEEP + b',"hmac":"' + b"0" * 64 + b'"}',
    "NUL bytes": b"\0" * 1000,
    "not UTF-8": b"\xff\xfe" * 100,
    "a byte order mark": b"\xef\xbb\xbf" + body(node(1), 1, 0),
    "gzip": gzip.compress(body(node(1), 1, 0)),
    "cut in the middle": body(node(1), 1, 0)[:-300],
    "without its last byte": body(node(1), 1, 0)[:-1],
    "with a trailing line feed": body(node(1), 1, 0) + b"\n",
    "with white space between the members": body(node(1), 1, 0).replace(b',"hmac":', b', "hmac":'),
    "with leading white space": b" " + body(node(1), 1, 0),
    "members in another order": b'{"hmac":"' + b"0" * 64 + b'","data":{},"hop_hmac":"","relay_path":[],"version":1}',
    "a member twice": body(node(1), 1, 0).replace(b',"version":1', b',"version":1,"version":1'),
    "a member more": body(node(1), 1, 0).replace(b',"version":1', b',"extra":1,"version":1'),
    "another version": body(node(1), 1, 0).replace(b',"version":1', b',"version":2'),
    "upper-case MAC": body(node(1), 1, 0).replace(b'"hmac":"', b'"hmac":"A', 1),
    "a path that is not a list of ids": body(node(1), 1, 0).replace(b'"relay_path":[]', b'"relay_path":["x"]'),
}


@pytest.mark.parametrize("name", sorted(UNSIGNED))
def test_a_body_of_another_shape_is_malformed_and_unsigned(manager: Manager, name: str) -> None:
    reply = manager.post(UNSIGNED[name])
    is_refused(reply, 400, "malformed")
    assert not reply.is_signed


def test_a_path_of_four_relays_is_refused(manager: Manager) -> None:
    path = ",".join(f'"{node(number).agent_id}"' for number in range(4)).encode()
    reply = manager.post(body(node(1), 1, now_ms()).replace(b'"relay_path":[]', b'"relay_path":[' + path + b"]"))
    is_refused(reply, 409, "too_many_hops")


@pytest.mark.parametrize("path", ["/status/register", "/status/admin/reset"])
@pytest.mark.parametrize(
    "name", ["empty", "not JSON", "a list", "nested 10,000 deep", "NUL bytes", "not UTF-8", "gzip"]
)
def test_other_bodies_are_parsed_as_strictly(manager: Manager, path: str, name: str) -> None:
    reply = manager.post(UNSIGNED[name], path, {"Authorization": "Bearer admin-token-of-the-tests"})
    is_refused(reply, 400, "malformed")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nested 10,000 deep": lambda good: good[:-1] + b',"more":' + DEEP + b"}",
    "nested 500,000 deep": lambda good: good[:-1] + b',"more":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "objects nested deep": lambda good: good[:-1] + b',"more":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
    "a member twice": lambda good: good[:-1] + b',"sample":1}',
    "an unknown member twice": lambda good: good[:-1] + b',"more":1,"more":2}',
    "a member twice inside": lambda good: good.replace(b'"os":', b'"os":"x","os":'),
    "NaN": lambda good: good.replace(b'"cpus":2', b'"cpus":NaN'),
    "NaN in an unknown member": lambda good: good[:-1] + b',"more":NaN}',
    "Infinity": lambda good: good[:-1] + b',"more":-Infinity}',
    "a float": lambda good: good.replace(b'"cpus":2', b'"cpus":2.5'),
    "a float in an unknown member": lambda good: good[:-1] + b',"more":1e3}',
    "a lone surrogate": lambda good: good.replace(b'"north"', b'"\\ud800"'),
    "a lone surrogate in an unknown member": lambda good: good[:-1] + b',"more":"\\udfff"}',
    "a lone surrogate as a name": lambda good: good[:-1] + b',"\\ud800":1}',
    "1,000 digits": lambda good: good.replace(b'"cpus":2', b'"cpus":' + b"9" * 1000),
    "1,000 digits in an unknown member": lambda good: good[:-1] + b',"more":' + b"9" * 1000 + b"}",
    "500,000 digits": lambda good: good[:-1] + b',"more":' + b"9" * 500_000 + b"}",
    "65 bits": lambda good: good.replace(b'"cpus":2', b'"cpus":18446744073709551616'),
    "64 bits without a sign": lambda good: good.replace(b'"cpus":2', b'"cpus":9223372036854775808'),
    "a negative sample": lambda good: good.replace(b'"sample":1', b'"sample":-1'),
    "sample zero": lambda good: good.replace(b'"sample":1', b'"sample":0'),
    "a tick of 2^53": lambda good: good.replace(b'"tick":1', b'"tick":9007199254740992'),
    "a text for a number": lambda good: good.replace(b'"sample":1', b'"sample":"1"'),
    "true for a number": lambda good: good.replace(b'"sample":1', b'"sample":true'),
    "not ASCII": lambda good: good.replace(b'"north"', '"pöhjoinen"'.encode()),
    "not UTF-8": lambda good: good.replace(b'"north"', b'"\xff\xfe"'),
    "a control character": lambda good: good.replace(b'"north"', b'"\x01"'),
    "a member missing": lambda good: good.replace(b'"sample":1,', b""),
    "telemetry of another kind": lambda good: good.replace(b'"telemetry":{', b'"telemetry":[{').replace(b"}}", b"}]}"),
    "cut off": lambda good: good[:-60] + b"}",
    "empty": lambda _: b"{}",
    "two objects": lambda good: good + b"," + good,
    "an id in upper case": lambda good: good.replace(b'"agent_id":"', b'"agent_id":"ABCDEF01-').replace(b"-", b"", 1),
    "a nonce of another length": lambda good: good.replace(b'"nonce":"', b'"nonce":"0'),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_malformed_data_from_a_psk_holder_is_refused_with_a_signed_verdict(manager: Manager, name: str) -> None:
    seed = sorted(DAMAGE).index(name)
    bad = DAMAGE[name](data(seed))
    assert bad != data(seed)
    reply = manager.post(sealed_bytes(bad))
    is_refused(reply, 400, "malformed")
    sender = node(1000 + seed)
    nonce = nonce_of(sender, 1, 1)
    answered = reply.members["data"]["nonce"]
    assert answered in (nonce, "0" * 32)
    assert reply.verdict(answered).outcome == "malformed"
    assert manager.rows("SELECT 1 FROM agents WHERE agent_id = ?", sender.agent_id) == []


def test_data_with_an_unknown_member_is_accepted(manager: Manager) -> None:
    # A newer agent may send more members.
    good = data(500)[:-1] + b',"more":{"a":[1,2,"\\u00e4"]}}'
    reply = manager.post(sealed_bytes(good))
    assert reply.verdict(nonce_of(node(1500), 1, 1)).outcome == "accepted"


def test_a_report_of_one_mebibyte_is_accepted(manager: Manager) -> None:
    good = data(501)
    room = MAX_BODY_BYTES - len(sealed_bytes(good)) - len(b',"more":""')
    large = good[:-1] + b',"more":"' + b"x" * room + b'"}'
    assert len(sealed_bytes(large)) == MAX_BODY_BYTES
    assert manager.post(sealed_bytes(large)).verdict(nonce_of(node(1501), 1, 1)).outcome == "accepted"
    (reply,) = speak(manager.port, updates(sealed_bytes(large[:-2] + b'x"}')))
    is_refused(reply, 413, "too_large")


@pytest.mark.parametrize("path", [UPDATES, "/status/register", "/status/admin/reset"])
@pytest.mark.parametrize("content_type", ["", "text/plain", "application/jsonp", "multipart/form-data; boundary=x"])
def test_another_content_type_is_refused(manager: Manager, path: str, content_type: str) -> None:
    headers = {"Content-Type": content_type, "Authorization": "Bearer admin-token-of-the-tests"}
    good = sealed(report(node(1), 1, now_ms()))
    reply = manager.request(
        "POST", path, good, headers if content_type else {"Authorization": headers["Authorization"]}
    )
    is_refused(reply, 415, "wrong_content_type")


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_the_content_type_may_have_parameters(manager: Manager, content_type: str) -> None:
    is_refused(manager.request("POST", UPDATES, b"{}", {"Content-Type": content_type}), 400, "malformed")


def test_a_chunked_body_is_accepted(manager: Manager) -> None:
    good = body(node(1600), 1, now_ms())
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(good[i : i + 7]), good[i : i + 7]) for i in range(0, len(good), 7))
    sent = updates(b"", {"Transfer-Encoding": "chunked", "Connection": "close"}) + chunks + b"0\r\n\r\n"
    # On a slow machine the server may wait too long for the last chunk, and answer 408.
    replies_in_time = (reply for _ in range(ATTEMPTS) for reply in speak(manager.port, sent) if reply.status != 408)
    reply = next(replies_in_time)
    assert reply.verdict(nonce_of(node(1600), 1, 1)).outcome == "accepted"


HEALTH_REQUEST = request("GET", HEALTH)
BAD_HTTP = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "a line that is not a request": b"hello there\r\n\r\n",
    "no version": b"GET /status/healthcheck\r\n\r\n",
    "HTTP/9.9": b"GET /status/healthcheck HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "an unknown method": request("FROB", UPDATES),
    "a method of 10 kB": request("G" * 10_000, HEALTH),
    "a path of 100 kB": request("GET", "/" + "a" * 100_000),
    "a path of NUL and control bytes": b"GET /\x00\x01\x7f HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header of 1 MB": request("GET", HEALTH, b"", {"X-Large": "a" * MIB}),
    "10,000 headers": request("GET", HEALTH, b"", {f"X-{number}": "a" for number in range(10_000)}),
    "a header without a colon": b"GET /status/healthcheck HTTP/1.1\r\nHost localhost\r\n\r\n",
    "a header of bytes": b"GET /status/agents HTTP/1.1\r\nHost: \xff\xfe\r\nAuthorization: \xff\xfe\r\n\r\n",
    "a content type of bytes": request("POST", UPDATES, b"{}", {"Content-Type": "\xff\xfe"}),
    "two lengths": b"POST /status/updates HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
    "a length and chunks": request("POST", UPDATES, b"0\r\n\r\n", JSON | {"Content-Length": "5"} | CHUNKED),
    "a negative length": request("POST", UPDATES, b"{}", JSON | {"Content-Length": "-5"}),
    "a length of 40 digits": request("POST", UPDATES, b"{}", JSON | {"Content-Length": "9" * 40}),
    "a length in words": request("POST", UPDATES, b"{}", JSON | {"Content-Length": "two"}),
    "a chunk size in words": request("POST", UPDATES, b"zz\r\n{}\r\n0\r\n\r\n", JSON | CHUNKED),
    "an unknown coding": request("POST", UPDATES, b"{}", JSON | {"Transfer-Encoding": "gzip"}),
    "a body that ends early": updates(b"{}", {"Content-Length": "100"}),
    "an end in the middle of the head": b"GET /status/healthcheck HTTP/1.1\r\nHost: loc",
    "HEAD": request("HEAD", HEALTH),
    "OPTIONS": request("OPTIONS", "*"),
    "OPTIONS of an endpoint": request("OPTIONS", UPDATES),
    "TRACE": request("TRACE", HEALTH),
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "an absolute target": request("GET", "http://example.org/status/healthcheck"),
    "no Host": b"GET /status/agents HTTP/1.1\r\n\r\n",
    "an upgrade": request(
        "GET", HEALTH, b"", {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "AA=="}
    ),
    "HTTP/2 from the start": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.0": b"GET /status/healthcheck HTTP/1.0\r\n\r\n",
    "PUT": request("PUT", UPDATES, b"{}", JSON),
    "DELETE": request("DELETE", "/status/agents"),
    "GET of updates": request("GET", UPDATES),
    "a POST to the health check": request("POST", HEALTH, b"{}", JSON),
    "two slashes": request("GET", "//status/healthcheck"),
    "a slash at the end": request("GET", HEALTH + "/"),
    "dots": request("GET", "/../../../../etc/passwd"),
    "encoded dots": request("GET", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
    "dots encoded twice": request("GET", "/%252e%252e/%252e%252e/etc/passwd"),
    "an encoded slash": request("GET", "/..%2f..%2f..%2fetc/passwd"),
    "a backslash": request("GET", "/..\\..\\etc\\passwd"),
    "an encoded NUL": request("GET", "/index.html%00.png"),
    "an encoded lone surrogate": request("GET", "/%ed%a0%80"),
    "not UTF-8": request("GET", "/%ff%fe"),
    "an unfinished escape": request("GET", "/%e"),
    "the ring file": request("GET", "/kattila_ring.json"),
    "the folder above": request("GET", "/..;/kattila_ring.json"),
    "an encoded path of an endpoint": request("POST", "/status/%75pdates", b"{}", JSON),
    "a query of 50 kB": request("GET", HEALTH + "?" + "a=b&" * 12_000),
    "an invalid query": request("GET", HEALTH + "?%&&=;%ff"),
    "a range": request("GET", "/index.html", b"", {"Range": "bytes=-99999999999999999999999"}),
    "an invalid date": request("GET", "/index.html", b"", {"If-Modified-Since": "\xff yesterday"}),
    "an expectation": request("POST", UPDATES, b"{}", JSON | {"Expect": "200-maybe"}),
}


@pytest.mark.parametrize("name", sorted(BAD_HTTP))
def test_bad_http_never_causes_a_server_error(manager: Manager, name: str) -> None:
    pages = manager.folder / "pages"
    pages.mkdir(exist_ok=True)
    (pages / "index.html").write_text("<p>the front page")
    found = speak(manager.port, BAD_HTTP[name], quiet_seconds=1)
    for reply in found:
        assert reply.status < 500, reply
        assert b"root:" not in reply.body
        assert b"psk" not in reply.body


def test_pipelined_requests_are_answered_in_order(manager: Manager) -> None:
    sender = node(1700)
    kept = {"Connection": "keep-alive"}
    sent = b"".join(updates(body(sender, sample, now_ms()), kept) for sample in range(1, 21))
    found = speak(manager.port, sent + request("GET", HEALTH))
    outcomes = [reply.verdict(nonce_of(sender, 1 + i, 1 + i)).outcome for i, reply in enumerate(found[:-1])]
    assert outcomes == ["accepted"] * 20
    assert found[-1].members["status"] == "ok"
