"""A self-signed certificate for the nginx site with the pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

# Paths of the certificate and its key on the manager's node, without the leading slash.
FILE, KEY_FILE = "root/pages.pem", "root/pages.key"


class Certificate(NamedTuple):
    """A certificate and its key, both as PEM."""

    certificate: str
    key: str


def generate(name: str) -> Certificate:
    """Generate a key and a certificate for a DNS name, valid for a day."""
    key, no_name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(
        no_name, no_name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    signed = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True).sign(key, SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(signed.public_bytes(serialization.Encoding.PEM).decode(), private.decode())
