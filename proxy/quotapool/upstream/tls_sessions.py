"""TLS sessions resumed: a new connection to a host continues an earlier session, without certificates.

Neither asyncio nor uvloop takes a session, but both make their TLS objects with `SSLContext.wrap_bio`, so a
context of our own puts it in. A session can be used only after the server's ticket came, which with TLS 1.3 is
beside the first answer (RFC 8446 §4.6.1); until then, and if the server no longer takes it, the handshake is full.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from pathlib import Path


class ResumingContext(ssl.SSLContext):
    """Offers each host the last session that was kept for it."""

    _sessions: dict[str, ssl.SSLSession]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if session is None and isinstance(server_hostname, str):
            session = self._sessions.get(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def keep(self, transport: asyncio.BaseTransport) -> None:
        """This connection has got an answer: others may resume its session."""
        tls = transport.get_extra_info("ssl_object")
        if tls is None or not tls.server_hostname:
            return
        kept = self._sessions.get(tls.server_hostname)
        if kept is not None and tls.session_reused and time.time() < kept.time + kept.timeout / 2:
            return  # it is still good, and CPython takes as long to copy one as a resumed handshake takes
        session = tls.session
        if session is not None and (session.has_ticket or session.id):
            self._sessions[tls.server_hostname] = session

    def forget(self, host: str) -> None:
        """A handshake with `host` failed: the next one is a full one."""
        self._sessions.pop(host, None)


def client_context(ca_file: Path | None = None) -> ResumingContext:
    """As strict as `ssl.create_default_context`. `ca_file`: instead of the system's authorities. Raises OSError."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)  # certificates and host names are checked
    context._sessions = {}  # noqa: SLF001  # an SSLContext's own __init__ is in C and takes no more
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(ca_file)
    return context
