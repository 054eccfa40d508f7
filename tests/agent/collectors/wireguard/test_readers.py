"""The parser of each reader: the same interface from all sources, and tables of malformed answers."""

from __future__ import annotations

import base64
import hashlib
import struct

import pytest

from kattila_agent.collectors.unix_socket import UnreadableError
from kattila_agent.collectors.wireguard import curve25519, helper, kernel, userspace, wg_dump
from kattila_agent.collectors.wireguard.builder import InterfaceBuilder, PeerLimits, build
from kattila_protocol.report import Cut, WireguardInterface, WireguardPeer
from support import wireguard_packets as packets
from support.wireguard_packets import INDEX, attribute, device, message, peer, peers

LIMITS = PeerLimits(1000, 5000)
PRIVATE, PRESHARED = bytes(range(1, 33)), bytes(range(101, 133))
OWN = curve25519.public_key(PRIVATE)
ALICE, BOB = bytes(range(32)), bytes(range(50, 82))


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def scope(index: int) -> str:
    return f"if{index}"


def one(builder: InterfaceBuilder, limits: PeerLimits = LIMITS) -> WireguardInterface:
    (interface,) = build([builder], limits).items
    return interface


def from_kernel(*messages: bytes, limits: PeerLimits = LIMITS) -> InterfaceBuilder:
    return kernel.parse(INDEX, "wg0", messages, limits, scope)


def from_userspace(answer: str) -> InterfaceBuilder:
    return userspace.parse("wg0", answer.encode(), LIMITS, scope)


def from_dump(*lines: str, limits: PeerLimits = LIMITS) -> InterfaceBuilder:
    return wg_dump.parse([line.encode() for line in lines], limits, scope)["wg0"]


def framed(body: bytes) -> bytes:
    return b"kattila-wireguard 1\n" + body + b"end " + hashlib.sha256(body).hexdigest().encode() + b"\n"


# --- The same interface from each source

EXPECTED = WireguardInterface(
    name="wg0",
    public_key=text(OWN),
    listen_port=51820,
    fwmark=0xCA6C,
    peers=(
        WireguardPeer(
            text(ALICE), "[fe80::1%if3]:51821", ("2001:db8:1::/48", "0.0.0.0/0"), 1760000000, 7, 2**40, 0, True
        ),
        WireguardPeer(text(BOB), None, (), 0, 0, 0, 25, False),
    ),
)
KERNEL = message(
    device(PRIVATE, OWN, fwmark=0xCA6C),
    peers(
        peer(
            BOB,
            endpoint=b"",
            handshake=attribute(6, struct.pack("=qq", 0, 0)),
            received=attribute(7, bytes(8)),
            sent=attribute(8, bytes(8)),
            prefixes=attribute(9, b""),
        ),
        peer(
            ALICE,
            preshared_key=attribute(2, PRESHARED),
            endpoint=attribute(4, packets.sockaddr("fe80::1", 51821, 3)),
            keepalive=attribute(5, bytes(2)),
            received=attribute(7, struct.pack("=Q", 7)),
            sent=attribute(8, struct.pack("=Q", 2**40)),
            prefixes=packets.allowed_ips(["2001:db8:1::/48", "0.0.0.0/0"]),
        ),
    ),
)
USERSPACE = f"""private_key={PRIVATE.hex()}
listen_port=51820
fwmark={0xCA6C}
public_key={BOB.hex()}
preshared_key={"0" * 64}
protocol_version=1
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=25
public_key={ALICE.hex()}
preshared_key={PRESHARED.hex()}
protocol_version=1
endpoint=[fe80::1%3]:51821
last_handshake_time_sec=1760000000
last_handshake_time_nsec=5
tx_bytes={2**40}
rx_bytes=7
persistent_keepalive_interval=0
allowed_ip=2001:db8:1::/48
allowed_ip=0.0.0.0/0
errno=0

"""
DUMP = (
    f"wg0\t{text(PRIVATE)}\t{text(OWN)}\t51820\t0xca6c",
    f"wg0\t{text(BOB)}\t(none)\t(none)\t(none)\t0\t0\t0\t25",
    f"wg0\t{text(ALICE)}\t{text(PRESHARED)}\t[fe80::1%if3]:51821\t2001:db8:1::/48,0.0.0.0/0\t1760000000\t7\t{2**40}\toff",
)
HELPED = framed("".join(f"{line}\n" for line in DUMP).replace(text(PRIVATE), "(hidden)").encode())


def test_all_sources_give_the_same_interface() -> None:
    assert one(from_kernel(KERNEL)) == EXPECTED
    assert one(from_userspace(USERSPACE)) == EXPECTED
    assert one(from_dump(*DUMP)) == EXPECTED
    found, unreadable = helper.parse(HELPED, LIMITS, scope)
    assert (one(found["wg0"]), unreadable) == (EXPECTED, {})


def test_a_counter_of_64_bits_is_reported_as_the_largest_integer() -> None:
    counter = str(2**64 - 1)
    found = (
        from_kernel(message(device(PRIVATE, OWN), peers(peer(ALICE, sent=attribute(8, b"\xff" * 8))))),
        from_userspace(changed(USERSPACE, str(2**40), counter)),
        from_dump(*(line.replace(str(2**40), counter) for line in DUMP)),
    )
    assert [one(each).peers[0].transfer_tx for each in found] == [2**63 - 1] * 3


def test_an_interface_without_a_key() -> None:
    bare = WireguardInterface("wg0", "", 0, 0, ())
    fields = attribute(1, struct.pack("=I", INDEX)) + attribute(6, bytes(2)) + attribute(7, bytes(4))
    assert one(from_kernel(message(fields))) == bare
    assert one(from_userspace("errno=0\n\n")) == bare
    assert one(from_dump("wg0\t(none)\t(none)\t0\toff")) == bare


def test_unknown_fields_are_skipped() -> None:
    first = message(device(PRIVATE, OWN), attribute(99, b"new"), peers(peer(ALICE) + attribute(99, b"new")))
    assert one(from_kernel(first)).peers[0].endpoint == "192.0.2.2:51820"
    assert one(from_userspace(USERSPACE.replace("rx_bytes=7", "new=1\nrx_bytes=7"))).peers == EXPECTED.peers


def test_the_kernels_split_answers_are_joined() -> None:
    many = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(2000)]
    first = message(device(PRIVATE, OWN), peers(peer(BOB), peer(ALICE, prefixes=packets.allowed_ips(many[:900]))))
    second = message(peers(attribute(1, ALICE) + packets.allowed_ips(many[900:1800])))
    third = message(peers(attribute(1, ALICE) + packets.allowed_ips(many[1800:]), peer(OWN)))
    interface = one(from_kernel(first, second, third))
    assert [each.public_key for each in interface.peers] == sorted(map(text, (ALICE, BOB, OWN)))
    assert list(interface.peers[0].allowed_ips) == many
    assert interface.peers[0].transfer_rx == 100


# --- Limits


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


@pytest.mark.parametrize("count", [3, 8, 100])
def test_the_same_peers_are_reported_in_any_order(count: int) -> None:
    limits = PeerLimits(peers=3, allowed_ips=5000)
    lines = [f"wg0\t{text(key(number))}\t(none)\t(none)\t(none)\t0\t0\t0\toff" for number in range(count)]
    header = f"wg0\t(none)\t{text(OWN)}\t1\toff"
    found = build([from_dump(header, *lines, limits=limits)], limits)
    assert found == build([from_dump(header, *reversed(lines), limits=limits)], limits)
    assert [each.public_key for each in found.items[0].peers] == sorted(text(key(n)) for n in range(count))[:3]
    assert found.cuts == ((Cut("peers", 3, count, "wg0"),) if count > 3 else ())


def test_too_many_allowed_ips_are_cut_and_counted() -> None:
    limits = PeerLimits(peers=1000, allowed_ips=100)
    many = packets.allowed_ips(f"10.0.{number}.0/24" for number in range(200))
    more = packets.allowed_ips(f"10.1.{number}.0/24" for number in range(56))
    messages = (
        message(device(PRIVATE, OWN), peers(peer(BOB), peer(ALICE, prefixes=many))),
        message(peers(attribute(1, ALICE) + more)),
    )
    found = build([from_kernel(*messages, limits=limits)], limits)
    assert [len(each.allowed_ips) for each in found.items[0].peers] == [99, 1]
    assert found.cuts == (Cut("allowed_ips", 99, 256, text(ALICE)),)


# --- Malformed answers: each is a failure with a reason, never a value

BAD_KERNEL: dict[str, tuple[bytes, ...]] = {
    "no header": (b"\x00",),
    "an attribute is cut off": (message(b"\x08\x00"),),
    "an attribute is longer than the message": (message(struct.pack("=HH", 400, 4) + bytes(8)),),
    "an attribute is shorter than its header": (message(struct.pack("=HH", 3, 4)),),
    "another device": (message(attribute(1, struct.pack("=I", INDEX + 1))),),
    "an index of two bytes": (message(attribute(1, b"\x07\x00")),),
    "a short public key": (message(attribute(4, bytes(31))),),
    "a listen port of four bytes": (message(attribute(6, bytes(4))),),
    "a fwmark of two bytes": (message(attribute(7, bytes(2))),),
    "nothing about the device": (message(peers(peer(ALICE))),),
    "no fwmark": (message(attribute(1, struct.pack("=I", INDEX)), attribute(6, bytes(2))),),
    "no message": (),
    "the same peer later again": (message(device(PRIVATE, OWN), peers(peer(ALICE), peer(BOB), peer(ALICE))),),
    "a rest without its peer": (message(device(PRIVATE, OWN), peers(attribute(1, ALICE) + packets.allowed_ips([]))),),
}
BAD_PEERS: dict[str, bytes] = {
    "empty": b"",
    "no public key": b"".join(packets.parts(ALICE)[1:]),
    "a short public key": peer(ALICE[:-1]),
    "a short preshared key": peer(ALICE, preshared_key=attribute(2, PRESHARED[:-1])),
    "no preshared key": peer(ALICE, preshared_key=b""),
    "no keepalive": peer(ALICE, keepalive=b""),
    "a keepalive of one byte": peer(ALICE, keepalive=attribute(5, b"\x01")),
    "no handshake": peer(ALICE, handshake=b""),
    "a handshake of 8 bytes": peer(ALICE, handshake=attribute(6, bytes(8))),
    "a handshake before 1970": peer(ALICE, handshake=attribute(6, struct.pack("=qq", -1, 0))),
    "no rx": peer(ALICE, received=b""),
    "rx of four bytes": peer(ALICE, received=attribute(7, bytes(4))),
    "an endpoint cut off": peer(ALICE, endpoint=attribute(4, packets.sockaddr("192.0.2.2", 1)[:8])),
    "an IPv6 endpoint cut off": peer(ALICE, endpoint=attribute(4, packets.sockaddr("2001:db8::1", 1)[:24])),
    "an endpoint of another family": peer(ALICE, endpoint=attribute(4, struct.pack("=H", 1) + bytes(26))),
    "an allowed IP without a family": peer(ALICE, prefixes=attribute(9, attribute(0, attribute(2, bytes(4))))),
    "an allowed IP of another family": peer(
        ALICE,
        prefixes=attribute(9, attribute(0, attribute(1, b"\x01\x00") + attribute(2, bytes(4)) + attribute(3, b"\x18"))),
    ),
    "an allowed IP of 33 bits": peer(ALICE, prefixes=packets.allowed_ips(["192.0.2.0/33"])),
    "an IPv6 address as IPv4": peer(
        ALICE,
        prefixes=attribute(
            9, attribute(0, attribute(1, b"\x02\x00") + attribute(2, bytes(16)) + attribute(3, b"\x18"))
        ),
    ),
}
BAD_KERNEL |= {f"peer: {name}": (message(device(PRIVATE, OWN), peers(bad)),) for name, bad in BAD_PEERS.items()}


@pytest.mark.parametrize("messages", BAD_KERNEL.values(), ids=BAD_KERNEL)
def test_malformed_netlink_answers(messages: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_kernel(*messages)


def test_a_netlink_answer_cut_anywhere() -> None:
    """A cut between two attributes of the device cannot be seen here, but in the length of the message."""
    whole = 0
    for length in range(4, len(KERNEL)):
        try:
            assert one(from_kernel(KERNEL[:length])).peers == ()
            whole += 1
        except ValueError:
            continue
    assert whole == 1


def changed(answer: str, before: str, after: str) -> str:
    assert before in answer
    return answer.replace(before, after, 1)


BAD_USERSPACE: dict[str, str] = {
    "empty": "",
    "cut off": USERSPACE[:-1],
    "no errno": changed(USERSPACE, "errno=0\n", ""),
    "an error": changed(USERSPACE, "errno=0", "errno=-5"),
    "an error that is not a number": changed(USERSPACE, "errno=0", "errno=x"),
    "a field after errno": changed(USERSPACE, "errno=0\n", "errno=0\nrx_bytes=1\n"),
    "a short private key": changed(USERSPACE, PRIVATE.hex(), PRIVATE.hex()[:-2]),
    "a private key that is not hex": changed(USERSPACE, PRIVATE.hex(), "x" * 64),
    "a listen port too high": changed(USERSPACE, "listen_port=51820", "listen_port=65536"),
    "a listen port with a sign": changed(USERSPACE, "listen_port=51820", "listen_port=-1"),
    "a fwmark beyond 32 bits": changed(USERSPACE, f"fwmark={0xCA6C}", f"fwmark={2**32}"),
    "a short public key": changed(USERSPACE, ALICE.hex(), ALICE.hex()[1:]),
    "a listen port twice": changed(USERSPACE, "listen_port=51820", "listen_port=51820\nlisten_port=51821"),
    "a key twice": changed(USERSPACE, f"private_key={PRIVATE.hex()}", f"private_key={PRIVATE.hex()}\n" * 2),
    "an endpoint twice": changed(USERSPACE, "endpoint=", "endpoint=192.0.2.1:1\nendpoint="),
    "rx twice": changed(USERSPACE, "rx_bytes=7", "rx_bytes=7\nrx_bytes=8"),
    "a peer twice": changed(USERSPACE, ALICE.hex(), BOB.hex()),
    "a preshared key that is not hex": changed(USERSPACE, PRESHARED.hex(), "x" * 64),
    "an endpoint without a port": changed(USERSPACE, "[fe80::1%3]:51821", "fe80::1"),
    "an endpoint with port 65536": changed(USERSPACE, "[fe80::1%3]:51821", "192.0.2.1:65536"),
    "an endpoint in wrong brackets": changed(USERSPACE, "[fe80::1%3]:51821", "[192.0.2.1]:51821"),
    "an endpoint that is a name": changed(USERSPACE, "[fe80::1%3]:51821", "host.example.com:51821"),
    "a handshake that is not a number": changed(USERSPACE, "sec=1760000000", "sec=soon"),
    "a handshake beyond 63 bits": changed(USERSPACE, "sec=1760000000", f"sec={2**63}"),
    "no rx": changed(USERSPACE, "rx_bytes=7\n", ""),
    "a fraction": changed(USERSPACE, "rx_bytes=7", "rx_bytes=7.5"),
    "a number of other digits": changed(USERSPACE, "rx_bytes=7", "rx_bytes=\u0667"),
    "rx beyond 64 bits": changed(USERSPACE, "rx_bytes=7", f"rx_bytes={2**64}"),
    "a number without end": changed(USERSPACE, "rx_bytes=7", f"rx_bytes={'7' * 5000}"),
    "a keepalive too long": changed(USERSPACE, "interval=25", "interval=65536"),
    "an allowed IP without length": changed(USERSPACE, "0.0.0.0/0", "0.0.0.0"),
    "an allowed IP of 129 bits": changed(USERSPACE, "2001:db8:1::/48", "2001:db8:1::/129"),
    "an allowed IP that is none": changed(USERSPACE, "0.0.0.0/0", "300.0.0.0/0"),
}


@pytest.mark.parametrize("answer", BAD_USERSPACE.values(), ids=BAD_USERSPACE)
def test_malformed_userspace_answers(answer: str) -> None:
    with pytest.raises((ValueError, UnreadableError), match=r"\w"):
        one(from_userspace(answer))


def test_a_userspace_answer_cut_anywhere() -> None:
    for length in range(len(USERSPACE)):
        with pytest.raises((ValueError, UnreadableError)):
            one(from_userspace(USERSPACE[:length]))


def column(line: str, number: int, value: str) -> str:
    columns = line.split("\t")
    columns[number] = value
    return "\t".join(columns)


BAD_DUMPS: dict[str, tuple[str, ...]] = {
    "an empty line": ("",),
    "one column more": (f"{DUMP[0]}\tx",),
    "a peer first": (DUMP[1],),
    "a peer of another interface": (DUMP[0], column(DUMP[1], 0, "wg1")),
    "an interface twice": (DUMP[0], DUMP[0]),
    "a peer twice": (DUMP[0], DUMP[1], DUMP[1]),
    "an interface's key is short": (column(DUMP[0], 2, text(OWN)[:-1]),),
    "a key that no 32 bytes have": (column(DUMP[0], 2, "A" * 42 + "B="),),
    "a listen port that is none": (column(DUMP[0], 3, "off"),),
    "a fwmark in decimal": (column(DUMP[0], 4, "1"),),
    "a fwmark without digits": (column(DUMP[0], 4, "0x"),),
    "a fwmark too long": (column(DUMP[0], 4, "0x123456789"),),
    "a peer without a key": (DUMP[0], column(DUMP[1], 1, "(none)")),
    "an empty secret column": (DUMP[0], column(DUMP[1], 2, "")),
    "an endpoint that is none": (DUMP[0], column(DUMP[1], 3, "here")),
    "allowed IPs with a gap": (DUMP[0], column(DUMP[2], 4, "192.0.2.0/24,,")),
    "a handshake that is none": (DUMP[0], column(DUMP[1], 5, "(none)")),
    "rx that is none": (DUMP[0], column(DUMP[1], 6, "1k")),
    "tx that is negative": (DUMP[0], column(DUMP[1], 7, "-1")),
    "a keepalive that is none": (DUMP[0], column(DUMP[1], 8, "on")),
}


@pytest.mark.parametrize("lines", BAD_DUMPS.values(), ids=BAD_DUMPS)
def test_malformed_dumps(lines: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"line \d+ of the dump: \w"):
        from_dump(*lines)


BAD_FRAMES: dict[str, bytes] = {
    "empty": b"",
    "the greeting alone": b"kattila-wireguard 1\n",
    "another version": HELPED.replace(b"wireguard 1", b"wireguard 2"),
    "another end": HELPED[:-3] + b"00\n",
    "a changed dump": HELPED.replace(b"51820", b"51821"),
    "a line lost": HELPED.replace(f"{DUMP[1]}\n".encode(), b""),
    "no line feed at the end": HELPED[:-1],
    "more after the end": HELPED + b"x\n",
    "a failure": b"kattila-wireguard 1\nfailed wg is not installed\n",
}


@pytest.mark.parametrize("answer", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_malformed_answers_of_the_helper(answer: bytes) -> None:
    with pytest.raises(UnreadableError, match=r"\w"):
        helper.parse(answer, LIMITS, scope)


def test_an_answer_of_the_helper_cut_anywhere() -> None:
    for length in range(len(HELPED)):
        with pytest.raises(UnreadableError):
            helper.parse(HELPED[:length], LIMITS, scope)


def test_interfaces_that_the_helper_could_not_read_have_reasons() -> None:
    body = f"{DUMP[0]}\nwg1\t(unreadable)\tNo such device\n".encode()
    found, unreadable = helper.parse(framed(body), LIMITS, scope)
    assert (list(found), unreadable) == (["wg0"], {"wg1": "No such device"})
    assert helper.parse(framed(b""), LIMITS, scope) == ({}, {})
    with pytest.raises(ValueError, match="3 columns"):
        helper.parse(framed(b"wg1\tx\ty\n"), LIMITS, scope)
