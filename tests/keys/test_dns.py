"""Every answer that DNS can give, from a real server; the error says what the user can do about it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from kattila_keys.dns import DnsError, Records, Server, ask_txt
from kattila_protocol.signing import fingerprint
from kattila_protocol.txt import TxtError, select_psk
from support import dns_proxy
from support.knot import BROKEN_ZONE, ZONE, Knot, Record

PSK = b"example psk, protects nothing"
OTHER_PSK = b"another psk that protects nothing"
TESTS = Path(__file__).parents[1]


def ask(address: str, label: str, *, zone: str = ZONE, seconds: float = 3, require_ad: bool = False) -> Records:
    name = f"{label}.{zone}"
    return ask_txt(name, server=Server.parse(address), timeout_seconds=seconds, require_ad=require_ad)


def complaint(address: str, label: str, *, zone: str = ZONE, seconds: float = 3, require_ad: bool = False) -> str:
    with pytest.raises(DnsError) as caught:
        ask(address, label, zone=zone, seconds=seconds, require_ad=require_ad)
    # What dnspython's own errors hold may be a PSK.
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert PSK.decode() not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    ("label", "published", "psk"),
    [
        ("one-string", [PSK], PSK),
        ("several-strings", [[b"example psk, ", b"protects ", b"nothing"]], PSK),
        ("prefix-cut-through", [[b"katt", b"ila=example psk, protects nothing"]], PSK),
        ("several-records", [b"v=spf1 -all", b"kattila=" + PSK, b"some-site-verification=0123456789"], PSK),
        ("equal-twice", [[b"example psk, ", b"protects nothing"], PSK], PSK),
        ("quotes", [rb'a "quoted" \ back\slash, and a ; semicolon'], rb'a "quoted" \ back\slash, and a ; semicolon'),
        ("unicode", ["esimerkkiavain: yötön yö".encode()], "esimerkkiavain: yötön yö".encode()),
        ("over-255", [b"0123456789" * 40], b"0123456789" * 40),
    ],
)
def test_what_was_published_is_the_psk(knot: Knot, label: str, published: list[Record], psk: bytes) -> None:
    knot.set_txt(label, *published)
    assert select_psk(ask(knot.address, label)) == psk


def test_strings_arrive_apart_and_records_sorted(knot: Knot) -> None:
    knot.set_txt("apart", b"kattila=" + b"x" * 300, [b"b", b"c"], b"a")
    assert ask(knot.address, "apart") == ((b"a",), (b"b", b"c"), (b"kattila=" + b"x" * 247, b"x" * 53))


def test_two_candidates_are_named_by_fingerprint(knot: Knot) -> None:
    knot.set_txt("candidates", PSK, OTHER_PSK)
    with pytest.raises(TxtError, match="start the right one with 'kattila='") as caught:
        select_psk(ask(knot.address, "candidates"))
    assert fingerprint(PSK) in str(caught.value)
    assert fingerprint(OTHER_PSK) in str(caught.value)
    assert "psk that protects" not in "".join(traceback.format_exception(caught.value))


def test_no_such_name(knot: Knot) -> None:
    text = complaint(knot.address, "missing")
    assert text == (
        f"the name missing.{ZONE} does not exist, says 127.0.0.1 port {knot.port}: "
        "create a TXT record with the PSK, or correct DNS="
    )


def test_name_without_txt(knot: Knot) -> None:
    text = complaint(knot.address, "address")
    assert f"the name address.{ZONE} exists but has no TXT record" in text
    assert "add one with the PSK" in text


def test_servfail_of_a_zone_that_does_not_load(knot: Knot) -> None:
    text = complaint(knot.address, "kattila", zone=BROKEN_ZONE)
    assert f"127.0.0.1 port {knot.port} (UDP) said SERVFAIL: its zone does not load or does not validate" in text


def test_refused_for_a_foreign_zone(knot: Knot) -> None:
    text = complaint(knot.address, "kattila", zone="foreign.example")
    assert f"127.0.0.1 port {knot.port} (UDP) said REFUSED: it does not serve this zone" in text
    assert "DNS_SERVER=" in text


def test_silence_ends_in_time_after_several_attempts() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        begun = time.monotonic()
        text = complaint(f"127.0.0.1:{port}", "kattila", seconds=1)
        assert time.monotonic() - begun < 1.2
        assert f"no answer for kattila.{ZONE} within 1 s from 127.0.0.1 port {port}" in text
        assert "over UDP and TCP?" in text
        silent.setblocking(False)
        questions = [silent.recv(512) for _ in range(3)]
        assert [question[12:20] for question in questions] == [b"\x07kattila"] * 3
        # Each under an id of its own, and asking to be told whether the answer was validated.
        assert len({question[:2] for question in questions}) == 3
        assert all(question[3] & dns_proxy.AD for question in questions)


def test_what_is_no_dns_server_ends_in_time(knot: Knot) -> None:
    with dns_proxy.dns_proxy(knot.port, lambda _, __: b"HTTP/1.1 400 Bad Request") as proxy:
        assert "no answer" in complaint(proxy.address, "kattila", seconds=1)


def test_lost_datagram_is_sent_again(knot: Knot) -> None:
    knot.set_txt("lossy", PSK)
    with dns_proxy.dns_proxy(knot.port, dns_proxy.lose_first) as proxy:
        assert ask(proxy.address, "lossy", seconds=1) == ((PSK,),)
        assert proxy.asked_udp == 2


def test_answer_too_large_for_udp_comes_over_tcp(knot: Knot) -> None:
    knot.set_txt("large", b"0123456789abcdef" * 512)
    with dns_proxy.dns_proxy(knot.port) as proxy:
        assert len(select_psk(ask(proxy.address, "large"))) == 8192
        assert (proxy.asked_udp, proxy.asked_tcp) == (1, 1)


def test_cut_answer_is_fetched_over_tcp(knot: Knot) -> None:
    knot.set_txt("cut", PSK)
    with dns_proxy.dns_proxy(knot.port, dns_proxy.cut) as proxy:
        assert ask(proxy.address, "cut") == ((PSK,),)
        assert (proxy.asked_udp, proxy.asked_tcp) == (1, 1)


def test_closed_tcp_port_is_named(knot: Knot) -> None:
    knot.set_txt("no-tcp", PSK)
    with dns_proxy.dns_proxy(knot.port, dns_proxy.cut, tcp=False) as proxy:
        text = complaint(proxy.address, "no-tcp")
        assert f"127.0.0.1 port {proxy.port} (TCP) cannot be reached (Connection refused): is its port open?" in text
        assert "UDP" not in text


def test_answer_that_nobody_validated_is_refused_where_that_is_required(knot: Knot) -> None:
    knot.set_txt("unsigned", PSK)
    text = complaint(knot.address, "unsigned", require_ad=True)
    assert f"127.0.0.1 did not validate its answer for unsigned.{ZONE} (no AD flag)" in text
    assert "ask a validating resolver" in text


def test_validated_answer_is_taken(knot: Knot) -> None:
    # knot answers with authority, never with AD: the proxy adds it, as no validating resolver is at hand.
    knot.set_txt("validated", PSK)
    with dns_proxy.dns_proxy(knot.port, dns_proxy.mark_validated) as proxy:
        assert ask(proxy.address, "validated", require_ad=True) == ((PSK,),)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no DNS name is given: set DNS="),
        (" . ", "no DNS name is given: set DNS="),
        ("kattila..example.org", "is no DNS name .*: correct DNS="),
        ("x" * 64 + ".example.org", "is no DNS name .*: correct DNS="),
        (".".join(["x" * 60] * 5), "is no DNS name .*: correct DNS="),
        ("\\999.example.org", "is no DNS name .*: correct DNS="),
    ],
)
def test_bad_names_are_told_before_anybody_is_asked(name: str, reason: str) -> None:
    with pytest.raises(DnsError, match=reason):
        ask_txt(name, server=Server("127.0.0.1", 9), timeout_seconds=0.1)


@pytest.mark.parametrize("text", [None, "", "search example.org\n"])
def test_no_resolver_configured(tmp_path: Path, text: str | None) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    if text is not None:
        resolv_conf.write_text(text)
    with pytest.raises(DnsError) as caught:
        ask_txt("kattila.example.org", server=None, timeout_seconds=1, resolv_conf=resolv_conf)
    assert f"no resolver is configured: {resolv_conf} is missing or names none" in str(caught.value)
    assert "or set DNS_SERVER=" in str(caught.value)


# Runs in a network namespace of its own, as resolv.conf knows no port but 53.
SYSTEM_RESOLVER = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from support.knot import running_knot
from kattila_keys.dns import DnsError, ask_txt

resolv_conf = pathlib.Path(sys.argv[2])
resolv_conf.write_text("search example.org\\nnameserver 127.0.0.1\\n")
with running_knot({"kattila": [b"example psk, protects nothing"]}, port=53):
    print(ask_txt("kattila.example.org", server=None, timeout_seconds=3, resolv_conf=resolv_conf))
    try:
        print(ask_txt("kattila", server=None, timeout_seconds=3, resolv_conf=resolv_conf))
    except DnsError as error:
        print(error)
"""


def test_resolver_of_the_system_is_asked_without_its_search_domains(knot: Knot, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    namespace = [str(unshare), "--map-root-user", "--net", "sh", "-c"]
    if unshare is None or subprocess.run([*namespace, "ip link set lo up"], check=False).returncode != 0:
        pytest.skip("no network namespace can be made here (unshare --map-root-user --net)")
    script = [sys.executable, "-c", SYSTEM_RESOLVER, str(TESTS), str(tmp_path / "resolv.conf")]
    run = [*namespace, 'ip link set lo up && exec "$@"', "sh", *script]
    found, not_found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found == f"(({PSK!r},),)"
    assert "no usable answer for kattila:" in not_found


@pytest.mark.parametrize(
    ("text", "server", "shown"),
    [
        ("192.0.2.53", Server("192.0.2.53", 53), "192.0.2.53:53"),
        (" 192.0.2.53:5353 ", Server("192.0.2.53", 5353), "192.0.2.53:5353"),
        ("2001:db8::53", Server("2001:db8::53", 53), "[2001:db8::53]:53"),
        ("[2001:db8::53]", Server("2001:db8::53", 53), "[2001:db8::53]:53"),
        ("[2001:db8::53]:5353", Server("2001:db8::53", 5353), "[2001:db8::53]:5353"),
        ("localhost", Server("localhost", 53), "localhost:53"),
        ("localhost:5353", Server("localhost", 5353), "localhost:5353"),
    ],
)
def test_servers_that_can_be_given(text: str, server: Server, shown: str) -> None:
    assert Server.parse(text) == server
    assert str(server) == shown
    assert Server.parse(shown) == server


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":53",
            "[]:53",
            "192.0.2",
            "192.0.2.53:",
            "192.0.2.53:dns",
            "192.0.2.53:٥٣",
            "192.0.2.53:0",
            "192.0.2.53:65536",
        ),
        *("[2001:db8::53", "2001:db8::53:", "192.0.2.53 192.0.2.54"),
        *("ns.example.org", "ns.example.org:53", "http://192.0.2.53"),
    ],
)
def test_servers_that_cannot_be_given(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no DNS server: give an IP address|has no port from 1 to 65535"):
        Server.parse(text)


def test_localhost_is_loopback(knot: Knot) -> None:
    knot.set_txt("localhost", PSK)
    assert ask(f"localhost:{knot.port}", "localhost") == ((PSK,),)
