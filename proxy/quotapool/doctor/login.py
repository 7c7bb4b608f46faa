"""The identity provider that operators log in at, if one is configured: its description and its keys are read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from quotapool.doctor.finding import Finding, ok, problem
from quotapool.login.provider import Provider, ProviderFailed
from quotapool.settings import Settings


async def check(settings: Settings) -> AsyncIterator[Finding]:
    options = settings.dashboard.oidc if settings.dashboard.enabled else None
    if options is None:
        return
    provider = Provider.of(settings, options)
    try:
        await provider.metadata()
        await provider.keys()
    except ProviderFailed as failed:
        yield problem("login.oidc", str(failed), "See docs/operations.md#an-identity-provider")
    except OSError as error:
        yield problem("login.oidc", f"ca_file cannot be used: {error.strerror or error}", "Correct the file")
    else:
        yield ok("login.oidc", f"{options.issuer} describes itself, and shows its keys")
