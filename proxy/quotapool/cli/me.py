"""`quotapool me`: what a client may use, asked with its own key, on any machine."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import msgspec

from quotapool.cli import tables
from quotapool.cli.errors import fail
from quotapool.cli.rule_tables import rules_table
from quotapool.request.me import Standings

_TIMEOUT_S = 10.0


def run(base_url: str | None, *, as_json: bool) -> int:
    """Ask and print. The key is OPENAI_API_KEY's: an option would be seen by others on the machine."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not base_url:
        return fail("where is the proxy? Set OPENAI_BASE_URL, or give --base-url http://127.0.0.1:8080/v1")
    if not key:
        return fail("set OPENAI_API_KEY to the client's key")
    try:
        url = address_of(base_url)
    except ValueError as error:
        return fail(f"the base URL {error}")
    try:
        text = _asked(url, key)
        answer = msgspec.json.decode(text, type=Standings)
    except urllib.error.HTTPError as error:
        return fail(_said(error))
    except OSError as error:
        return fail(f"no answer from {url}: {getattr(error, 'reason', error)}")
    except (msgspec.DecodeError, UnicodeError):
        return fail(f"{url} is no Quotapool, or another version: its answer is not understood")
    if as_json:
        tables.print_json(answer)
    else:
        _show(answer)
    return 0


def address_of(base_url: str) -> str:
    """The page beside `/v1`. Raises ValueError."""
    parts = urlsplit(base_url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL, such as http://127.0.0.1:8080/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("contains credentials; the key belongs in OPENAI_API_KEY")
    prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{prefix}/quotapool/me"


def _asked(url: str, key: str) -> bytes:
    """Raises OSError, HTTPError among them."""
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})  # noqa: S310  http or https
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body
    except (ValueError, UnicodeError):
        raise OSError("OPENAI_API_KEY has characters that no key has") from None


def _said(error: urllib.error.HTTPError) -> str:
    """The proxy's own words, if it has any."""
    try:
        found: Any = json.loads(error.read())["error"]
        return f"{found['message']} ({error.code} {found['code']})"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.url} answered {error.code}"


def _show(answer: Standings) -> None:
    table = tables.table("", "")
    facts = {
        "client": answer.id,
        "name": answer.name,
        "team": answer.team,
        "models": ", ".join(answer.models) or "all",
        "expires on": answer.expires_on,
    }
    for title, value in facts.items():
        if value:
            table.add_row(title, value)
    out = tables.console()
    out.print(table)
    out.print(rules_table(answer.rules) if answer.rules else "no limits and budgets of its own")
    if answer.refusals:
        refused = tables.table("refused", "times", "code", "why", right=("times",))
        for refusal in answer.refusals:
            refused.add_row(tables.moment(refusal.time), str(refusal.count), refusal.code, refusal.message)
        out.print(refused)
