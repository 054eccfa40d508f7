"""Values that the tests of the protocol and the test vectors share.

May live here: keys that protect nothing, one report that uses every member, and who sends it to whom.
"""

from __future__ import annotations

from kattila_protocol import errors
from kattila_protocol.errors import Refusal
from kattila_protocol.report import (
    CollectorFailure,
    Interface,
    Neighbour,
    Report,
    Route,
    System,
    Telemetry,
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

# Of the protocol; agent and manager have some of their own.
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
            ),
        ),
        failures=(CollectorFailure("neighbours", "cut after 1024 entries"),),
    ),
)
