"""A DNS server for one TXT record on loopback, so that the demo needs no zone of yours. Not for anything else."""

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
    """Return the answer to one question; raises dns.exception.DNSException if it is none."""
    question = dns.message.from_wire(wire)
    response = dns.message.make_response(question)
    response.flags |= dns.flags.AA
    asked = question.question[0] if question.question else None
    if asked is None or asked.name.to_text(omit_final_dot=True).lower() != name:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif asked.rdtype == dns.rdatatype.TXT:
        response.answer.append(dns.rrset.from_text(asked.name, _TTL_SECONDS, "IN", "TXT", f'"kattila={value}"'))
    return response.to_wire()


@contextmanager
def answering(name: str, value: str) -> Iterator[int]:
    """Answer for the record on a free UDP port of 127.0.0.1; gives the port."""

    class Question(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            wire, sock = self.request
            sock.sendto(respond(wire, name, value), self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Question) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
