"""What accounts and keys have no access to, as upstream's refusals showed lately: a model, a feature of a model, an
endpoint.

It only makes others be asked first. An account that is avoided is still asked if no other one is left, and one good
answer ends it: no single answer may take a model away from everybody.
"""

from __future__ import annotations

from typing import Final

from quotapool.domain.access import Access, Use

AVOIDED_S: Final = 300.0
_SERVED_LATELY_S: Final = 600.0
_MOST: Final = 10_000  # entries of each kind; clients can invent models
_MOST_SERVED: Final = 100_000


class MissingAccess:
    """By account (its place) and by key. Times are Unix seconds."""

    def __init__(self) -> None:
        self._models: dict[tuple[int, str, str], float] = {}  # (place, model, feature or "") -> until when
        self._endpoints: dict[tuple[str, str], float] = {}  # (key, endpoint) -> until when
        self._served: dict[tuple[int, str], float] = {}  # (place, model) -> when it last answered well
        self._sweep_at = 0.0
        self.active = False  # something is remembered: an attribute, since every request asks

    def __len__(self) -> int:
        return len(self._models) + len(self._endpoints)

    def refused(self, access: Access, feature: str, place: int, key: str, use: Use, now: float) -> None:
        """Upstream refused a request for lack of access to `access`; `feature`: which, if that is one."""
        if access is Access.ENDPOINT:
            if len(self._endpoints) >= _MOST:
                self._endpoints.clear()
            self._endpoints[key, use.endpoint] = now + AVOIDED_S
            self.active = True
        elif access is Access.MODEL or (access is Access.FEATURE and feature in use.features):
            served = self._served.pop((place, use.model), None)
            if access is Access.MODEL and served is not None and now - served < _SERVED_LATELY_S:
                return  # it has served the model just now: a second refusal in a row counts
            if len(self._models) >= _MOST:
                self._models.clear()
            self._models[place, use.model, feature if access is Access.FEATURE else ""] = now + AVOIDED_S
            self.active = True

    def answered(self, place: int, key: str, use: Use, now: float) -> None:
        """Upstream served a request."""
        if len(self._served) >= _MOST_SERVED:
            self._served.clear()
        self._served[place, use.model] = now
        if self.active:
            for feature in ("", *use.features):
                self._models.pop((place, use.model, feature), None)
            self._endpoints.pop((key, use.endpoint), None)
            if now >= self._sweep_at or len(self) == 0:
                self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Forget what is over, so that requests cost nothing more once nothing is missing."""
        self._sweep_at = now + AVOIDED_S / 10
        self._models = {name: until for name, until in self._models.items() if until > now}
        self._endpoints = {name: until for name, until in self._endpoints.items() if until > now}
        self.active = len(self) > 0

    def account_lacks(self, place: int, use: Use, now: float) -> bool:
        models = self._models
        return bool(models) and any(models.get((place, use.model, f), 0.0) > now for f in ("", *use.features))

    def key_lacks(self, key: str, use: Use, now: float) -> bool:
        return self._endpoints.get((key, use.endpoint), 0.0) > now
