"""`quotapool check`: ask upstream about each key, ask the store what is known of it, say what to do next."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Column, Table

from proxy.app.keyring import keyring, secrets_in
from proxy.app.overview import Overview, Silent
from proxy.cli.attach import run_with_store
from proxy.domain.states import State
from proxy.domain.verdict import Kind, Verdict
from proxy.ledger.connection import Store
from proxy.ledger.ledger import Ledger
from proxy.observe.redaction import Redactor
from proxy.openai.classify import classify
from proxy.settings import Settings
from proxy.upstream.credentials import Credentials
from proxy.upstream.http import Timeouts, UpstreamFailure, read_body
from proxy.upstream.lean import LeanUpstream

_AT_ONCE: Final = 16
_PATIENCE: Final = Timeouts(connect=5.0, first_byte=15.0, between_bytes=15.0)


@dataclass(frozen=True, slots=True)
class Probe:
    """What `GET /v1/models` said with one key: it proves validity, and says nothing about credit."""

    ok: bool
    word: str
    detail: str = ""


def run(settings: Settings, *, as_json: bool) -> int:
    """Exit code 0 only where every key is valid and active."""

    async def command(store: Store) -> int:
        ledger = Ledger(store, settings.pool, patience_s=3.0, observer=Silent())
        overview = Overview(settings, ledger)
        rows, probes = await asyncio.gather(overview.rows(), _probe_all(settings))
        for row in rows:
            probe = probes[row["id"]]
            row |= {"valid": probe.ok, "answer": probe.word, "detail": probe.detail}
            row["usable"] = probe.ok and row["state"] == State.ACTIVE.value
            row["next"] = _advice(row, probe)
        if as_json:
            print(msgspec.json.encode({"keys": rows}).decode())
        else:
            _print(rows)
        return 0 if all(row["usable"] for row in rows) else 1

    return run_with_store(settings, command)


async def _probe_all(settings: Settings) -> dict[str, Probe]:
    keys, secrets = keyring(settings)
    tls = ssl.create_default_context(cafile=str(settings.ca_file)) if settings.ca_file else None
    upstream = LeanUpstream(settings.upstream, _PATIENCE, tls=tls)
    credentials = Credentials(secrets)
    redactor = Redactor(secrets_in(settings, ""))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def probe(key_id: str) -> Probe:
        async with gate:
            return await _probe(upstream, credentials.authorization(key_id), redactor)

    try:
        answers = await asyncio.gather(*(probe(key.id) for key in keys))
    finally:
        await upstream.close()
    return {key.id: answer for key, answer in zip(keys, answers, strict=True)}


async def _probe(upstream: LeanUpstream, authorization: str, redactor: Redactor) -> Probe:
    try:
        headers = [("Authorization", authorization), ("Accept-Encoding", "identity")]
        answer = await upstream.send("GET", "/v1/models", headers, None)
    except UpstreamFailure as failure:
        return Probe(False, "no answer", str(failure))
    try:
        body = redactor.clean_bytes(await read_body(answer, 2**20))
    except UpstreamFailure as failure:
        return Probe(False, "no answer", str(failure))
    finally:
        answer.close()
    verdict = classify(answer.status, answer.headers, body)
    return Probe(verdict.kind is Kind.OK, _word(verdict), verdict.message)


def _word(verdict: Verdict) -> str:
    return (
        "valid" if verdict.kind is Kind.OK else f"{verdict.kind}: {verdict.reason}" if verdict.reason else verdict.kind
    )


def _advice(row: dict[str, Any], probe: Probe) -> str:
    """What an operator should do about this key, in one line."""
    reason = str(row.get("reason", ""))
    if row["state"] == State.QUARANTINED:
        if "limit" in reason:
            return "raise the spend limit, or wait for its monthly reset; it comes back by itself"
        if reason == "billing_not_active":
            return "set up billing for this account; it comes back by itself"
        return "add credit (a higher spend limit is not credit); it comes back by itself"
    if row["state"] == State.REMOVED:
        if "terminated" in reason:
            return "OpenAI ended this account's access: appeal to OpenAI, or replace the key"
        if "deactivated" in reason:
            return "the OpenAI account is deactivated: ask OpenAI, or replace the key"
        return "replace the key: change its secret in the configuration, and it starts anew"
    if row["state"] == State.SUSPECT:
        return "look at the key's permissions; it is tried again by itself"
    if not probe.ok:
        if probe.word == "no answer":
            return "check the network between here and upstream"
        if probe.word.startswith(Kind.EGRESS):
            return "this network or region may not call OpenAI; the key may be fine"
        return "replace the key"
    return ""


def _print(rows: list[dict[str, Any]]) -> None:
    titles = ("key", "account", "state", "upstream says", "left (per model)", "what to do")
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for row in rows:
        colour = "green" if row["usable"] else "red"
        state = row["state"] + (f"\n{row['reason']}" if row.get("reason") else "")
        table.add_row(
            row["id"], row["account"], f"[{colour}]{state}[/]", row["answer"], "\n".join(_left(row)), row["next"]
        )
    Console().print(table)
    usable = sum(row["usable"] for row in rows)
    Console().print(f"{usable} of {len(rows)} keys usable")


def _left(row: dict[str, Any]) -> list[str]:
    lines = []
    for budget in row["budgets"]:
        parts = [
            f"{name} {max(0, budget[name]['remaining']):,.0f}/{budget[name]['limit']:,.0f}"
            for name in ("rpm", "tpm", "rpd", "tpd", "ipm")
            if name in budget
        ]
        more = [
            f"{name}: upstream allows {budget[name]['learned']:,.0f}"
            for name in ("rpm", "tpm", "rpd", "tpd", "ipm")
            if name in budget and (budget[name]["learned"] or 0) > budget[name]["limit"]
        ]
        parts += more
        cooling = f" (waits {budget['cooling_s']:.0f} s)" if budget["cooling_s"] else ""
        lines.append(f"{budget['model']}: {', '.join(parts) or 'no limits known'}{cooling}")
    return lines
