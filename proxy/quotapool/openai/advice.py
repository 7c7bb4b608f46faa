"""What to do next about a key, by the reason it is out: one table for `check`, the admin API, alerts and docs.

The reasons are those of `classify` (OpenAI's code if it has one), of the wallet, and of requests with session keys.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from quotapool.domain.verdict import Kind

_PAY: Final = "top up: add credit at OpenAI (a spend limit of $30 is not credit of $30); the key then returns by itself"
_REPLACE: Final = "replace: make a new key at OpenAI and change the secret under the same id"
_APPEAL: Final = "appeal to OpenAI, or replace the key; first find out which traffic was the cause"
_NETWORK: Final = "nothing is wrong with the key: "
_NOT_THE_API: Final = f"{_NETWORK}a page answers, not OpenAI; check `upstream`, and any gateway in between"

BY_REASON: Final[dict[str, str]] = {
    # Money. The key comes back by itself once credit is added or a new month begins.
    "credit_balance_exhausted": _PAY,
    "insufficient_quota": _PAY,
    "payment_required": _PAY,
    "billing_not_active": "set up billing for this account at OpenAI; the key then returns by itself",
    "never_had_credit": "this account never had credit: add some at OpenAI, or remove the key",
    "credit_expired": "the credit has expired: top up at OpenAI; the key then returns by itself",
    "organization_spend_limit_exceeded": "raise the organisation's limit at OpenAI, or wait for the next month",
    "project_spend_limit_exceeded": "raise the project's limit at OpenAI, or wait for the next month",
    "organization_usage_limit_exceeded": "ask OpenAI for a higher usage limit, or wait for the next month",
    "billing_hard_limit_reached": "raise the hard limit in OpenAI's billing settings, or wait for the next month",
    # Money, by our own count.
    "credit_stop_at": "our own stop_at for its credit: top up and record it (quotapool keys topup), or raise stop_at",
    "monthly_stop_at": "our own stop_at for its month: raise monthly_limit_usd, or wait for the next month",
    "daily_limit": "our own daily_limit_usd is reached: raise it, or wait for midnight UTC",
    # Dead.
    "invalid_api_key": _REPLACE,
    "not_a_member": "its owner left the organisation or project: invite them again, or replace the key",
    "account_deactivated": "OpenAI has deactivated the account: ask OpenAI, or replace the key",
    "not_authorized_invalid_project": "its project was archived: use a key of another project",
    "organization_restricted": "OpenAI has restricted the organization: ask OpenAI, or replace the key",
    "access_terminated": f"OpenAI has ended this account's access: {_APPEAL}",
    # Ambiguous.
    "missing_scope_model_request": "the key is restricted: give it the scope model.request, or replace it",
    "missing_scope": "the key is restricted: give it the permission for this endpoint, or use it only for others",
    "inference_not_authorized_error": "the key may not call models: change its permissions at OpenAI, or replace it",
    # Not the key.
    "unsupported_country_region_territory": f"{_NETWORK}this region is not supported by OpenAI; call from another one",
    "ip_not_authorized": f"{_NETWORK}add this network's address to the IP allow-list at OpenAI",
    "mismatched_organization": f"{_NETWORK}an organisation header does not match it; check any gateway in between",
    "mismatched_project": f"{_NETWORK}a project header does not match it; check any gateway in between",
    "no_such_organization": f"{_NETWORK}an organisation header is unknown to OpenAI; check any gateway in between",
    **{f"http_{status}": _NOT_THE_API for status in (200, 301, 302, 303, 307, 308)},
    "organization_not_verified": "verify the organisation at OpenAI (it takes up to 15 minutes), or use other models",
    # Waiting.
    "rate_limit_exceeded": "wait: the key is at a rate limit and will serve again by itself",
    "slow_down": "wait: the key's traffic grew too fast for OpenAI; it will serve again by itself",
    # Session keys (sess-...), which can read an account's credit.
    "session_key_expired": "renew the expired session key: log in to OpenAI's site and copy the new one",
    "session_key_required": "this is an API key: OpenAI shows credit only to a session key (sess-...)",
    # What we know ourselves.
    "outside_use": "somebody else uses this account: find out who, give it a new key, then quotapool keys enable",
    "operator": "an operator took it out of service: quotapool keys enable",
    "master_key": "provide the master key it was added with (master_key, master_key_file)",
    "no answer": "check the network between here and OpenAI",
}

_BY_KIND: Final[dict[str, str]] = {
    Kind.MONEY: _PAY,
    Kind.DEAD: _REPLACE,
    Kind.SUSPECT: "check the key's permissions at OpenAI; it is tried again automatically",
    Kind.EGRESS: f"{_NETWORK}this network or region may not call OpenAI",
    Kind.HEADER: f"{_NETWORK}its headers do not match; check any gateway in between",
    Kind.SERVICE: "wait: OpenAI has a problem of its own",
    Kind.WAIT: BY_REASON["rate_limit_exceeded"],
    Kind.SLOW_DOWN: BY_REASON["slow_down"],
    Kind.MODEL: BY_REASON["missing_scope"],
}

_BY_STATE: Final[dict[str, str]] = {
    "quarantined": _PAY,
    "removed": _REPLACE,
    "suspect": _BY_KIND[Kind.SUSPECT],
    "disabled": BY_REASON["operator"],
    "draining": BY_REASON["operator"],
}


def advice(reason: str, *, state: str = "", kind: str = "", until: float = 0.0) -> str:
    """One sentence for an operator; "" if there is nothing to do. Unlisted reasons go by kind, then by state.

    `until`: Unix seconds of the next try, which ends the sentence; 0: none.
    """
    sentence = BY_REASON.get(reason) or _BY_KIND.get(kind) or _BY_STATE.get(state) or ""
    if sentence and until:
        return f"{sentence} (next try {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S} UTC)"
    return sentence
