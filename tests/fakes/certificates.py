"""Certificates for tests: an authority of our own, and servers it vouches for."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_TWO_DAYS = dt.timedelta(days=2)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> bytes:
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


@dataclass(frozen=True)
class Authority:
    """`ca_file` is what clients must trust."""

    ca_file: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, directory: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(key, _name("test authority"), _name("test authority"), key, authority=True, names=())
        ca_file = directory / "ca.pem"
        ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(ca_file, key, certificate)

    def issue(
        self,
        directory: Path,
        name: str = "server",
        *,
        passphrase: bytes = b"",
        names: tuple[str, ...] = ("localhost", "127.0.0.1"),
        ends: dt.timedelta = _TWO_DAYS,
    ) -> tuple[Path, Path]:
        """(cert_file, key_file) of a server called 127.0.0.1 or localhost; files of the same name are replaced.
        `ends`: from now; negative: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(
            key, _name(name), self.certificate.subject, self.key, authority=False, names=names, ends=ends
        )
        cert_file, key_file = directory / "tls.crt", directory / "tls.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(_pem(key, passphrase))
        return cert_file, key_file


def server_context(authority: Authority, directory: Path, *, ends: dt.timedelta = _TWO_DAYS) -> ssl.SSLContext:
    """For a server called 127.0.0.1 or localhost. `ends`: its certificate, from now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(directory, ends=ends))
    return context


def _sign(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
    names: tuple[str, ...],
    ends: dt.timedelta = _TWO_DAYS,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=30))
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if authority:
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        builder = builder.add_extension(
            x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False),
            critical=True,
        )
    if names:
        alternatives: list[x509.GeneralName] = []
        for name in names:
            is_address = name[0].isdigit()
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)) if is_address else x509.DNSName(name))
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(signer, hashes.SHA256())
