"""A `GET` with a key of one account, on the proxy's own behalf: models that it lists, objects that it may have."""

from __future__ import annotations

from typing import Final

from quotapool.domain.echoes import EchoFilter
from quotapool.pool.configuration import Configuration
from quotapool.pool.roster import Roster
from quotapool.upstream.interface import UpstreamFailure, read_body

_MOST: Final = 4 * 2**20  # bytes of an answer


class Fetch:
    """Takes no budget: upstream counts none of these calls against a model's limits."""

    def __init__(self, configuration: Configuration, roster: Roster) -> None:
        self._configuration = configuration
        self._roster = roster

    async def __call__(self, account: str, target: str) -> tuple[int, bytes]:
        """Status and body; (0, b"") if there was no answer, or no key of the account is usable."""
        known = self._roster.pool.accounts.get(account)
        if known is None or not known.usable:
            return 0, b""
        now, key = self._configuration.now, known.next_key().id
        if key not in now.credentials:
            return 0, b""
        route = now.credentials.route(key)
        headers = [now.credentials.header(key), (b"Accept", b"application/json"), (b"Accept-Encoding", b"identity")]
        target = target if route is None else route.target(target)
        try:
            answer = await now.upstream_of(route).send("GET", target, headers, None)
            try:
                body = await read_body(answer, _MOST)
                return answer.status, EchoFilter(now.credentials.secret(key)).whole(body)
            finally:
                answer.close()
        except UpstreamFailure:
            return 0, b""
