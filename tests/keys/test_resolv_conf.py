"""resolv.conf as the C library reads it: lines that it skips are skipped, and no line is an error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kattila_keys.dns import query_txt
from kattila_keys.dns_server import DnsError
from kattila_keys.resolv_conf import nameservers

TESTS = Path(__file__).parents[1]
PSK = "example psk, protects nothing"

USABLE = "nameserver 127.0.0.1\n"
# Each has no effect, before and after a usable line.
SKIPPED = {
    "trailing comma": b"nameserver 192.0.2.1,\n",
    "several with commas": b"nameserver 192.0.2.1,192.0.2.2\n",
    "name": b"nameserver localhost\n",
    "port after a number sign": b"nameserver 192.0.2.1#53\n",
    "port after a colon": b"nameserver 192.0.2.1:53\n",
    "brackets": b"nameserver [2001:db8::1]:53\n",
    "prefix length": b"nameserver 192.0.2.1/32\n",
    "address out of range": b"nameserver 192.0.2.256\n",
    "two zones": b"nameserver fe80::1%lo%lo\n",
    "URL": b"nameserver https://192.0.2.1/dns-query\n",
    "no address": b"nameserver\nnameserver \n",
    "comment instead of an address": b"nameserver # 192.0.2.1\nnameserver;192.0.2.1\n",
    "another keyword": b"NAMESERVER 192.0.2.1\nnameservers 192.0.2.1\n",
    "Latin-1 in a comment": "# geändert für München\n; é\n".encode("latin-1"),
    "Latin-1 in an address": "nameserver 192.0.2.1é\n".encode("latin-1"),
    "UTF-8 in an address": "nameserver \uff11\uff19\uff12.0.2.1\n".encode(),
    "zero bytes": b"\0\0\0\nnameserver 192.0.2.1\0\n",
    "invalid search domain": b"search .. bad..example " + b"x" * 64 + b".example\ndomain ..\n",
    "invalid options": b"options timeout:x attempts: ndots:99999999999999999999 trust-ad edns0 rotate inet6 \xff\n",
    "sort list": b"sortlist 192.0.2.0/255.255.255.0\n",
    "CR line ends": b"search example.org\r\n# comment\r\n\r\n",
}

# Runs in its own network namespace: resolv.conf cannot name a port, so the server needs port 53.
QUERIES = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from support.knot import running_knot
from kattila_keys.dns import query_txt

with running_knot({"kattila": [b"example psk, protects nothing"]}, port=53):
    for file in sys.argv[2:]:
        try:
            found = query_txt("kattila.example.org", server=None, timeout_seconds=60, resolv_conf=pathlib.Path(file))
            print(json.dumps([b"".join(strings).decode() for strings in found]))
        except BaseException as error:
            print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def write(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name.replace(" ", "-")
    file.write_bytes(content)
    return file


def query_all(files: list[Path]) -> list[object]:
    """Query the server of each file, in a namespace with a DNS server at 127.0.0.1 port 53."""
    unshare = shutil.which("unshare")
    namespace = [str(unshare), "--map-root-user", "--net", "sh", "-c"]
    if unshare is None or subprocess.run([*namespace, "ip link set lo up"], check=False).returncode != 0:
        pytest.skip("cannot create a network namespace (unshare --map-root-user --net)")
    script = [sys.executable, "-c", QUERIES, str(TESTS), *map(str, files)]
    run = [*namespace, 'ip link set lo up && exec "$@"', "sh", *script]
    return [json.loads(line) for line in subprocess.check_output(run, text=True).splitlines()]


def test_the_key_is_found_whatever_lines_stand_beside_a_usable_one(tmp_path: Path) -> None:
    usable = USABLE.encode()
    files = [write(tmp_path, f"before {name}", line + usable) for name, line in SKIPPED.items()]
    files += [write(tmp_path, f"after {name}", usable + line) for name, line in SKIPPED.items()]
    assert dict(zip(files, query_all(files), strict=True)) == {file: [PSK] for file in files}


def test_this_machine_is_queried_if_no_line_is_usable(tmp_path: Path) -> None:
    files = [write(tmp_path, name, line) for name, line in SKIPPED.items()]
    files += [tmp_path / "missing", tmp_path, write(tmp_path, "empty", b"")]
    assert dict(zip(files, query_all(files), strict=True)) == {file: [PSK] for file in files}


@pytest.mark.parametrize("text", [None, "", "search example.org\n", "nameserver 192.0.2.1,\n"])
def test_a_failed_query_without_a_configured_resolver_is_an_error_that_says_so(
    tmp_path: Path, text: str | None
) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    if text is not None:
        resolv_conf.write_text(text)
    with pytest.raises(DnsError) as caught:
        query_txt("kattila.example.org", server=None, timeout_seconds=1, resolv_conf=resolv_conf)
    assert f"no resolver is configured ({resolv_conf} is missing or has no usable nameserver): add" in str(caught.value)
    assert "or set DNS_SERVER=; the query to this machine failed: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"nameserver 192.0.2.1\nnameserver 2001:db8::1\n", ("192.0.2.1", "2001:db8::1")),
        (b"nameserver 192.0.2.1", ("192.0.2.1",)),
        (b"nameserver\t192.0.2.1 \t # the first one\n", ("192.0.2.1",)),
        (b"  nameserver 192.0.2.1\n", ("192.0.2.1",)),
        (b"nameserver 192.0.2.1\r\nnameserver 192.0.2.2\r\n", ("192.0.2.1", "192.0.2.2")),
        (b"".join(b"nameserver 192.0.2.%d\n" % n for n in range(1, 9)), ("192.0.2.1", "192.0.2.2", "192.0.2.3")),
        (b"nameserver x\n" * 5 + b"nameserver 192.0.2.9\n", ("192.0.2.9",)),
        (b"nameserver 127.1\nnameserver 0x7f000002\n", ("127.0.0.1", "127.0.0.2")),
        (b"nameserver 0.0.0.0\nnameserver ::\n", ("127.0.0.1", "::1")),
        (b"nameserver fe80::1%lo\nnameserver FE80::2%2\nnameserver fe80::3%\n", ("fe80::1%lo", "fe80::2%2")),
        (b"nameserver 2001:db8::1%no-such-interface\n", ("2001:db8::1",)),
        (b"nameserver ::ffff:192.0.2.1\n", ("::ffff:c000:201",)),
        (b"nameserver 192.0.2.1,\n", ()),
        (b"", ()),
    ],
)
def test_the_usable_addresses_are_found_in_their_order(
    tmp_path: Path, content: bytes, expected: tuple[str, ...]
) -> None:
    assert nameservers(write(tmp_path, "resolv.conf", content)) == expected


@pytest.mark.parametrize("zone", ["no-such-interface", "99999", "99999999999999999999", "lo"])
def test_a_server_in_a_zone_that_does_not_exist_is_an_error_of_dns(tmp_path: Path, zone: str) -> None:
    file = write(tmp_path, "resolv.conf", f"nameserver fe80::1%{zone}\n".encode())
    with pytest.raises(DnsError, match=f"fe80::1%{zone} port 53"):
        query_txt("kattila.example.org", server=None, timeout_seconds=1, resolv_conf=file)
