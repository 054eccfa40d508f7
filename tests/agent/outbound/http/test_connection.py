"""Requests to servers that misbehave: bounded in time and size, with a readable reason."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from socket import SHUT_RDWR, create_server, getaddrinfo, socket
from typing import Any

import pytest

from kattila_agent.outbound.http.connection import Connection, UnreachableError, unsigned_words
from support.knot import free_port
from support.open_files import open_files
from support.waiting import ENDLESS_SECONDS, PATIENCE_SECONDS, not_waiting_for

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
# The head of an answer after which the server closes.
CLOSING = b"HTTP/1.0 200 OK\r\n"
# Nearly as many lines as a client accepts.
LONG_HEAD = HEAD + (b"X: " + b"y" * 59 + b"\r\n") * 90


def accepted_by(listening: socket) -> socket | None:
    try:
        return listening.accept()[0]
    except OSError:
        return None


@contextmanager
def serving(
    answer: Callable[[socket], None],
    wrap: Callable[[socket], socket] = lambda plain: plain,
    keep: list[bytes] | None = None,
) -> Iterator[str]:
    """Run a server that reads each request whole, keeps it if asked to, and leaves its answer to the test."""
    kept = [] if keep is None else keep
    with create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE_SECONDS)

        def serve() -> None:
            # A client that leaves in the middle ends its connection only.
            while (plain := accepted_by(listening)) is not None:
                plain.settimeout(PATIENCE_SECONDS)
                with suppress(OSError), plain, wrap(plain) as connection:
                    while request := read_request(connection):
                        kept.append(request)
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(SHUT_RDWR)
            listening.close()
            thread.join()


def read_request(connection: socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < length(received):
        part = connection.recv(65536)
        if not part:
            return b""
        received += part
    return received


def length(received: bytes) -> int:
    for line in received.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def failure(url: str, total_seconds: float = 15.0) -> str:
    connection = Connection(url, total_seconds=total_seconds)
    try:
        with pytest.raises(UnreachableError) as caught:
            connection.post("/status/updates", b"{}")
    finally:
        connection.close()
    return str(caught.value)


def test_what_is_sent_and_read() -> None:
    requests: list[bytes] = []

    def answer(connection: socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 2\r\nSet-Cookie: a=b\r\n\r\n{}")

    with create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE_SECONDS)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                for _ in range(2):
                    requests.append(read_request(connection))
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        connection = Connection(f"http://127.0.0.1:{listening.getsockname()[1]}/below")
        assert connection.post("/status/updates", b'{"a":1}') == (200, b"{}", None)
        assert connection.post("/status/updates", b"{}") == (200, b"{}", None)
        thread.join()
        connection.close()
    assert requests[0].startswith(b"POST /below/status/updates HTTP/1.1\r\n")
    assert requests[0].endswith(b'\r\n\r\n{"a":1}')
    assert b"\r\nContent-Type: application/json\r\n" in requests[0]
    assert b"\r\nAccept-Encoding: identity\r\n" in requests[0]
    assert b"Cookie" not in requests[1]


def drip(connection: socket, text: bytes, *, at_once: bytes = b"") -> None:
    """Send the text over ten minutes."""
    connection.sendall(at_once)
    for byte in text:
        connection.sendall(bytes([byte]))
        time.sleep(ENDLESS_SECONDS / len(text))


def silence(connection: socket) -> None:
    """Say nothing until the client leaves."""
    connection.recv(1)


@pytest.mark.parametrize(
    "answer",
    [
        lambda connection: drip(connection, LONG_HEAD),
        lambda connection: drip(connection, b"HTTP/1.1 " + b"2" * 5000),
        lambda connection: drip(connection, b"x" * 5000, at_once=HEAD + b"Content-Length: 5000\r\n\r\n"),
        lambda connection: drip(connection, b"x" * 5000, at_once=CLOSING + b"Content-Length: 5000\r\n\r\n"),
        silence,
    ],
    ids=["headers", "status line", "body", "last body", "silence"],
)
def test_an_answer_that_drips_is_cut_off(answer: Callable[[socket], None]) -> None:
    with serving(answer) as address, not_waiting_for("the whole answer"):
        assert failure(f"http://{address}", total_seconds=1.0) == "no whole answer within 1 s"


def test_one_request_may_have_less_time_than_the_others() -> None:
    with (
        serving(silence) as address,
        closing(Connection(f"http://{address}", total_seconds=ENDLESS_SECONDS)) as connection,
        pytest.raises(UnreachableError, match=r"within 0\.5 s"),
    ):
        connection.post("/", b"{}", total_seconds=0.5)


def test_a_connection_attempt_ends_in_time() -> None:
    with create_server(("127.0.0.1", 0), backlog=0) as full:
        # What does not fit into the backlog gets no answer at all.
        waiting = [socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        for total, connect in ((0.5, ENDLESS_SECONDS), (ENDLESS_SECONDS, 0.5)):
            with (
                closing(Connection(url, total_seconds=total, connect_seconds=connect)) as connection,
                pytest.raises(UnreachableError),
                not_waiting_for("a connection"),
            ):
                connection.get("/")
        for each in waiting:
            each.close()


def test_a_connection_established_too_late_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(1)
        return getaddrinfo(*arguments, **named)

    monkeypatch.setattr("socket.getaddrinfo", slow)
    with serving(silence) as address, not_waiting_for("the answer"):
        assert failure(f"http://{address}", total_seconds=0.5) == "no whole answer within 0.5 s"


def test_parameters_are_escaped() -> None:
    asked: list[bytes] = []

    def answer(connection: socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 0\r\n\r\n")

    with (
        serving(answer, keep=asked) as address,
        closing(Connection(f"http://{address}")) as connection,
    ):
        assert connection.get("/status/peer", {"to": "2001:db8::1", "hmac": "a&b=c d"}).status == 200
    assert asked[0].startswith(b"GET /status/peer?to=2001%3Adb8%3A%3A1&hmac=a%26b%3Dc+d HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (HEAD + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000, "its answer is over 262144 bytes"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 5, "over 262144"),
        (b"no HTTP at all\r\n\r\n", "the connection was closed before an answer came"),
        (b"", "the connection was closed before an answer came"),
    ],
)
def test_invalid_answers_raise_an_error(raw: bytes, said: str) -> None:
    def answer(connection: socket) -> None:
        connection.sendall(raw)
        connection.close()

    with serving(answer) as address:
        assert said in failure(f"http://{address}")


@pytest.mark.parametrize(
    "raw",
    [
        CLOSING + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        CLOSING + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000,
        CLOSING + b"Content-Length: 9\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 ",
    ],
)
def test_a_bad_answer_leaves_no_file_open_even_while_its_error_is_kept(raw: bytes) -> None:
    def answer(connection: socket) -> None:
        connection.sendall(raw)
        connection.shutdown(SHUT_RDWR)

    kept: list[object] = []
    with serving(answer) as address:
        before = open_files()
        for _ in range(20):
            with closing(Connection(f"http://{address}")) as connection:
                try:
                    kept.append(connection.get("/"))
                except UnreachableError as error:
                    kept.append(error)
        # The server may have one left that it has not closed yet.
        assert open_files() <= before + 1
    assert len(kept) == 20


def test_a_redirect_is_not_followed() -> None:
    def answer(connection: socket) -> None:
        connection.sendall(b"HTTP/1.1 307 Moved\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n")

    with serving(answer) as address:
        connection = Connection(f"http://{address}")
        assert connection.post("/", b"{}") == (307, b"", None)
        connection.close()


@pytest.mark.parametrize("location", [b"http://[::1", b"\xff\xfe", b"", b"/\x00", b"http://192.0.2.1:99999999/"])
def test_the_target_of_a_redirect_is_not_even_parsed(location: bytes) -> None:
    def answer(connection: socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")

    with serving(answer) as address:
        connection = Connection(f"http://{address}")
        assert connection.post("/", b"{}") == (302, b"", None)
        connection.close()


def test_a_redirect_with_an_endless_body_costs_no_more_than_any_other_answer() -> None:
    def answer(connection: socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n")
        with suppress(OSError):
            for _ in range(1000):
                connection.sendall(bytes(65536))

    with serving(answer) as address:
        assert failure(f"http://{address}") == "its answer is over 262144 bytes"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 302 Found\r\nLocation: /\r\n"])
def test_a_compressed_answer_is_not_unpacked(head: bytes) -> None:
    def answer(connection: socket) -> None:
        connection.sendall((head or HEAD) + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00")

    with serving(answer) as address:
        connection = Connection(f"http://{address}")
        assert connection.post("/", b"{}") == (302 if head else 200, b"\x1f\x8b\x08\x00", None)
        connection.close()


def test_reasons_read() -> None:
    assert failure(f"http://127.0.0.1:{free_port()}") == "connection refused"
    assert failure("http://name.invalid:5086").startswith("its name cannot be resolved")


def certificate(folder: Path) -> tuple[Path, Path]:
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return key, cert


def test_tls_with_a_private_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def answer(connection: socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

    def wrap(plain: socket) -> socket:
        return context.wrap_socket(plain, server_side=True)

    with serving(answer, wrap) as address:
        assert failure(f"https://{address}") == "TLS failed (CERTIFICATE_VERIFY_FAILED)"
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with serving(answer, wrap) as address:
        connection = Connection(f"https://{address}")
        assert connection.post("/", b"{}") == (200, b"{}", None)
        assert connection.post("/", b"{}") == (200, b"{}", None)
        connection.close()


def test_a_tls_answer_that_drips_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with serving(
        lambda connection: drip(connection, LONG_HEAD), lambda plain: context.wrap_socket(plain, server_side=True)
    ) as address:
        assert failure(f"https://{address}", total_seconds=1.0) == "no whole answer within 1 s"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"detail":"too far off"}', "'too far off'"),
        (b'{"detail":"\\u001b[2J"}', r"'\u001b[2J'"),
        (b'{"detail":"' + b"x" * 1000 + b'"}', repr("x" * 199 + "…")),
        (b"<html>", ""),
        (b"[]", ""),
        (b"{}", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_unsigned_words_are_escaped_and_short(body: bytes, words: str) -> None:
    assert unsigned_words(body) == words
