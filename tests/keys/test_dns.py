"""Every kind of DNS answer, from a real server; each error names a remedy."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from kattila_keys import dns
from kattila_keys.dns import query_txt
from kattila_keys.dns_server import DnsError, DnsServer, TxtRecords
from kattila_protocol.signing import fingerprint
from kattila_protocol.txt import TxtError, select_psk
from support import dns_proxy
from support.knot import BROKEN_ZONE, ZONE, Knot, Record
from support.waiting import PATIENCE_SECONDS, not_waiting_for

PSK = b"example psk, protects nothing"
OTHER_PSK = b"another psk that protects nothing"
TESTS = Path(__file__).parents[1]


def query(
    address: str, label: str, *, zone: str = ZONE, seconds: float = PATIENCE_SECONDS, require_ad: bool = False
) -> TxtRecords:
    name = f"{label}.{zone}"
    return query_txt(name, server=DnsServer.parse(address), timeout_seconds=seconds, require_ad=require_ad)


def error_text(
    address: str, label: str, *, zone: str = ZONE, seconds: float = PATIENCE_SECONDS, require_ad: bool = False
) -> str:
    with pytest.raises(DnsError) as caught:
        query(address, label, zone=zone, seconds=seconds, require_ad=require_ad)
    # Errors of dnspython may hold a PSK.
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert PSK.decode() not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    ("label", "published", "psk"),
    [
        ("one-string", [PSK], PSK),
        ("several-strings", [[b"example psk, ", b"protects ", b"nothing"]], PSK),
        ("prefix-in-two-strings", [[b"katt", b"ila=example psk, protects nothing"]], PSK),
        ("several-records", [b"v=spf1 -all", b"kattila=" + PSK, b"some-site-verify_as=0123456789"], PSK),
        ("equal-twice", [[b"example psk, ", b"protects nothing"], PSK], PSK),
        ("quotes", [rb'a "quoted" \ back\slash, and a ; semicolon'], rb'a "quoted" \ back\slash, and a ; semicolon'),
        ("unicode", ["esimerkkiavain: yötön yö".encode()], "esimerkkiavain: yötön yö".encode()),
        ("over-255", [b"0123456789" * 40], b"0123456789" * 40),
    ],
)
def test_the_published_text_is_the_psk(knot: Knot, label: str, published: list[Record], psk: bytes) -> None:
    knot.set_txt(label, *published)
    assert select_psk(query(knot.address, label)) == psk


def test_records_are_sorted_and_strings_stay_separate(knot: Knot) -> None:
    knot.set_txt("apart", b"kattila=" + b"x" * 300, [b"b", b"c"], b"a")
    assert query(knot.address, "apart") == ((b"a",), (b"b", b"c"), (b"kattila=" + b"x" * 247, b"x" * 53))


def test_two_candidates_are_an_error_that_names_their_fingerprints(knot: Knot) -> None:
    knot.set_txt("candidates", PSK, OTHER_PSK)
    with pytest.raises(TxtError, match="start the right one with 'kattila='") as caught:
        select_psk(query(knot.address, "candidates"))
    assert fingerprint(PSK) in str(caught.value)
    assert fingerprint(OTHER_PSK) in str(caught.value)
    assert "psk that protects" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_name_is_an_error(knot: Knot) -> None:
    text = error_text(knot.address, "missing")
    assert text == (
        f"127.0.0.1 port {knot.port} says that missing.{ZONE} does not exist: "
        "create a TXT record with the PSK, or correct DNS="
    )


def test_a_name_without_txt_record_is_an_error(knot: Knot) -> None:
    text = error_text(knot.address, "address")
    assert f"has no TXT record for address.{ZONE}" in text
    assert "add one with the PSK" in text


def test_servfail_is_an_error_that_blames_the_zone(knot: Knot) -> None:
    text = error_text(knot.address, "kattila", zone=BROKEN_ZONE)
    assert f"127.0.0.1 port {knot.port} (UDP) answered SERVFAIL: the zone does not load or does not validate" in text


def test_refused_is_an_error_that_names_the_setting(knot: Knot) -> None:
    text = error_text(knot.address, "kattila", zone="foreign.example")
    assert f"127.0.0.1 port {knot.port} (UDP) answered REFUSED: it does not serve this zone" in text
    assert "DNS_SERVER=" in text


def test_a_silent_server_gets_three_queries_and_a_timeout() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with not_waiting_for("an answer"):
            text = error_text(f"127.0.0.1:{port}", "kattila", seconds=1)
        assert f"no answer for kattila.{ZONE} from 127.0.0.1 port {port} within 1 s" in text
        assert "over UDP and TCP?" in text
        silent.setblocking(False)
        queries = [silent.recv(512) for _ in range(3)]
        assert [sent[12:20] for sent in queries] == [b"\x07kattila"] * 3
        # Each has its own id, and requests the AD flag.
        assert len({sent[:2] for sent in queries}) == 3
        assert all(sent[3] & dns_proxy.AD for sent in queries)


@pytest.mark.parametrize("servers", [1, 2, 3])
@pytest.mark.parametrize("seconds", [2, 5, 30])
def test_all_rounds_together_keep_to_the_timeout(servers: int, seconds: float) -> None:
    resolver = dns._resolver([f"192.0.2.{number}" for number in range(1, servers + 1)], 53, seconds)
    # dnspython ends a round in time, except for a pause that it has begun.
    longest_pause = dns._FIRST_PAUSE_SECONDS * 2 ** (servers - 1)
    assert dns._ROUNDS * (resolver.lifetime + longest_pause) <= seconds
    assert servers * resolver.timeout <= resolver.lifetime


def test_a_server_of_another_protocol_is_a_timeout(knot: Knot) -> None:
    with dns_proxy.dns_proxy(knot.port, lambda _, __: b"HTTP/1.1 400 Bad Request") as proxy:
        assert "no answer" in error_text(proxy.address, "kattila", seconds=1)


def test_a_lost_datagram_is_sent_again(knot: Knot) -> None:
    knot.set_txt("lossy", PSK)
    with dns_proxy.dns_proxy(knot.port, dns_proxy.lose_first) as proxy:
        assert query(proxy.address, "lossy", seconds=9) == ((PSK,),)
        assert proxy.udp_queries == 2


def test_an_answer_too_large_for_udp_comes_over_tcp(knot: Knot) -> None:
    knot.set_txt("large", b"0123456789abcdef" * 512)
    with dns_proxy.dns_proxy(knot.port) as proxy:
        assert len(select_psk(query(proxy.address, "large"))) == 8192
        assert (proxy.udp_queries, proxy.tcp_queries) == (1, 1)


def test_a_truncated_answer_is_fetched_over_tcp(knot: Knot) -> None:
    knot.set_txt("truncated", PSK)
    with dns_proxy.dns_proxy(knot.port, dns_proxy.truncate) as proxy:
        assert query(proxy.address, "truncated") == ((PSK,),)
        assert (proxy.udp_queries, proxy.tcp_queries) == (1, 1)


def test_a_closed_tcp_port_is_an_error_that_names_it(knot: Knot) -> None:
    knot.set_txt("no-tcp", PSK)
    with dns_proxy.dns_proxy(knot.port, dns_proxy.truncate, tcp=False) as proxy:
        text = error_text(proxy.address, "no-tcp")
        assert f"127.0.0.1 port {proxy.port} (TCP) is unreachable (Connection refused): is its port open?" in text
        assert "UDP" not in text


def test_an_unvalidated_answer_is_refused_if_ad_is_required(knot: Knot) -> None:
    knot.set_txt("unsigned", PSK)
    text = error_text(knot.address, "unsigned", require_ad=True)
    assert f"127.0.0.1 did not validate its answer for unsigned.{ZONE} (no AD flag)" in text
    assert "set DNS_SERVER= to a validating resolver" in text


def test_a_validated_answer_is_accepted(knot: Knot) -> None:
    # Knot is authoritative and never sets AD. The proxy sets it, in place of a validating resolver.
    knot.set_txt("validated", PSK)
    with dns_proxy.dns_proxy(knot.port, dns_proxy.mark_validated) as proxy:
        assert query(proxy.address, "validated", require_ad=True) == ((PSK,),)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "the DNS name is empty: set DNS="),
        (" . ", "the DNS name is empty: set DNS="),
        ("kattila..example.org", "is not a DNS name .*: correct DNS="),
        ("x" * 64 + ".example.org", "is not a DNS name .*: correct DNS="),
        (".".join(["x" * 60] * 5), "is not a DNS name .*: correct DNS="),
        ("\\999.example.org", "is not a DNS name .*: correct DNS="),
    ],
)
def test_an_invalid_name_is_refused_without_a_query(name: str, reason: str) -> None:
    with pytest.raises(DnsError, match=reason):
        query_txt(name, server=DnsServer("127.0.0.1", 9), timeout_seconds=0.1)


# Runs in its own network namespace: resolv.conf cannot name a port, so the server needs port 53.
SYSTEM_RESOLVER = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from support.knot import running_knot
from kattila_keys import dns
from kattila_keys.dns import query_txt
from kattila_keys.dns_server import DnsError

resolv_conf = pathlib.Path(sys.argv[2])
resolv_conf.write_text("search example.org\\nnameserver 127.0.0.1\\n")
with running_knot({"kattila": [b"example psk, protects nothing"]}, port=53):
    print(query_txt("kattila.example.org", server=None, timeout_seconds=60, resolv_conf=resolv_conf))
    try:
        print(query_txt("kattila", server=None, timeout_seconds=60, resolv_conf=resolv_conf))
    except DnsError as error:
        print(error)
"""


def test_search_domains_of_the_system_are_not_applied(knot: Knot, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    namespace = [str(unshare), "--map-root-user", "--net", "sh", "-c"]
    if unshare is None or subprocess.run([*namespace, "ip link set lo up"], check=False).returncode != 0:
        pytest.skip("cannot create a network namespace (unshare --map-root-user --net)")
    script = [sys.executable, "-c", SYSTEM_RESOLVER, str(TESTS), str(tmp_path / "resolv.conf")]
    run = [*namespace, 'ip link set lo up && exec "$@"', "sh", *script]
    found, not_found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found == f"(({PSK!r},),)"
    assert "no usable answer for kattila:" in not_found


@pytest.mark.parametrize(
    ("text", "server", "shown"),
    [
        ("192.0.2.53", DnsServer("192.0.2.53", 53), "192.0.2.53:53"),
        (" 192.0.2.53:5353 ", DnsServer("192.0.2.53", 5353), "192.0.2.53:5353"),
        ("2001:db8::53", DnsServer("2001:db8::53", 53), "[2001:db8::53]:53"),
        ("[2001:db8::53]", DnsServer("2001:db8::53", 53), "[2001:db8::53]:53"),
        ("[2001:db8::53]:5353", DnsServer("2001:db8::53", 5353), "[2001:db8::53]:5353"),
        ("localhost", DnsServer("localhost", 53), "localhost:53"),
        ("localhost:5353", DnsServer("localhost", 5353), "localhost:5353"),
    ],
)
def test_a_valid_server_is_parsed_and_printed(text: str, server: DnsServer, shown: str) -> None:
    assert DnsServer.parse(text) == server
    assert str(server) == shown
    assert DnsServer.parse(shown) == server


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
def test_an_invalid_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a DNS server: give an IP address|has no port from 1 to 65535"):
        DnsServer.parse(text)


def test_localhost_is_loopback(knot: Knot) -> None:
    knot.set_txt("localhost", PSK)
    assert query(f"localhost:{knot.port}", "localhost") == ((PSK,),)
