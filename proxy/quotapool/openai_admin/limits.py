"""A project's rate limits at OpenAI as limits of this configuration: for the table, for a file, and while running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from quotapool.domain.quantities import Limits
from quotapool.openai_admin.collect import settings_of
from quotapool.openai_admin.shapes import RateLimit
from quotapool.settings import LimitSet, Settings, with_more

Imported = Mapping[str, Sequence[RateLimit]]  # account -> OpenAI's rows


def limits_by_group(settings: Settings, rows: Sequence[RateLimit]) -> dict[str, Limits]:
    """Model group -> OpenAI's limits. The row of the group's own name counts for the group, else its first one.

    The batch queue's limit does not apply to requests, and megabytes of audio are not counted: neither is taken.
    Nothing or 0 in a row is no limit: OpenAI itself refuses a model that a project may not use.
    """
    found: dict[str, Limits] = {}
    for row in rows:
        group = settings.group_of(row.model)
        limits = Limits(
            rpm=row.max_requests_per_1_minute or None,
            tpm=row.max_tokens_per_1_minute or None,
            rpd=row.max_requests_per_1_day or None,
            ipm=row.max_images_per_1_minute or None,
        )
        if limits != Limits() and (group not in found or row.model == group):
            found[group] = limits
    return found


def with_imported(settings: Settings, imported: Imported) -> Settings:
    """The configuration with these limits added under `accounts.<account>.models`.

    Limits configured for an account, for all its models or for one, stay as they are.
    """
    accounts = {}
    for name, rows in imported.items():
        account = settings_of(settings, name)
        models = dict(account.models)
        for group, limits in limits_by_group(settings, rows).items():
            own = models.get(group, LimitSet()).limits
            free = Limits(**{d: v for d, v in _numbers(limits).items() if getattr(account, d) is None})
            models[group] = LimitSet(**_numbers(own.over(free)))
        accounts[name] = account.model_copy(update={"models": models})
    return with_more(settings, (), accounts) if accounts else settings


def fragment(settings: Settings, imported: Imported) -> str:
    """The same as YAML for the configuration file."""
    accounts = {}
    for name, rows in sorted(imported.items()):
        models = {
            group: {dimension: int(limit) for dimension, limit in _numbers(limits).items()}
            for group, limits in sorted(limits_by_group(settings, rows).items())
        }
        project = settings_of(settings, name).project
        accounts[name] = ({"project": project} if project else {}) | {"models": models}
    return yaml.safe_dump({"accounts": accounts}, sort_keys=False, default_flow_style=None, width=120)


def _numbers(limits: Limits) -> dict[str, float]:
    values = {name: getattr(limits, name) for name in LimitSet.model_fields}
    return {name: value for name, value in values.items() if value is not None}
