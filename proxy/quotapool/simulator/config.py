"""The configuration of a simulated OpenAI: accounts, their keys and limits, speed, and the way of charging."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml

Positive = Annotated[int, msgspec.Meta(ge=1)]

FIXED_TAIL: Final = "simulatedkeyforquotapool"  # 24 characters, the same in every key


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of one (account, model): requests and tokens per minute and per day. None: unlimited."""

    rpm: Positive | None = None
    tpm: Positive | None = None
    rpd: Positive | None = None
    tpd: Positive | None = None


class AccountConfig(Limits, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One account, a project of `organization` ("": its own one): its keys share its limits.

    `models` maps a model, or a pattern such as "gpt-4o*", to its limits. `prompts` maps the id of each stored prompt
    template, created in a dashboard that is not simulated, to its model.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    organization: str = ""
    keys: tuple[str, ...] = ()
    models: dict[str, Limits] = {}
    prompts: dict[str, str] = {}

    def limits_of(self, model: str) -> Limits:
        """The limits of one model: by its exact name, else the first pattern that matches, else the account's own."""
        exact = self.models.get(model)
        if exact is not None:
            return exact
        for pattern, limits in self.models.items():
            if pattern.endswith("*") and model.startswith(pattern[:-1]):
                return limits
        return self


class SimulatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole simulator.

    charging: "keep" leaves the estimate charged, "correct" corrects it to the usage when the answer ends
    (OpenAI documents the correction for Realtime only, so a proxy has to cope with both).
    answers: "by_prompt", the same text for the same prompt, or "by_call", another text for each call, so that an answer
    that was given before can be told from a new one. Embeddings depend on their input alone.
    latency_ms: milliseconds before the first byte. tokens_per_second: speed of each answer; None: at once.
    completion_tokens: length of an answer that no limit of the request cuts shorter.
    default_output_tokens: output counted for a request without a maximum.
    """

    accounts: tuple[AccountConfig, ...] = ()
    charging: Literal["keep", "correct"] = "keep"
    answers: Literal["by_prompt", "by_call"] = "by_prompt"
    latency_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    tokens_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    completion_tokens: Positive = 32
    default_output_tokens: Positive = 16


def simulated_secret(index: int) -> str:
    """The secret of the generated key `index`, always the same."""
    return f"sk-sim-{index:02d}-{FIXED_TAIL}"


def generated_accounts(count: int, limits: Limits) -> tuple[AccountConfig, ...]:
    """`count` accounts of one key each, all with the same limits."""
    return tuple(
        AccountConfig(id=f"account-{index:02d}", keys=(simulated_secret(index),), **msgspec.structs.asdict(limits))
        for index in range(count)
    )


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON, which is YAML) file. Raises OSError and ValueError."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(document, dict):
        raise ValueError("the file must hold a mapping")  # noqa: TRY004  # one exception class for a wrong file
    return document
