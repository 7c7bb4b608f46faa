"""CPU of one new TLS connection to upstream on our side, full and resumed, with a chain as public servers have.

python benchmarks/tls_handshakes.py [--connections 300] [--rounds 5]

The server is a process of its own, so that its CPU is not counted. Each connection makes one small request.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import multiprocessing
import multiprocessing.connection
import ssl
import statistics
import tempfile
import time
from pathlib import Path

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts, read_body
from quotapool.upstream.tls_sessions import client_context

TIMEOUTS = Timeouts(5.0, 5.0, 5.0)
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def certificate(subject: str, key: Key, issuer: str, signer: Key, *, authority: bool) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost")]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if authority:  # which Python's checks want to see from 3.13 on
        others = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def make_chain(folder: Path) -> tuple[Path, Path]:
    """(root, server's chain with its key): an RSA root, an RSA intermediate, a P-256 server, as most of the web has."""
    root_key = rsa.generate_private_key(public_exponent=65_537, key_size=4096)
    middle_key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    server_key = ec.generate_private_key(ec.SECP256R1())
    root = certificate("root", root_key, "root", root_key, authority=True)
    middle = certificate("middle", middle_key, "root", root_key, authority=True)
    server = certificate("server", server_key, "middle", middle_key, authority=False)
    pem = serialization.Encoding.PEM
    secret = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "root.pem").write_bytes(root.public_bytes(pem))
    (folder / "chain.pem").write_bytes(secret + server.public_bytes(pem) + middle.public_bytes(pem))
    return folder / "root.pem", folder / "chain.pem"


def serve(pipe: multiprocessing.connection.Connection, chain: str) -> None:
    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(LAST)
        writer.close()

    async def main() -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(chain)
        server = await asyncio.start_server(visit, "127.0.0.1", 0, ssl=tls)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    uvloop.run(main())


async def measure(base: str, tls: ssl.SSLContext, connections: int) -> float:
    """Microseconds of CPU for each connection and its request."""
    upstream = UpstreamClient(base, TIMEOUTS, tls=tls)
    begun = 0.0
    for n in range(connections + 20):
        if n == 20:
            begun = time.process_time()
        await read_body(await upstream.send("GET", "/v1/models", [], None), 100)
    took = time.process_time() - begun
    await upstream.close()
    return took / connections * 1e6


async def run(port: int, root: Path, connections: int, rounds: int) -> None:
    base = f"https://localhost:{port}"
    found: dict[str, list[float]] = {"full": [], "resumed": []}
    for _ in range(rounds):
        found["full"].append(await measure(base, ssl.create_default_context(cafile=root), connections))
        found["resumed"].append(await measure(base, client_context(root), connections))
    for name, values in found.items():
        print(
            f"{name:8} {statistics.median(values):7.0f} µs of CPU a connection ({min(values):.0f} to {max(values):.0f})"
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--connections", type=int, default=300)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, chain = make_chain(Path(folder))
        mine, its = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(its, str(chain)), daemon=True)
        server.start()
        try:
            uvloop.run(run(mine.recv(), root, given.connections, given.rounds))
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
