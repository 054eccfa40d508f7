"""Ask DNS for the TXT records at a name.

May live here: resolvers, their errors, and what a user can do about each. Not here: which record holds the PSK
(kattila_protocol.txt), and when to ask (kattila_keys.refresh).
"""

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

from kattila_keys.servers import DnsError, Records, Server

__all__ = ["DnsError", "Records", "Server", "ask_txt"]

RESOLV_CONF = Path("/etc/resolv.conf")
# What fits into one unfragmented datagram nearly everywhere (RFC 9715, section 3.1).
UDP_PAYLOAD_BYTES = 1232
# How often all resolvers are asked before the time is over: a datagram may get lost.
_ROUNDS = 3
# dnspython sleeps before it asks the same resolver again, 0.1 s and then twice as long each time, and looks at its time
# limit only after that.
_FIRST_PAUSE_SECONDS = 0.1
_LEAST_ROUND_SECONDS = 0.05


def ask_txt(
    name: str,
    *,
    server: Server | None,
    timeout_seconds: float,
    require_ad: bool = False,
    resolv_conf: Path = RESOLV_CONF,
) -> Records:
    """Return the TXT records at `name`, sorted, each as the character-strings it is made of (RFC 1035, 3.3.14).

    Blocks, for `timeout_seconds` at most (which should be 2 or more). Without a `server` those of `resolv_conf` are
    asked, but its search domains are never applied. A lost datagram is sent again; an answer too large for UDP is
    fetched over TCP.

    `require_ad` refuses an answer without the AD flag (RFC 4035, section 3.2.3). The flag is worth as much as the
    path to the resolver, so that one should run on this machine or in a network that is trusted.

    Raises:
        DnsError: no such name, no TXT record, SERVFAIL or REFUSED, no answer in time, no valid name, no resolver
            configured, or no AD flag where it is required.
    """
    wanted = _absolute(name)
    resolver = _resolver(server, timeout_seconds, resolv_conf)
    try:
        answer = _resolve(resolver, wanted)
    except (dns.exception.DNSException, OSError) as error:
        # Not chained: some of dnspython's errors carry the answer, and an answer may carry a PSK.
        raise DnsError(_explain(error, wanted, resolver, timeout_seconds)) from None
    if require_ad and not answer.response.flags & dns.flags.AD:
        raise DnsError(
            f"{answer.nameserver} did not validate its answer for {_shown(wanted)} (no AD flag), and that is "
            "required: sign the zone with DNSSEC and ask a validating resolver (DNS_SERVER=), or stop requiring it"
        )
    return tuple(sorted(record.strings for record in answer if isinstance(record, TXT)))


def _absolute(name: str) -> dns.name.Name:
    # Absolute, also without the dot at its end, so that no search domain is ever tried.
    try:
        wanted = dns.name.from_text(name.strip())
    except dns.exception.DNSException as error:
        raise DnsError(f"{name!r} is no DNS name ({error}): correct DNS=") from None
    if wanted == dns.name.root:
        raise DnsError("no DNS name is given: set DNS= to the name of the TXT record with the PSK")
    return wanted


def _resolver(server: Server | None, timeout_seconds: float, resolv_conf: Path) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    if server is None:
        _read_resolv_conf(resolver, resolv_conf)
    else:
        resolver.nameservers = list(server.addresses)
        resolver.port = server.port
    servers = len(resolver.nameservers)
    longest_pause = _FIRST_PAUSE_SECONDS * 2 ** (servers - 1)
    resolver.lifetime = max(_LEAST_ROUND_SECONDS, timeout_seconds / _ROUNDS - longest_pause)
    resolver.timeout = resolver.lifetime / servers
    # AD in a question asks for AD in the answer (RFC 6840, section 5.7), without the signatures that DO would bring.
    resolver.flags = dns.flags.RD | dns.flags.AD
    resolver.use_edns(0, payload=UDP_PAYLOAD_BYTES)
    return resolver


def _resolve(resolver: dns.resolver.Resolver, wanted: dns.name.Name) -> dns.resolver.Answer:
    for _ in range(_ROUNDS - 1):
        with suppress(dns.resolver.LifetimeTimeout):
            return resolver.resolve(wanted, dns.rdatatype.TXT)
    return resolver.resolve(wanted, dns.rdatatype.TXT)


def _read_resolv_conf(resolver: dns.resolver.Resolver, resolv_conf: Path) -> None:
    try:
        resolver.read_resolv_conf(str(resolv_conf))
    except dns.resolver.NoResolverConfiguration:
        raise DnsError(
            f"no resolver is configured: {resolv_conf} is missing or names none; add a line 'nameserver ADDRESS' "
            "there, or set DNS_SERVER="
        ) from None


def _explain(error: Exception, wanted: dns.name.Name, resolver: dns.resolver.Resolver, timeout_seconds: float) -> str:
    name, asked = _shown(wanted), _asked(resolver)
    match error:
        case dns.resolver.NXDOMAIN():
            return f"the name {name} does not exist, says {asked}: create a TXT record with the PSK, or correct DNS="
        case dns.resolver.NoAnswer():
            return f"the name {name} exists but has no TXT record, says {asked}: add one with the PSK, or correct DNS="
        case dns.resolver.LifetimeTimeout():
            return (
                f"no answer for {name} within {timeout_seconds:g} s from {asked}: is the resolver up, and is this "
                "port open to it over UDP and TCP?"
            )
        case dns.resolver.NoNameservers():
            return f"no usable answer for {name}: {_refusals(error.kwargs)}"
        case _:
            return f"asking {asked} for {name} failed ({type(error).__name__}): check that resolver, or set DNS_SERVER="


def _asked(resolver: dns.resolver.Resolver) -> str:
    return f"{', '.join(str(server) for server in resolver.nameservers)} port {resolver.port}"


def _shown(wanted: dns.name.Name) -> str:
    return wanted.to_text(omit_final_dot=True)


# What dnspython notes of each attempt: server, over TCP?, port, what went wrong (an error or the rcode's name), answer.
_Attempt = tuple[str | None, bool, int, Exception | str, dns.message.Message | None]

_ADVICE = {
    "SERVFAIL": "its zone does not load or does not validate: look into the log of that server",
    "REFUSED": "it does not serve this zone, or not to this address: ask another one (DNS_SERVER=) or allow it",
}


def _refusals(kwargs: dict[str, Any]) -> str:
    attempts: Sequence[_Attempt] = kwargs["errors"]
    # A truncated answer is only why TCP was tried.
    failed = [attempt for attempt in attempts if not isinstance(attempt[3], dns.message.Truncated)]
    return "; ".join(sorted({_refusal(attempt) for attempt in failed}))


def _refusal(attempt: _Attempt) -> str:
    server, tcp, port, reason, _ = attempt
    # dnspython calls a plain resolver "Do53:ADDRESS@PORT".
    address = str(server).removeprefix("Do53:").removesuffix(f"@{port}")
    where = f"{address} port {port} ({'TCP' if tcp else 'UDP'})"
    if isinstance(reason, OSError):
        return f"{where} cannot be reached ({reason.strerror or type(reason).__name__}): is its port open?"
    if isinstance(reason, Exception):
        return f"{where} gave no valid answer ({type(reason).__name__}): is it a DNS server?"
    return f"{where} said {reason}: {_ADVICE.get(reason, 'look into the log of that server')}"
