"""Options about alerts: where they are sent, and from which threshold on."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, SecretStr

from quotapool.domain.alert import Alert, AlertKind
from quotapool.settings.money import Usd
from quotapool.settings.values import Duration, Name, PositiveDuration, Section, Token, hidden

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#][^\s]*")


def check_target(secret: SecretStr) -> SecretStr:
    """A URL. `quotapool alerts test` shows whether its service accepts it."""
    text = secret.get_secret_value().strip()
    if not _URL.fullmatch(text):
        raise ValueError("must be a URL: https://… (a webhook), slack://…, discord://…, mailtos://… (docs/alerts.md)")
    return SecretStr(text)


TargetUrl = Annotated[SecretStr, AfterValidator(check_target), hidden]


class AlertTarget(Section):
    """One target. Its URL counts as a secret, since many contain one. `secret` signs messages; no `kinds` means all.

    `clients`, `teams`: it gets only what is about one of these, as for an address of their own; none named: all."""

    url: TargetUrl
    secret: Token | None = None
    kinds: tuple[AlertKind, ...] = ()
    clients: tuple[Name, ...] = ()
    teams: tuple[Name, ...] = ()
    name: Name | None = None  # for logs and metrics; default: its kind and place, such as slack-1

    def wants(self, alert: Alert) -> bool:
        """Whether it is to be told of this."""
        if self.kinds and alert.kind not in self.kinds:
            return False
        if not (self.clients or self.teams):
            return True
        kind, _, name = alert.subject.partition(" ")
        return (kind == "client" and name in self.clients) or (kind == "team" and name in self.teams)


class Alerts(Section):
    """Targets, and thresholds for alerts that are not about a single event. 0 or null: no such alert."""

    targets: tuple[AlertTarget, ...] = ()
    min_usable_keys: int = Field(default=1, ge=0)
    min_headroom: float = Field(default=0.05, ge=0, lt=1)
    credit_below_usd: Usd | None = None
    expires_within: Duration = 7 * 86_400.0
    repeat_after: PositiveDuration = 6 * 3600.0
