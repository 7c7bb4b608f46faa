"""The pool's observer: one method for each event that metrics and logs need. The base class does nothing, so that an
observer overrides only what concerns it. No method may wait or raise: they are called in the middle of the request
path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.states import State
from quotapool.domain.subject import Subject


class Observer:
    # ---- requests

    def began(self) -> None:
        """A request or session came in."""

    def ended(self, record: RequestRecord) -> None:
        """It was answered completely, or cut short."""

    def attempted(self, attempt: AttemptRecord, record: RequestRecord) -> None:
        """One attempt of it is over, and its reservation settled."""

    def event_refused(self, record: RequestRecord) -> None:
        """The proxy refused an event in a session. `record`: of the session, with this refusal's code and rules."""

    def response_ended(self, record: RequestRecord) -> None:
        """A response within a session is over. `record`: the session's, as it would be of a request for this alone."""

    def retrying(self, attempt: AttemptRecord) -> None:
        """Another attempt follows this one."""

    def cooled(self, account: str, group: str, reason: str) -> None:
        """An account cools down for one model group."""

    def served(self, model: str) -> None:
        """Upstream has answered for this model, so it exists."""

    def stream_opened(self, change: int) -> None:
        """A stream to a client began (1) or ended (-1)."""

    def session_opened(self, account: str, change: int) -> None:
        """A session on this account began (1) or ended (-1)."""

    # ---- admission

    def reserved(self, result: str) -> None:
        """The ledger answered a reservation: granted, refused, granted_local or refused_local."""

    def queue_changed(self, change: int) -> None:
        """A request began to wait (1) or no longer waits (-1)."""

    # ---- the store

    def store_answered(self, seconds: float, items: int) -> None:
        """A batch of `items` took `seconds`."""

    def store_failed(self, reason: str) -> None:
        """A call to the store failed."""

    def store_away(self, *, away: bool, why: str = "") -> None:
        """The store became unavailable, `why` in its own words, or is back."""

    def objects_unwritten(self, records: int) -> None:
        """The owners of this many stored objects could not be written to the store at once."""

    def cache_failed(self, why: str) -> None:
        """The cache did without the store, by the word of `StoreLost`; an entry was not written, by the word of
        `cache/puts.py`; or one was `damaged`."""

    # ---- keys and accounts

    def state_changed(self, subject: Subject, state: State, reason: str, details: Mapping[str, Any]) -> None:
        """A key, an account or an organisation has a new state."""

    def removals_stopped(self, subject: Subject, reason: str) -> None:
        """Too many keys failed at once: this one and the following ones are not removed."""

    def group_learned(self, model: str, group: str) -> None:
        """Upstream reported a model group whose limit this model shares."""

    def same_organization(self, account: str, twin: str) -> None:
        """Two accounts turned out to belong to the same organisation."""

    def network_refused(self, *, on: bool, reason: str, first: bool) -> None:
        """Upstream refuses our network, or no longer does. `first`: this replica was the first to notice."""

    def probed(self, key: str, purpose: str, result: str) -> None:
        """A resting key was tried with a request of our own."""

    # ---- money and clients

    def spent(self, account: str, kind: str, usd: float) -> None:
        """Money of an account was spent."""

    def unpriced(self, model: str, requests: int) -> None:
        """This many requests for a model have no known price."""

    def policy_refused(self, client: str, reason: str) -> None:
        """Upstream refused a client's request under its usage policies."""

    def client_suspended(self, client: str, refusals: int) -> None:
        """A client was suspended after this many policy refusals within an hour."""
