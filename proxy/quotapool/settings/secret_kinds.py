"""Secrets that cannot be a key of OpenAI's: placeholders, and what belongs elsewhere, told by how they begin. Pure.

For keys whose upstream is OpenAI's own: another upstream's may have any form.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

# In order: the first that fits counts. OpenAI's keys are `sk-` and letters, digits, `-` and `_`.
_FOREIGN: Final = {
    "sk-ant-": "Anthropic",
    "sk-or-": "OpenRouter",
    "sk-lf-": "Langfuse",
    "gsk_": "Groq",
    "aiza": "Google",
    "xai-": "xAI",
    "pplx-": "Perplexity",
    "nvapi-": "NVIDIA",
    "csk-": "Cerebras",
    "hf_": "Hugging Face",
    "r8_": "Replicate",
    "tgp_v1_": "Together",
    "ghp_": "GitHub",
    "github_pat_": "GitHub",
    "akia": "AWS",
    "absk": "AWS",
}
_ELSEWHERE: Final = {
    "qp-": "is a client key of Quotapool; the pool needs keys of OpenAI",
    "ek_": "is a short-lived key for one Realtime session; the pool needs a project key (sk-proj-...)",
    "whsec_": "is the secret of a webhook; the pool needs a project key (sk-proj-...)",
    "org-": "is the id of an organization, not a key; the pool needs a project key (sk-proj-...)",
    "proj_": "is the id of a project, not a key; the pool needs a project key (sk-proj-...)",
}
# A key of OpenAI's has none of these characters; its page shows old keys as sk-...abcd.
_LEFT_OUT: Final = re.compile(r"\.\.\.|…|\*\*|[<>{}\[\]]")
_FILLING: Final = re.compile(
    r"(?:sk-)?(?:proj-)?(?:"
    r"(?:your|my|the|insert|replace|enter|paste|put|add)[-_ ].*|.*[-_ ]here|x{3,}|"
    r"(?:openai[-_])?(?:api[-_])?(?:key|secret|token)|"
    r"change[-_]?(?:me|this|it)|placeholder|todo|fixme|dummy|none|null|undefined|any[-_ ]?(?:text|thing|key)?)",
    re.IGNORECASE,
)
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
_OPENAI: Final = re.compile(r"(?:[a-z0-9-]+\.)?api\.openai\.com")


def is_openai(upstream: object) -> bool:
    """Whether this URL is OpenAI's API; None and "" are the default, which is."""
    try:
        host = urlsplit(str(upstream or "https://api.openai.com").strip()).hostname or ""
    except ValueError:
        return False
    return _OPENAI.fullmatch(host) is not None


def not_of_openai(secret: str) -> str | None:
    """Why this cannot be a key of OpenAI's; None if it can."""
    if _VARIABLE.fullmatch(secret):
        return "is a variable's name; write ${NAME} for its value"
    if _LEFT_OUT.search(secret) or _FILLING.fullmatch(secret):
        return "is a placeholder; put a key of OpenAI in its place"
    lowered = secret.lower()
    for beginning, whose in _FOREIGN.items():
        if lowered.startswith(beginning):
            return f"is a key of {whose}, which OpenAI refuses; for another service give the key its own `upstream`"
    return next((message for beginning, message in _ELSEWHERE.items() if lowered.startswith(beginning)), None)
