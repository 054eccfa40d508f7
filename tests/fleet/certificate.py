"""The certificate of the pages' site, which signs itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

# Where it lies on the manager's node, without the first slash, and beside it its key.
FILE, KEY_FILE = "root/pages.pem", "root/pages.key"


class Certificate(NamedTuple):
    """Both as PEM."""

    certificate: str
    key: str


def draw(name: str) -> Certificate:
    """A certificate for a DNS name, which holds for a day, and its key."""
    key, nobody, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    made = x509.CertificateBuilder(
        nobody, nobody, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    signed = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True).sign(key, SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(signed.public_bytes(serialization.Encoding.PEM).decode(), private.decode())
