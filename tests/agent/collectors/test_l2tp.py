"""Ethernet over L2TPv3: -sysinfo shows the same as `ip l2tp show`; and the parser, without a kernel.

Also runs in the virtual machine of `make test-kernel`, since few kernels have l2tp.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kattila_agent.collectors import l2tp
from kattila_agent.collectors.l2tp import L2tpReadings
from kattila_agent.collectors.link_table import LinkSummary
from kattila_protocol.report import Tunnel
from support.agent_process import AGENT, environment
from support.netns import Namespace, new_namespace
from support.waiting import PATIENCE_SECONDS

NOBODY = 65534
COOKIE = "0123456789abcdef"
TUNNELS = (
    ("tunnel_id", "3000", "peer_tunnel_id", "4000", "encap", "udp", "local", "192.0.2.1", "remote", "192.0.2.2",
     "udp_sport", "5000", "udp_dport", "6000"),
    ("tunnel_id", "3001", "peer_tunnel_id", "4001", "encap", "ip", "local", "2001:db8::1", "remote", "2001:db8::2"),
)  # fmt: skip
SESSIONS = (
    ("name", "l2tpeth0", "tunnel_id", "3000", "session_id", "1000", "peer_session_id", "2000", "cookie", COOKIE),
    ("name", "branch", "tunnel_id", "3000", "session_id", "1001", "peer_session_id", "4294967295"),
    ("name", "six", "tunnel_id", "3001", "session_id", "1002", "peer_session_id", "2002"),
)  # fmt: skip


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with new_namespace() as made:
        made.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
        made.ip("link", "set", "far0", "up")
        made.ip("link", "set", "up0", "addrgenmode", "none", "up")
        made.ip("address", "add", "192.0.2.1/24", "dev", "up0")
        made.ip("address", "add", "2001:db8::1/64", "dev", "up0", "nodad")
        if not made.has("l2tp", "add", "tunnel", *TUNNELS[0]):
            pytest.skip("this kernel has no l2tp; make test-kernel runs this in a virtual machine")
        made.ip("l2tp", "add", "tunnel", *TUNNELS[1])
        for session in SESSIONS:
            made.ip("l2tp", "add", "session", *session)
        yield made


def sysinfo(namespace: Namespace, *how: str) -> Any:
    return json.loads(
        subprocess.check_output(
            namespace.command(*how, *AGENT, "-sysinfo"), env=environment(), timeout=PATIENCE_SECONDS
        )
    )


def shown_by_ip(namespace: Namespace) -> list[dict[str, Any]]:
    """What `ip l2tp show` shows, with the names of a report."""
    tunnels = {each["tunnel_id"]: each for each in namespace.listed("l2tp", "show", "tunnel")}
    sessions = namespace.listed("l2tp", "show", "session")
    return [
        {
            "interface": session["interface"],
            "local": tunnels[session["tunnel_id"]]["local"],
            "remote": tunnels[session["tunnel_id"]]["peer"],
            "id": session["tunnel_id"],
            "peer_id": session["peer_tunnel_id"],
            "ikey": session["session_id"],
            "okey": session["peer_session_id"],
            "port": tunnels[session["tunnel_id"]].get("peer_port"),
        }
        for session in sessions
    ]


def test_root_sees_the_ends(namespace: Namespace) -> None:
    found = sysinfo(namespace)
    assert found["failures"] == []
    expected = shown_by_ip(namespace)
    tunnels = [each for each in found["tunnels"] if each["kind"] == "l2tp"]
    by_name = {each["interface"]: {name: each[name] for name in expected[0]} for each in tunnels}
    assert by_name == {each["interface"]: each for each in expected}
    assert set(by_name) == {"l2tpeth0", "branch", "six"}
    assert (by_name["l2tpeth0"]["port"], by_name["six"]["port"], by_name["branch"]["okey"]) == (6000, None, 2**32 - 1)
    looked_up = {each["tunnel"]: each["destination"] for each in found["lookups"]}
    assert looked_up == {each["interface"]: each["remote"] for each in expected}
    assert COOKIE not in json.dumps(found)


def test_other_users_only_see_that_there_is_one(namespace: Namespace) -> None:
    found = sysinfo(namespace, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    remotes = {each["interface"]: each["remote"] for each in found["tunnels"] if each["kind"] == "l2tp"}
    assert remotes == dict.fromkeys(("l2tpeth0", "branch", "six"))
    (reason,) = (each["reason"] for each in found["failures"] if each["collector"] == "tunnels")
    assert reason == f"the ends of {', '.join(remotes)} (l2tp): Operation not permitted"


# --- Without a kernel


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def uint(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


HEADER = bytes(4)
SESSION = HEADER + attribute(8, b"l2tpeth0\0") + uint(9, 3000) + uint(10, 4000) + uint(11, 1000) + uint(12, 2000)
ENDS = attribute(24, bytes([192, 0, 2, 1])) + attribute(25, bytes([192, 0, 2, 2]))
TUNNEL = HEADER + uint(9, 3000) + uint(10, 4000) + ENDS + attribute(27, struct.pack("=H", 6000))


def test_a_session_gets_the_ends_of_its_tunnel() -> None:
    found = l2tp.parse(L2tpReadings(("l2tpeth0",), (SESSION,), (TUNNEL,)))
    assert found.items == (
        Tunnel("l2tpeth0", "l2tp", "192.0.2.1", "192.0.2.2", 3000, 1000, 2000, 6000, peer_id=4000),
    )  # fmt: skip
    assert found.failures == ()


@pytest.mark.parametrize("readings", [((), (TUNNEL,)), ((SESSION,), ())], ids=["no session", "no tunnel"])
def test_a_link_whose_session_or_tunnel_is_missing_has_no_ends(
    readings: tuple[tuple[bytes, ...], tuple[bytes, ...]],
) -> None:
    assert l2tp.parse(L2tpReadings(("l2tpeth0",), *readings)).items == (Tunnel("l2tpeth0", "l2tp"),)


@pytest.mark.parametrize(
    ("session", "tunnel", "reason"),
    [
        (SESSION[:3], TUNNEL, "shorter than its header"),
        (SESSION[:-1], TUNNEL, "attribute of 8 bytes where 7 are left"),
        (HEADER + attribute(8, b"l2tpeth0\0") + uint(9, 3000), TUNNEL, "l2tp without L2TP_ATTR_SESSION_ID"),
        (HEADER + attribute(8, b"l2tpeth0"), TUNNEL, "string without an end"),
        (HEADER + attribute(8, b"l2tpeth0\0") + attribute(9, bytes(2)), TUNNEL, "L2TP_ATTR_CONN_ID has 2 bytes"),
        (SESSION, HEADER + ENDS, "l2tp without L2TP_ATTR_CONN_ID"),
        (SESSION, HEADER + uint(9, 3000) + uint(10, 1) + attribute(24, bytes(3)), "address of 3 bytes"),
        (SESSION, HEADER + uint(9, 3000) + uint(10, 1) + attribute(27, bytes(4)), "L2TP_ATTR_UDP_DPORT has 4 bytes"),
    ],
)
def test_malformed_answers(session: bytes, tunnel: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        l2tp.parse(L2tpReadings(("l2tpeth0",), (session,), (tunnel,)))


def test_the_kernel_is_not_queried_without_such_a_link(tmp_path: Path) -> None:
    def link(name: str, kind: str | None = None) -> LinkSummary:
        return LinkSummary(2, name, kind)

    for name, text in (
        ("eth0", "INTERFACE=eth0\nIFINDEX=2\n"),
        ("br0", "DEVTYPE=bridge\n"),
        ("v0", "DEVTYPE=l2tpeth\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "uevent").write_text(text)
    links = [link("eth0"), link("br0", "bridge"), link("v0", "veth"), link("gone0"), link("a" * 300), link("nul\0")]
    assert l2tp.read(links, 10, tmp_path) == L2tpReadings(())


def test_the_kernel_is_queried_for_such_a_link(tmp_path: Path) -> None:
    """For an unprivileged user, or on a kernel without l2tp, the readings contain the kernel's refusal."""
    (tmp_path / "l2tpeth0").mkdir()
    (tmp_path / "l2tpeth0" / "uevent").write_text("DEVTYPE=l2tpeth\nINTERFACE=l2tpeth0\n")
    readings = l2tp.read([LinkSummary(2, "l2tpeth0", None)], 10, tmp_path)
    assert readings.links == ("l2tpeth0",)
    assert readings.refusal or os.geteuid() == 0
