"""Sample values for the protocol tests and the test vectors: keys, ids, and a report that uses every member."""

from __future__ import annotations

from kattila_protocol import errors
from kattila_protocol.errors import Refusal
from kattila_protocol.report import (
    AddressMark,
    AddressPeer,
    Clock,
    CollectorFailure,
    CollectorRun,
    Cut,
    HeldKey,
    Interface,
    Lookup,
    Neighbour,
    PolicyRoute,
    Report,
    Route,
    RouteMark,
    Rule,
    Spool,
    System,
    Telemetry,
    Tunnel,
    WireguardInterface,
    WireguardPeer,
)
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key

PSK = b"example psk, protects nothing"
PREVIOUS_PSK = b"example psk of the month before"
OLDEST_PSK = b"example psk of the month before that"
FOREIGN_PSK = b"example psk of somebody else"
UNICODE_PSK = "esimerkkiavain: yötön yö".encode()

KEY = Key.from_psk(PSK)
PREVIOUS_KEY = Key.from_psk(PREVIOUS_PSK)
OLDEST_KEY = Key.from_psk(OLDEST_PSK)
FOREIGN_KEY = Key.from_psk(FOREIGN_PSK)

NOW = 1_760_000_000_000
RING = Ring((RingEntry(KEY, NOW), RingEntry(PREVIOUS_KEY, NOW - 1), RingEntry(OLDEST_KEY, NOW - 2)))
FOREIGN_RING = Ring((RingEntry(FOREIGN_KEY, NOW),))

# The refusals of the protocol package. Agent and manager have more.
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Refusal) and kind is not Refusal
]

AGENT = "5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab"
OTHER_AGENT = "c2a95d10-77e4-4f39-8b1a-ba9876543210"
RELAYS = tuple(f"0000000{number}-0000-4000-8000-000000000000" for number in range(1, 8))
BOOT = "9d3b6c21-5e7f-4a80-b1c2-fedcba987654"
NONCE = "00112233445566778899aabbccddeeff"
OTHER_NONCE = "ffeeddccbbaa99887766554433221100"

REPORT = Report(
    agent_id=AGENT,
    sample=41,
    tick=1041,
    nonce=NONCE,
    timestamp=NOW,
    sampled_at=NOW - 250,
    boot_id=BOOT,
    telemetry=Telemetry(
        system=System(
            hostname="käsi.example.org",
            os="Debian GNU/Linux 12 (bookworm)",
            kernel="6.1.0-25-amd64",
            machine="x86_64",
            uptime_seconds=86_400,
            load=(12, 34, 56),
            cpus=2,
            memory_total=2_064_384_000,
            memory_available=1_532_116_992,
            agent_version="0.1.0",
            labels={"site": "north", "role": "gateway"},
        ),
        interfaces=(
            Interface(
                2, "eth0", None, ("BROADCAST", "UP", "LOWER_UP"), "UP", 1500, "00:00:5e:00:53:01", ("192.0.2.1/24",)
            ),
            Interface(
                3,
                "wg0",
                "wireguard",
                ("POINTOPOINT", "NOARP", "UP"),
                "UNKNOWN",
                1420,
                None,
                ("2001:db8::1/64",),
                None,
                None,
                100,
                200,
            ),
            Interface(
                4,
                "eth0.7",
                "vlan",
                ("BROADCAST", "UP", "LOWER_UP"),
                "UP",
                1500,
                "00:00:5e:00:53:01",
                (),
                master="br0",
                link="eth0",
                rx_errors=5,
                tx_errors=6,
                rx_dropped=7,
                tx_dropped=8,
                permanent_address="00:00:5e:00:53:02",
                link_index=2,
                link_netnsid=0,
                vlan_id=7,
                slave_kind="bridge",
                slave_state="forwarding",
            ),
        ),
        routes=(Route("0.0.0.0/0", "192.0.2.254", "eth0", None, 100, "dhcp", "unicast"),),
        neighbours=(Neighbour("192.0.2.254", "00:00:5e:00:53:fe", "eth0", "REACHABLE"),),
        wireguard=(
            WireguardInterface(
                name="wg0",
                public_key="RXhhbXBsZSBwdWJsaWMga2V5IG9mIHRoZSBmaXJzdCE=",
                listen_port=51820,
                fwmark=0,
                peers=(
                    WireguardPeer(
                        public_key="RXhhbXBsZSBwdWJsaWMga2V5IG9mIHRoZSBvdGhlciE=",
                        endpoint="198.51.100.7:51820",
                        allowed_ips=("2001:db8::2/128",),
                        latest_handshake=1_759_999_950,
                        transfer_rx=1_234,
                        transfer_tx=5_678,
                        persistent_keepalive=25,
                        has_preshared_key=True,
                    ),
                ),
                read_at=NOW - 240,
            ),
        ),
        failures=(CollectorFailure("neighbours", "OSError: [Errno 12] Cannot allocate memory"),),
        tunnels=(
            Tunnel("vx0", "vxlan", "192.0.2.1", "198.51.100.7", id=42, port=4789, link="eth0", remotes=("192.0.2.9",)),
            Tunnel("gre1", "gre", "192.0.2.1", "198.51.100.7", ikey=7, okey=8, ttl=64, fwmark=51820),
            Tunnel("gnv0", "geneve", port=6081, external=True),
        ),
        rules=(
            Rule("inet", 32764, "lookup", 254, suppress_prefixlength=0),
            Rule("inet", 32765, "lookup", 51820, fwmark=51820, fwmask=0xFFFFFFFF, inverted=True),
            Rule("inet6", 100, "goto", 0, "2001:db8::/32", "2001:db8:1::/48", iif="eth0", oif="eth1", goto=200),
            Rule("inet6", 200, "blackhole", 0, other=("dport 53",)),
        ),
        lookups=(
            Lookup("wireguard", "wg0", "198.51.100.7", 51820, "eth0", "192.0.2.254", "192.0.2.1", 1500, 254, None),
            Lookup("manager", None, "2001:db8::5", 0, None, None, None, None, None, "Network is unreachable"),
        ),
        clock=Clock(synchronised=True, estimated_error_us=120, maximum_error_us=45_000, clock_offset=-20),
        route_marks=(
            RouteMark(254, "0.0.0.0/0", "192.0.2.254", "eth0", 100, ("dead", "linkdown")),
            RouteMark(51820, "::/0", None, "eth0", 1024, ("encap seg6",)),
        ),
        address_marks=(AddressMark("wg0", "2001:db8::1/64", ("tentative", "dadfailed")),),
        cuts=(
            Cut("routes", 2000, 50_000),
            Cut("allowed_ips", 1000, None, "RXhhbXBsZSBwdWJsaWMga2V5IG9mIHRoZSBvdGhlciE="),
        ),
        runs=(CollectorRun("links", 2100), CollectorRun("neighbours", 900)),
        policy_routes=(PolicyRoute(51820, "::/0", None, "eth0", None, 1024, "static", "unicast"),),
        spool=Spool(waiting=3, bytes=12_288, dropped=1, oldest_sampled_at=NOW - 90_000),
        interval_seconds=30,
        since_boot_ms=86_399_750,
        keys=(HeldKey(KEY.fingerprint, "current"), HeldKey(PREVIOUS_KEY.fingerprint, "previous")),
        address_peers=(AddressPeer("wg0", "2001:db8::1/64", "2001:db8::2/64"),),
        neighbours_confirmed=(86_390,),
    ),
)
