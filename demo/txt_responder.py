"""A DNS server for one TXT record on loopback, so that the demo needs no real zone."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

_TTL_SECONDS = 300


def respond(wire: bytes, name: str, value: str) -> bytes:
    """Return the answer to a DNS query; raises dns.exception.DNSException if the query is malformed."""
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    question = query.question[0] if query.question else None
    if question is None or question.name.to_text(omit_final_dot=True).lower() != name:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.TXT:
        response.answer.append(dns.rrset.from_text(question.name, _TTL_SECONDS, "IN", "TXT", f'"kattila={value}"'))
    return response.to_wire()


@contextmanager
def serve_record(name: str, value: str) -> Iterator[int]:
    """Serve the record on a free UDP port of 127.0.0.1, and yield the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            wire, sock = self.request
            sock.sendto(respond(wire, name, value), self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
