"""Removes secrets and account names from text that people or machines will read.

Shapes of OpenAI's secrets: legacy `sk-…`, `sk-proj-`, `sk-svcacct-`, `sk-service-`, `sk-admin-`, `sk-None-`,
dashboard sessions `sess-…`, Realtime's short-lived `ek_…`, webhook secrets `whsec_…`, the browser's WebSocket
subprotocol `openai-insecure-api-key.…`, and workload identity's JWTs. OpenAI also echoes parts of a wrong key
("Incorrect API key provided: sk-pr****MxYA"), and names organisations (`org-…`) and projects (`proj_…`).
"""

from __future__ import annotations

import re
from typing import Final

REDACTED: Final = "[redacted]"

# A key may directly follow a letter ("\nsk-…" inside escaped JSON), so a long one needs no word boundary; a short one
# does, or "task-force" would lose its second half. The characters of masked echoes belong to the key.
_KEY_CHARACTER = r"(?:[\w*•…+/=~-]|\.+(?=[\w*•…]))"

# Each alternative consumes what it has examined, so the time is linear in the text (no nested repetition).
_SECRET: Final = re.compile(
    rf"""
      (?<=openai-insecure-api-key\.) [^\s,"']+
    | (?<![A-Za-z0-9]) (?:sk|sess)- {_KEY_CHARACTER}{{4,}}
    | (?:sk|sess)- {_KEY_CHARACTER}{{16,}}
    | (?<![A-Za-z0-9]) ek_ [\w-]{{8,}}
    | ek_ [\w-]{{20,}}
    | whsec_ [\w+/=-]+
    | eyJ [\w-]{{12,}} (?:\.[\w-]*){{0,2}}
    | (?i:(?<=bearer\ )) [\w.~+/=-]{{20,}}
    | (?<=key\ provided:\ ) [^\s.]+ (?:\.[^\s.]+)*
    | (?<=://) [^/\s@]+ (?=@)
    | org- (?=[a-z]*[0-9A-Z]) [A-Za-z0-9]{{6,}}
    | org- [A-Za-z0-9]{{20,}}
    | proj_ [A-Za-z0-9]{{6,}}
    """,
    re.VERBOSE | re.ASCII,
)

# What is left of an echo that did not begin like a key.
_STARRED: Final = re.compile(r"(?<![\w-])[\w-]{0,80}\*{3,}[\w*-]*|\*{3,}[\w*-]*", re.ASCII)


def mask(text: str) -> str:
    """`text` with each secret, echo of a secret, URL user info and account id replaced by `[redacted]`.

    Mask before cutting a text short: a cut could leave the beginning of a key too short to be recognised.
    """
    masked = _SECRET.sub(REDACTED, text)
    return _STARRED.sub(REDACTED, masked) if "***" in masked else masked
