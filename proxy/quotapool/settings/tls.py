"""TLS on the clients' listener: a certificate and its key, and an explanation of what is wrong with them."""

from __future__ import annotations

import ssl
from pathlib import Path

from quotapool.settings.values import Section


class Tls(Section):
    """PEM files. `cert_file` has the certificate and its chain to the root; `key_file` the key, unencrypted."""

    cert_file: Path
    key_file: Path

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make new handshakes of `context` use these files as they are now. Raises OSError (`ssl.SSLError` is one)."""
        # A file that needs a passphrase must not stop a server that has no terminal to ask for it.
        context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")

    def context(self) -> ssl.SSLContext:
        """For a server: TLS 1.2 and newer, HTTP/1.1. Raises OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self.load_into(context)
        return context

    def problem(self) -> tuple[str, str] | None:
        """The option that is wrong, and why; None if the two files can be used together."""
        for name in ("cert_file", "key_file"):
            try:
                getattr(self, name).read_bytes()
            except OSError as error:
                return name, f"cannot be read: {(error.strerror or type(error).__name__).lower()}"
        try:
            self.context()
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                return "key_file", "does not belong to the certificate in cert_file"
            if error.reason == "NO_START_LINE" and _is_pem(self.cert_file):
                return "key_file", "contains no private key in PEM format"
            if error.reason in {"BAD_DECRYPT", "BAD_PASSWORD_READ", "EMPTY_PASSWORD"} or _is_encrypted(self.key_file):
                return "key_file", "needs a passphrase; use a key without one, readable by this user only"
            option = "key_file" if _is_pem(self.cert_file) else "cert_file"
            return option, f"cannot be used: {(error.reason or 'not PEM').replace('_', ' ').lower()}"
        except OSError as error:
            return "cert_file", f"cannot be used: {error.strerror or type(error).__name__}"
        return None


def _is_pem(path: Path) -> bool:
    return b"-----BEGIN CERTIFICATE-----" in path.read_bytes()


def _is_encrypted(path: Path) -> bool:
    return b"ENCRYPTED" in path.read_bytes()
