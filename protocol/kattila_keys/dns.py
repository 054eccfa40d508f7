"""Queries DNS for TXT records and turns every failure into an error with a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.TXT import TXT

from kattila_keys import resolv_conf as system
from kattila_keys.dns_server import DNS_PORT, DnsError, DnsServer, TxtRecords

RESOLV_CONF = Path("/etc/resolv.conf")
# Fits into one unfragmented datagram on nearly every path (RFC 9715, section 3.1).
UDP_PAYLOAD_BYTES = 1232
# Rounds over all resolvers before the time is over: a datagram may get lost.
_ROUNDS = 3
# dnspython sleeps 0.1 s before it queries the same resolver again, and twice as long each time. It checks its time
# limit only after the sleep.
_FIRST_PAUSE_SECONDS = 0.1
_MIN_ROUND_SECONDS = 0.05
_NO_RESOLVER = (
    "no resolver is configured ({} is missing or has no usable nameserver): add a line 'nameserver ADDRESS' to that "
    "file, or set DNS_SERVER=; the query to this machine failed: "
)


def query_txt(
    name: str,
    *,
    server: DnsServer | None,
    timeout_seconds: float,
    require_ad: bool = False,
    resolv_conf: Path = RESOLV_CONF,
) -> TxtRecords:
    """Return the TXT records at `name`, sorted, each as its character-strings (RFC 1035, section 3.3.14).

    Blocks for at most `timeout_seconds`, which should be 2 or more. Without a `server` it queries those of
    `resolv_conf`, or this machine if that names none; search domains never apply. A lost datagram is sent again. An
    answer that is too large for UDP is fetched over TCP.

    `require_ad` refuses an answer without the AD flag (RFC 4035, section 3.2.3). Anybody on the path can forge that
    flag, so the resolver should run on this machine or in a trusted network.

    Raises:
        DnsError: the name is invalid or does not exist, has no TXT record, the server answered SERVFAIL or REFUSED or
            not in time, or the AD flag is required and missing. No other error is raised.
    """
    qname = _absolute(name)
    configured = server.addresses if server else system.nameservers(resolv_conf)
    resolver = _resolver(configured or (system.DEFAULT,), server.port if server else DNS_PORT, timeout_seconds)
    try:
        answer = _resolve(resolver, qname)
    except Exception as error:
        advice = "" if configured else _NO_RESOLVER.format(resolv_conf)
        # Not chained: some errors of dnspython carry the answer, which may hold a PSK.
        raise DnsError(advice + _explain(error, qname, resolver, timeout_seconds)) from None
    if require_ad and not answer.response.flags & dns.flags.AD:
        raise DnsError(
            f"{answer.nameserver} did not validate its answer for {_text(qname)} (no AD flag), which DNS_REQUIRE_AD= "
            "demands: sign the zone with DNSSEC and set DNS_SERVER= to a validating resolver, or unset DNS_REQUIRE_AD="
        )
    return tuple(sorted(record.strings for record in answer if isinstance(record, TXT)))


def _absolute(name: str) -> dns.name.Name:
    # Absolute even without the final dot, so that no search domain is tried.
    try:
        qname = dns.name.from_text(name.strip())
    except dns.exception.DNSException as error:
        raise DnsError(f"{name!r} is not a DNS name ({error}): correct DNS=") from None
    if qname == dns.name.root:
        raise DnsError("the DNS name is empty: set DNS= to the name of the TXT record with the PSK")
    return qname


def _resolver(addresses: Sequence[str], port: int, timeout_seconds: float) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = list(addresses)
    resolver.port = port
    servers = len(resolver.nameservers)
    longest_pause = _FIRST_PAUSE_SECONDS * 2 ** (servers - 1)
    resolver.lifetime = max(_MIN_ROUND_SECONDS, timeout_seconds / _ROUNDS - longest_pause)
    resolver.timeout = resolver.lifetime / servers
    # AD in a query requests AD in the answer (RFC 6840, section 5.7). DO would bring the signatures as well.
    resolver.flags = dns.flags.RD | dns.flags.AD
    resolver.use_edns(0, payload=UDP_PAYLOAD_BYTES)
    return resolver


def _resolve(resolver: dns.resolver.Resolver, qname: dns.name.Name) -> dns.resolver.Answer:
    for _ in range(_ROUNDS - 1):
        with suppress(dns.resolver.LifetimeTimeout):
            return resolver.resolve(qname, dns.rdatatype.TXT)
    return resolver.resolve(qname, dns.rdatatype.TXT)


def _explain(error: Exception, qname: dns.name.Name, resolver: dns.resolver.Resolver, timeout_seconds: float) -> str:
    name = _text(qname)
    server = f"{', '.join(str(address) for address in resolver.nameservers)} port {resolver.port}"
    match error:
        case dns.resolver.NXDOMAIN():
            return f"{server} says that {name} does not exist: create a TXT record with the PSK, or correct DNS="
        case dns.resolver.NoAnswer():
            return f"{server} has no TXT record for {name}: add one with the PSK, or correct DNS="
        case dns.resolver.LifetimeTimeout():
            return (
                f"no answer for {name} from {server} within {timeout_seconds:g} s: is the resolver up, and is its port "
                "reachable over UDP and TCP?"
            )
        case dns.resolver.NoNameservers():
            return f"no usable answer for {name}: {_failures(error.kwargs)}"
        case _:
            return (
                f"the query for {name} to {server} failed ({type(error).__name__}): check that resolver, or set "
                "DNS_SERVER="
            )


def _text(qname: dns.name.Name) -> str:
    return qname.to_text(omit_final_dot=True)


# How dnspython records an attempt: server, whether over TCP, port, the failure (an error or the name of the rcode), and
# the answer.
_Attempt = tuple[str | None, bool, int, Exception | str, dns.message.Message | None]

_REMEDIES = {
    "SERVFAIL": "the zone does not load or does not validate: read the log of that server",
    "REFUSED": "it does not serve this zone, or not to this client: allow it there, or set DNS_SERVER=",
}


def _failures(kwargs: dict[str, Any]) -> str:
    attempts: Sequence[_Attempt] = kwargs["errors"]
    # A truncated answer only makes dnspython try TCP.
    failed = [attempt for attempt in attempts if not isinstance(attempt[3], dns.message.Truncated)]
    return "; ".join(sorted({_failure(attempt) for attempt in failed}))


def _failure(attempt: _Attempt) -> str:
    server, is_tcp, port, reason, _ = attempt
    # dnspython calls a plain resolver "Do53:ADDRESS@PORT".
    address = str(server).removeprefix("Do53:").removesuffix(f"@{port}")
    place = f"{address} port {port} ({'TCP' if is_tcp else 'UDP'})"
    if isinstance(reason, OSError):
        return f"{place} is unreachable ({reason.strerror or reason}): is its port open?"
    if isinstance(reason, Exception):
        return f"{place} gave no valid answer ({type(reason).__name__}): is it a DNS server?"
    return f"{place} answered {reason}: {_REMEDIES.get(reason, 'read the log of that server')}"
