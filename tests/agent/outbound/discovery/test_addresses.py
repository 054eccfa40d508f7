"""The addresses at which siblings may answer, for tables of WireGuard and link states."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_agent.outbound.discovery import candidates
from kattila_agent.outbound.discovery.addresses import MAX_GUESSES, MAX_SUBNET_ADDRESSES
from kattila_protocol.report import Interface, Telemetry, WireguardInterface, WireguardPeer

NEVER, ONCE = 0, 1_760_000_000


def link(name: str, *addresses: str, flags: tuple[str, ...] = ("POINTOPOINT", "NOARP", "UP", "LOWER_UP")) -> Interface:
    return Interface(1, name, "wireguard", flags, "UNKNOWN", 1420, None, addresses)


def tunnel(name: str, *peers: tuple[int, str]) -> WireguardInterface:
    """Peers as (latest handshake, AllowedIPs)."""
    rows = (
        WireguardPeer(f"key of {number}", None, tuple(allowed.split()), handshake, 0, 0, 0, False)
        for number, (handshake, allowed) in enumerate(peers)
    )
    return WireguardInterface(name, f"key of {name}", 51820, 0, tuple(rows))


def found(addresses: str, *peers: str, handshake: int = ONCE) -> list[str]:
    """Return the candidates of a node whose wg0 has these addresses and peers with these AllowedIPs."""
    told = Telemetry(
        system=None,
        interfaces=(link("wg0", *addresses.split()),),
        wireguard=(tunnel("wg0", *((handshake, allowed) for allowed in peers)),),
    )
    return list(candidates(told).addresses)


@pytest.mark.parametrize(
    ("addresses", "allowed", "expected"),
    [
        ("10.99.0.1/24", "10.99.0.2/32", "10.99.0.2"),
        ("10.99.0.1/24", "10.99.0.2/32 fd99::2/128", "10.99.0.2 fd99::2"),
        ("10.99.0.1/24", "10.99.0.2/32 10.99.0.2/32", "10.99.0.2"),
        ("10.99.0.1/32", "203.0.113.7/32", "203.0.113.7"),
        ("10.99.0.1/24", "", ""),
        # Its own addresses, on whichever link, and what no host has.
        ("10.99.0.1/24 10.99.0.2/24", "10.99.0.2/32 10.99.0.1/32", ""),
        ("10.99.0.1/24", "10.99.0.0/32 10.99.0.255/32 10.99.0.254/32", "10.99.0.254"),
        ("10.99.0.1/24", "127.0.0.1/32 0.0.0.0/32 224.0.0.5/32 255.255.255.255/32 ::1/128 ::/128 ff02::1/128", ""),
        ("fd99::1/64", "fd99::/128 fd99::ffff:ffff:ffff:ffff/128", "fd99::ffff:ffff:ffff:ffff"),
        ("10.99.0.1/24", "::ffff:192.0.2.1/128", ""),
        # Link-local: only where the link's subnet says which link that is.
        ("fe80::1/64", "fe80::2/128", ""),
        ("10.99.0.1/24", "169.254.1.2/32", ""),
        ("169.254.1.1/30", "169.254.1.2/32", "169.254.1.2"),
        # Small subnets: their hosts.
        ("10.99.0.1/30", "10.99.0.0/30", "10.99.0.2"),
        ("10.99.0.1/31", "10.99.0.0/31", "10.99.0.0"),
        ("fd99::/127", "fd99::/127", "fd99::1"),
        ("fd99::1/126", "fd99::/126", "fd99::2 fd99::3"),
        ("10.99.0.1/32", "198.51.100.8/30", "198.51.100.9 198.51.100.10"),
        # A part of the link's subnet has neither a network nor a broadcast address.
        ("10.99.0.1/24", "10.99.0.252/30", "10.99.0.252 10.99.0.253 10.99.0.254"),
        # Large ones: only what a small subnet of the link has in common with them.
        ("10.99.0.1/16", "10.99.0.0/16", ""),
        ("10.99.0.1/30", "0.0.0.0/0 ::/0", "10.99.0.2"),
        ("10.99.0.1/30 fd99::1/126", "10.0.0.0/8 fd99::/64", "10.99.0.2 fd99::2 fd99::3"),
        ("10.99.0.1/32 fd99::1/128", "0.0.0.0/0 ::/0", ""),
        ("10.99.0.1/29", "10.99.0.2/32 10.99.0.0/16", "10.99.0.2 10.99.0.3 10.99.0.4 10.99.0.5 10.99.0.6"),
    ],
)  # fmt: skip
def test_which_addresses_are_candidates(addresses: str, allowed: str, expected: str) -> None:
    assert sorted(found(addresses, allowed), key=expected.split().index) == expected.split()


def test_the_most_promising_come_first() -> None:
    told = Telemetry(
        system=None,
        interfaces=(link("wg0", "10.99.0.1/24"), link("wg1", "10.98.0.1/30")),
        wireguard=(
            tunnel(
                "wg0",
                (NEVER, "203.0.113.1/32 10.99.0.9/32"),
                (ONCE, "203.0.113.2/32 10.99.0.2/32"),
                (ONCE, "192.0.2.0/30"),
            ),
            tunnel("wg1", (NEVER, "10.98.0.0/30"), (ONCE, "198.51.100.4/30"), (ONCE, "10.98.0.2/32")),
        ),
    )
    assert candidates(told).addresses == (
        # On the link's own subnet: of peers that have shaken hands, then of those that never have.
        "10.99.0.2",
        "10.98.0.2",
        "10.99.0.9",
        # Elsewhere.
        "203.0.113.2",
        "203.0.113.1",
        # Subnets in turns, in the same order.
        "192.0.2.1",
        "198.51.100.5",
        "192.0.2.2",
        "198.51.100.6",
    )


@pytest.mark.parametrize(
    ("flags", "expected"), [(("UP",), ("10.99.0.2",)), (("NO-CARRIER", "UP"), ("10.99.0.2",)), ((), ())]
)
def test_links_that_are_down_are_skipped(flags: tuple[str, ...], expected: tuple[str, ...]) -> None:
    told = Telemetry(
        system=None,
        interfaces=(link("wg0", "10.99.0.1/24", flags=flags),),
        wireguard=(tunnel("wg0", (ONCE, "10.99.0.2/32")),),
    )
    assert candidates(told).addresses == expected


def test_a_link_that_the_report_was_cut_by() -> None:
    told = Telemetry(system=None, wireguard=(tunnel("wg0", (ONCE, "10.99.0.2/32 0.0.0.0/0")),))
    assert candidates(told).addresses == ("10.99.0.2",)


def test_addresses_of_other_links_are_own_and_their_subnets_are_skipped() -> None:
    eth0 = link("eth0", "192.0.2.1/29")
    told = Telemetry(
        system=None,
        interfaces=(eth0, link("wg0", "10.99.0.1/32")),
        wireguard=(tunnel("wg0", (ONCE, "0.0.0.0/0"), (ONCE, "192.0.2.1/32 192.0.2.2/32")),),
    )
    assert candidates(told).addresses == ("192.0.2.2",)


def test_without_wireguard_there_are_no_candidates() -> None:
    assert candidates(Telemetry(system=None)).addresses == ()
    assert found("10.99.0.1/24") == []


def test_guesses_are_bounded_in_all_and_single_addresses_are_not() -> None:
    assert len(found("10.99.0.1/32", "10.1.0.0/24")) == MAX_SUBNET_ADDRESSES - 2
    assert found("10.99.0.1/32", "10.1.0.0/23") == []
    assert len(found("fd99::1/128", "fd01::/120")) == MAX_SUBNET_ADDRESSES - 1
    many = found("10.99.0.1/32", *(f"10.1.{number}.0/24" for number in range(100)), "10.2.0.1/32")
    assert len(many) == MAX_GUESSES + 1
    assert many[:4] == ["10.2.0.1", "10.1.0.1", "10.1.1.1", "10.1.2.1"]
    singles = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32" for number in range(256, 10_256)]
    assert len(found("192.0.2.1/32", *singles)) == 10_000


@st.composite
def prefixes(draw: st.DrawFn, least_length: int = 0) -> str:
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128
    # Close together, so that they overlap.
    address = draw(st.integers(0, 600)) + (0x0A630000 if version == 4 else 0xFD99 << 112)
    length = draw(st.one_of(st.integers(bits - 10, bits), st.integers(least_length, bits)))
    return f"{ip_address(address.to_bytes(bits // 8, 'big'))}/{length}"


@given(st.lists(prefixes(), max_size=4), st.lists(st.lists(prefixes(), max_size=6), max_size=4))
def test_whatever_is_configured(addresses: list[str], peers: list[list[str]]) -> None:
    masked = [" ".join(str(ip_network(prefix, strict=False)) for prefix in peer) for peer in peers]
    asked = found(" ".join(addresses), *masked)
    assert asked == found(" ".join(addresses), *masked)
    assert len(asked) == len(set(asked))
    allowed = [ip_network(prefix) for peer in masked for prefix in peer.split()]
    own = {ip_address(text.partition("/")[0]) for text in addresses}
    for address in map(ip_address, asked):
        assert address not in own
        assert any(address in network for network in allowed)
        assert not (address.is_multicast or address.is_loopback or address.is_unspecified)
    singles = {network[0] for network in allowed if network.num_addresses == 1}
    assert len(asked) <= MAX_GUESSES + len(singles)
