"""The strict parser of request heads: what it reads, and everything that it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_protocol.request_head import MAX_FIELDS, MAX_HEAD_BYTES, HeadError, host_name, parse
from support.counts import examples

HOST = b"Host: localhost\r\n"


def head(line: bytes = b"GET /status/agents HTTP/1.1", fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def target(path: bytes) -> bytes:
    return head(b"GET " + path + b" HTTP/1.1")


def test_a_head_is_read() -> None:
    fields = b"HOST: [2001:db8::1]:5086\r\nContent-Type:application/json \r\nAccept: a\r\naccept:\tb\r\nX:\r\n"
    found = parse(head(b"POST /status/updates?a=%2F&b HTTP/1.1", fields + b"Content-Length: 017\r\n"))
    assert (found.method, found.path, found.query) == ("POST", "/status/updates", "a=%2F&b")
    assert found.fields == {
        "host": "[2001:db8::1]:5086",
        "content-type": "application/json",
        "accept": "a, b",
        "x": "",
        "content-length": "017",
    }
    assert (found.body_bytes, found.keeps_connection) == (17, True)


def test_without_a_length_there_is_no_body_and_chunks_have_no_length() -> None:
    assert parse(head()).body_bytes == 0
    assert parse(head(fields=HOST + b"Transfer-Encoding: Chunked\r\n")).body_bytes is None


@pytest.mark.parametrize(
    ("line", "fields", "keeps"),
    [
        (b"GET / HTTP/1.1", HOST + b"Connection: Close\r\n", False),
        (b"GET / HTTP/1.1", HOST + b"Connection: keep-alive, TE\r\n", True),
        (b"GET / HTTP/1.0", HOST, False),
        (b"GET / HTTP/1.0", b"", False),
    ],
)
def test_whether_the_connection_is_kept(line: bytes, fields: bytes, keeps: bool) -> None:
    assert parse(head(line, fields)).keeps_connection == keeps


@pytest.mark.parametrize(
    ("path", "decoded"),
    [(b"/a%20b", "/a b"), (b"/%c3%A4", "/ä"), (b"/..", "/.."), (b"/%2e%2e/x", "/../x"), (b"//", "//")],
)
def test_a_path_is_decoded_once(path: bytes, decoded: str) -> None:
    assert parse(target(path)).path == decoded


REFUSED_TARGETS = {
    "an encoded slash": b"/status%2fagents",
    "an encoded slash in upper case": b"/status%2Fagents",
    "an encoded backslash": b"/..%5c",
    "a slash encoded twice": b"/status%252fagents",
    "an encoded percent sign": b"/100%25",
    "an encoded NUL": b"/index.html%00.png",
    "an encoded line feed": b"/%0aX",
    "an encoded DEL": b"/%7f",
    "an unfinished escape": b"/%e",
    "an escape of other letters": b"/%zz",
    "a lone percent sign": b"/%",
    "an overlong slash": b"/..%c0%af",
    "not UTF-8": b"/%ff%fe",
    "a backslash": b"/..\\..",
    "a fragment": b"/a#b",
    "a fragment in the query": b"/a?b#c",
    "a NUL": b"/a\0b",
    "a byte beyond ASCII": b"/\xff",
    "a byte beyond ASCII in the query": b"/?\xff",
    "a space": b"/a b",
    "a tab": b"/a\tb",
    "an absolute target": b"http://localhost/status/agents",
    "an absolute target of another host": b"http://evil.example/status/agents",
    "an authority": b"localhost:443",
    "an asterisk": b"*",
    "no slash": b"status/agents",
    "nothing": b"",
}


@pytest.mark.parametrize("name", REFUSED_TARGETS)
def test_a_target_that_is_refused(name: str) -> None:
    with pytest.raises(HeadError) as refusal:
        parse(target(REFUSED_TARGETS[name]))
    assert refusal.value.status == 400


REFUSED_HEADS = {
    "bare line feeds": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "a bare line feed behind a field": b"GET / HTTP/1.1\r\nX: y\nHost: localhost\r\n\r\n",
    "a bare line feed behind the line": b"GET / HTTP/1.1\nX: y\r\nHost: localhost\r\n\r\n",
    "a bare carriage return": head(fields=b"Host: local\rhost\r\n"),
    "a carriage return too many": head(fields=HOST + b"X: y\r\r\n"),
    "an empty line at the beginning": b"\r\n" + head(),
    "an empty field": head(fields=HOST + b": y\r\n"),
    "a field without a colon": head(fields=HOST + b"X y\r\n"),
    "a space before the colon": head(fields=b"Host : localhost\r\n"),
    "a space before the name": head(fields=HOST + b" X: y\r\n"),
    "a field on two lines": head(fields=HOST + b"X: y\r\n z\r\n"),
    "a name with a space": head(fields=HOST + b"Content Length: 5\r\n"),
    "a NUL in a name": head(fields=HOST + b"X\0: y\r\n"),
    "a NUL in a value": head(fields=HOST + b"X: y\0z\r\n"),
    "an escape character in a value": head(fields=HOST + b"X: \x1b[2J\r\n"),
    "two spaces": head(b"GET  / HTTP/1.1"),
    "tabs": head(b"GET\t/\tHTTP/1.1"),
    "a space at the end": head(b"GET / HTTP/1.1 "),
    "no version": head(b"GET /"),
    "HTTP/2": head(b"PRI * HTTP/2.0"),
    "HTTP/1.2": head(b"GET / HTTP/1.2"),
    "a method in lower case": head(b"get / HTTP/1.1"),
    "a long method": head(b"G" * 21 + b" / HTTP/1.1"),
    "no Host": head(fields=b""),
    "two Hosts": head(fields=HOST + b"Host: evil.example\r\n"),
    "the same Host twice": head(fields=HOST + HOST),
    "two Hosts in one": head(fields=b"Host: localhost, evil.example\r\n"),
    "two tokens": head(fields=HOST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"),
    "two content types": head(fields=HOST + b"Content-Type: text/plain\r\nContent-type: application/json\r\n"),
    "two lengths": head(fields=HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n"),
    "a list of lengths": head(fields=HOST + b"Content-Length: 5, 5\r\n"),
    "a signed length": head(fields=HOST + b"Content-Length: +5\r\n"),
    "a negative length": head(fields=HOST + b"Content-Length: -5\r\n"),
    "a length of 40 digits": head(fields=HOST + b"Content-Length: " + b"9" * 40 + b"\r\n"),
    "a length of Arabic digits": head(fields=HOST + "Content-Length: \u0665\r\n".encode()),
    "an empty length": head(fields=HOST + b"Content-Length:\r\n"),
    "a length and chunks": head(fields=HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
    "two codings": head(fields=HOST + b"Transfer-Encoding: gzip, chunked\r\n"),
    "chunks of chunks": head(fields=HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    "an unknown coding": head(fields=HOST + b"Transfer-Encoding: identity\r\n"),
    "no coding": head(fields=HOST + b"Transfer-Encoding:\r\n"),
    "chunks in HTTP/1.0": head(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked\r\n"),
    "no end": b"GET / HTTP/1.1\r\nHost: localhost\r\n",
}


@pytest.mark.parametrize("name", REFUSED_HEADS)
def test_a_head_that_is_refused(name: str) -> None:
    with pytest.raises(HeadError) as refusal:
        parse(REFUSED_HEADS[name])
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n", 431),
        (b"X: y\r\n" * MAX_FIELDS, 431),
        (b"Expect: 200-maybe\r\n", 417),
    ],
)
def test_other_refusals_have_their_own_status(fields: bytes, status: int) -> None:
    with pytest.raises(HeadError) as refusal:
        parse(head(fields=HOST + fields))
    assert refusal.value.status == status


def test_a_head_of_the_largest_size_is_read() -> None:
    fields = b"X: " + b"y" * (MAX_HEAD_BYTES - len(head()) - len(b"X: \r\n")) + b"\r\n"
    assert len(head(fields=HOST + fields)) == MAX_HEAD_BYTES
    assert "x" in parse(head(fields=HOST + fields)).fields
    assert len(parse(head(fields=HOST + b"X: y\r\n" * (MAX_FIELDS - 1))).fields) == 2


def test_a_name_with_an_underscore_counts_for_nothing() -> None:
    assert parse(head(fields=HOST + b"Content_Length: 5\r\n")).fields == {"host": "localhost"}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:5086", "localhost"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("kattila_manager:65535", "kattila_manager"),
        ("[::1]", "::1"),
        ("[0:0::1]:5086", "::1"),
        ("[2001:DB8::0:1]", "2001:db8::1"),
        ("", ""),
        ("[::1].evil.example", None),
        ("[::1]evil.example:5086", None),
        ("[::1", None),
        ("[]", None),
        ("[1.2.3.4]", None),
        ("[fe80::1%eth0]", None),
        ("[::1]:5086:80", None),
        ("::1", None),
        ("localhost@evil.example", None),
        ("localhost:pw@evil.example", None),
        ("evil.example/localhost", None),
        ("localhost#", None),
        ("localhost?", None),
        ("localhost\\evil.example", None),
        ("localhost, evil.example", None),
        ("local host", None),
        ("localhost:", None),
        ("localhost:0", None),
        ("localhost:65536", None),
        ("localhost:port", None),
        ("localhost:-80", None),
        ("localhost:80:80", None),
        ("localhost%00.evil.example", None),
        ("l\xf6calhost", None),
        ("localhost\n", None),
    ],
)
def test_a_host(host: str, name: str | None) -> None:
    assert host_name(host) == name


@settings(max_examples=examples(200))
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for sent in (content, target(content), head(fields=HOST + content + b"\r\n")):
        try:
            found = parse(sent)
        except HeadError:
            continue
        assert found.path.startswith("/")
        assert not any(each in value for each in "\0\r\n" for value in (found.path, *found.fields.values()))
