"""What a session made: its responses, stored or not, their items and containers. It may name these again, upstream's
memory of the connection has them; and their account is remembered for requests and sessions that name them later."""

from __future__ import annotations

from collections import deque
from typing import Final

from quotapool.objects.owners import ObjectOwners, Ref
from quotapool.openai.answer_ids import made_by
from quotapool.openai.ids import AUDIO, CONVERSATION, ITEM, RESPONSE, Reference

_MOST: Final = 1_000  # ids; older ones are found among the owners
_OF_THE_CONVERSATION: Final = frozenset({AUDIO, CONVERSATION, ITEM, RESPONSE})


class OwnObjects:
    """Of one session. `are_listed`: it is one of Responses, whose objects outlast it; what others make ends with them,
    and cannot be named elsewhere."""

    def __init__(self, owners: ObjectOwners, client: str, *, are_listed: bool) -> None:
        self._owners = owners
        self._client = client
        self._are_listed = are_listed
        self._ids: set[str] = set()
        self._order: deque[str] = deque()

    def has(self, named: Reference) -> bool:
        if not self._are_listed:
            return named.kind in _OF_THE_CONVERSATION
        return named.id in self._ids

    def began(self, response: str, account: str) -> None:
        """Upstream has named a new response."""
        self._add([(RESPONSE, response)], account)

    def learn(self, event: bytes, account: str) -> None:
        """Read an event of upstream that contains an item or a whole response."""
        self._add(made_by(event, RESPONSE), account)

    def _add(self, refs: list[Ref], account: str) -> None:
        if not self._are_listed or not refs:
            return
        refs = refs[-_MOST:]
        for _, object_id in refs:
            if object_id not in self._ids:
                self._ids.add(object_id)
                self._order.append(object_id)
        while len(self._order) > _MOST:
            self._ids.discard(self._order.popleft())
        self._owners.remember(refs, account, self._client)
