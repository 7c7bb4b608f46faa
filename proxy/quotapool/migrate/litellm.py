"""LiteLLM's config.yaml: deployments with their upstream keys, and the master key.

Facts from the repository BerriAI/litellm and docs.litellm.ai (proxy/configs):
- `model_list`: `model_name` is what clients ask for, `litellm_params.model` is `PROVIDER/NAME` upstream; a bare name is
  OpenAI's if it looks like one; `api_key`, `api_base`, `organization`, `rpm`, `tpm`, `weight` belong to the deployment.
- `os.environ/NAME` anywhere is the value of that variable; without `api_key`, OpenAI's is OPENAI_API_KEY.
- `environment_variables` are set before anything is resolved.
- `credential_list` names credentials that a deployment may refer to with `litellm_credential_name`.
- `router_settings.model_group_alias`: another name of a model, or {model: NAME}.
- `general_settings.master_key`: calls models, too; also LITELLM_MASTER_KEY.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from quotapool.migrate.found import (
    FoundClient,
    FoundKey,
    FoundTeam,
    NotTaken,
    SourceError,
    digest,
    mark_of,
    shown,
)
from quotapool.migrate.litellm_tokens import LiteLlmTokens

_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_BYTES: Final = 16 * 2**20
_SHORTEST: Final = 16
_REFERENCE: Final = "os.environ/"
_MISSING: Final = re.compile(r"os\.environ/(.{1,80})")
# Providers that speak OpenAI's API, and the URL of each if a deployment names none.
_PROVIDERS: Final[Mapping[str, str]] = {
    "openai": "https://api.openai.com",
    "text-completion-openai": "https://api.openai.com",
    "azure": "",
    "deepseek": "https://api.deepseek.com",
    "groq": "https://api.groq.com/openai",
    "mistral": "https://api.mistral.ai",
    "openrouter": "https://openrouter.ai/api",
    "together_ai": "https://api.together.xyz",
    "xai": "https://api.x.ai",
    "hosted_vllm": "",
    "openai_like": "",
}
_OPENAIS: Final = re.compile(
    r"(?:ft:)?(?:gpt-|chatgpt-|o[1-9](?:-|$)|codex|computer-use|text-embedding-|text-moderation-|omni-moderation-"
    r"|dall-e-|whisper-|tts-|sora-|davinci-|babbage-)"
)
_LEFT_OUT: Final = {
    "fallbacks": "another model when one fails; here another account of the same model is asked",
    "context_window_fallbacks": "another model for long prompts",
    "content_policy_fallbacks": "another model after a refusal",
    "callbacks": "callbacks",
    "success_callback": "callbacks",
    "failure_callback": "callbacks",
    "guardrails": "guardrails",
    "cache": "its response cache",
    "include": "other files that it includes; run this on each of them",
    "pass_through_endpoints": "pass-through endpoints",
    "allowed_ips": "addresses that may call at all: allowed_ips of each client, or a firewall",
}


class LiteLlm:
    """A config.yaml. `env`: what `os.environ/NAME` means. `tokens`: the virtual keys of its database, if that is given.

    `sample`: a virtual key as its client sends it, which proves how the database stores them."""

    def __init__(self, path: Path, env: Mapping[str, str], tokens: LiteLlmTokens | None) -> None:
        self._config = _read(path)
        written = _section(self._config, "environment_variables")
        self._env = {**env, **{str(name): str(value) for name, value in written.items()}}
        self._tokens = tokens

    @property
    def master_key(self) -> str:
        """ "" if there is none."""
        written = self._value(_section(self._config, "general_settings").get("master_key"))
        return written or self._env.get("LITELLM_MASTER_KEY", "")

    # ---- deployments

    def read_keys(self) -> Iterator[FoundKey | NotTaken]:
        """Deployments with one secret and one upstream are one key, which has the models of all of them."""
        made: dict[tuple[str, str], FoundKey] = {}
        for number, entry in enumerate(_list(self._config, "model_list"), start=1):
            found = self._deployment(number, entry)
            if isinstance(found, NotTaken):
                yield found
                continue
            known = made.get((found.secret, found.url))
            if known is None:
                made[found.secret, found.url] = found
                continue
            for name, real in found.models.items():
                if (other := known.models.get(name, real)) != real:
                    why = f"the same key serves {shown(name)} as {shown(other)}, and a key has one name for a model"
                    yield NotTaken("setting", found.origin, why)
            made[found.secret, found.url] = _joined(known, found)
        yield from made.values()
        yield from self._left_out()

    def _deployment(self, number: int, entry: Any) -> FoundKey | NotTaken:
        name = str(entry.get("model_name") or "") if isinstance(entry, dict) else ""
        origin = f"deployment {number} {shown(name)}".rstrip()
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        if not isinstance(params, dict) or not name or not isinstance(params.get("model"), str):
            return NotTaken("key", origin, "it has no model_name, or no litellm_params.model")
        params = {**self._credentials(params.get("litellm_credential_name")), **params}
        provider, _, real = params["model"].partition("/")
        if not real or (provider not in _PROVIDERS and params.get("custom_llm_provider") in _PROVIDERS):
            provider, real = str(params.get("custom_llm_provider") or ""), params["model"]
        if not provider and _OPENAIS.match(real):
            provider = "openai"
        if provider not in _PROVIDERS:
            what = f"{shown(provider)} does not" if provider else "it does not say which provider does, as openai/NAME"
            return NotTaken("key", origin, f"{what} speak OpenAI's API" if provider else what)
        secret = self._value(params.get("api_key"))
        if not secret and provider == "openai" and params.get("api_key") is None:
            secret = self._env.get("OPENAI_API_KEY", "")
        if not secret:
            return NotTaken("key", origin, self._why_empty(params.get("api_key")))
        url = self._value(params.get("api_base") or params.get("base_url")) or _PROVIDERS[provider]
        if not url:
            return NotTaken("key", origin, "it names no api_base that is set here")
        header = "bearer"
        if provider == "azure":
            url, header = f"{url.rstrip('/').removesuffix('/v1').removesuffix('/openai')}/openai/v1", "api-key"
        is_open = name == "*" and real == "*"
        if "*" in name + real and not is_open:
            return NotTaken("key", origin, "names with * inside: list its models one by one")
        names = [name, *self._aliases(name)]
        models = {} if is_open else dict.fromkeys(names, real)
        return FoundKey(
            origin, secret, url, header, models=models, is_open=is_open, account=self._account(params, models)
        )

    def _account(self, params: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, Any]:
        limits = {
            what: float(value)
            for what in ("rpm", "tpm")
            if isinstance(value := params.get(what), int | float) and not isinstance(value, bool) and value > 0
        }
        account: dict[str, Any] = {"models": dict.fromkeys(models, limits)} if limits and models else {}
        if isinstance(weight := params.get("weight"), int | float) and weight > 0:
            account["weight"] = float(weight)
        if organization := self._value(params.get("organization")):
            account["organization"] = organization
        return account

    def _aliases(self, model: str) -> list[str]:
        aliases = _section(_section(self._config, "router_settings"), "model_group_alias")
        return [
            str(alias)
            for alias, target in aliases.items()
            if (target.get("model") if isinstance(target, dict) else target) == model
        ]

    def _credentials(self, name: object) -> dict[str, Any]:
        for entry in _list(self._config, "credential_list") if name else ():
            if isinstance(entry, dict) and entry.get("credential_name") == name:
                return dict(_section(entry, "credential_values"))
        return {}

    def _value(self, written: object) -> str:
        """A text with its reference resolved; "" if it is empty, or the variable is not set."""
        text = str(written).strip() if isinstance(written, str | int) and not isinstance(written, bool) else ""
        return self._env.get(text.removeprefix(_REFERENCE), "") if text.startswith(_REFERENCE) else text

    def _why_empty(self, written: object) -> str:
        match = _MISSING.fullmatch(str(written or ""))
        return f"the environment here has no {shown(match[1])}" if match else "it has no api_key"

    def _left_out(self) -> Iterator[NotTaken]:
        places = ("", "litellm_settings", "router_settings", "general_settings")
        for place in places:
            section = self._config if not place else _section(self._config, place)
            for name, about in _LEFT_OUT.items():
                if section.get(name):
                    yield NotTaken("setting", f"{place}.{name}".lstrip("."), about)

    # ---- virtual keys

    def read_teams(self) -> Iterator[FoundTeam | NotTaken]:
        return self._tokens.read_teams() if self._tokens is not None else iter(())

    def read_clients(self) -> Iterator[FoundClient | NotTaken]:
        if master := self.master_key:
            if len(master) < _SHORTEST:
                why = f"it has fewer than {_SHORTEST} characters, and could be guessed"
                yield NotTaken("client", "general_settings.master_key", why)
            else:
                hashed = digest(master)
                options = {"name": "master key", "notes": "from LiteLLM: general_settings.master_key"}
                yield FoundClient("master key", f"litellm-master-{mark_of(hashed)}", hashed, options)
        if self._tokens is not None:
            yield from self._tokens.read_clients(master)
        elif _section(self._config, "general_settings").get("database_url") or self._env.get("DATABASE_URL"):
            why = "they are in its database: give that with --database env:DATABASE_URL"
            yield NotTaken("setting", "virtual keys", why)


def _joined(one: FoundKey, other: FoundKey) -> FoundKey:
    """The key with the models of both deployments; what came first counts."""
    limits = {**other.account.get("models", {}), **one.account.get("models", {})}
    account = {**other.account, **one.account, **({"models": limits} if limits else {})}
    return FoundKey(
        one.origin,
        one.secret,
        one.url,
        one.header,
        models={**other.models, **one.models},
        is_open=one.is_open or other.is_open,
        account=account,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SourceError(f"{path} is longer than {_MOST_BYTES // 2**20} MiB; is it LiteLLM's config.yaml?")
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise SourceError(f"{path}{f':{mark.line + 1}' if mark else ''} is not YAML") from None
    if not isinstance(config, dict) or not ({"model_list", "general_settings", "litellm_settings"} & config.keys()):
        raise SourceError(f"{path} has neither model_list nor general_settings, so it is not LiteLLM's config.yaml")
    return config


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _list(config: Mapping[str, Any], name: str) -> list[Any]:
    found = config.get(name)
    return found if isinstance(found, list) else []
