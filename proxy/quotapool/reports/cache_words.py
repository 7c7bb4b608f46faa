"""What the cache did for a request, and why it did no more, in plain words. Pure."""

from __future__ import annotations

from typing import Final

from quotapool.domain.wallet import PICO
from quotapool.observe.kept_request import KeptRequest, KeptSaved
from quotapool.openai.cacheable import NEVER
from quotapool.openai.storable import UNSTORABLE

_NOT_LOOKED_UP: Final = {
    **NEVER,
    "no_store": "it says `Cache-Control: no-store`",
    "no_cache": "it says `Cache-Control: no-cache`, or max-age=0",
    "form": "its body passes as it comes",
    "temperature": "its temperature is above cache.max_temperature, and it does not ask for a kept answer",
}
_NOT_KEPT: Final = {
    **UNSTORABLE,
    "cut": "it was cut short",
    "encoded": "it came in an encoding that is not read here",
    "too_large": "it is larger than cache.max_entry",
}


def cache_words(request: KeptRequest) -> str:
    """A sentence; "": there is no cache for such a request."""
    match request.cache:
        case "hit":
            return f"The cache had the answer{_saved(request.saved)}."
        case "coalesced":
            return f"An identical request was under way, and both got one answer{_saved(request.saved)}."
        case "miss":
            return f"The cache did not have the answer{_partly(request.saved)}{_not_kept(request)}."
        case "bypass":
            why = f": {bypass_words(request.kept)}" if request.kept else ""
            return f"It was not looked up in the cache{why}."
        case _:
            return ""


def bypass_words(word: str) -> str:
    """Why a request was not looked up; a word that a newer version wrote is shown as it is."""
    return _NOT_LOOKED_UP.get(word, word.replace("_", " "))


def not_kept_words(word: str) -> str:
    """Why an answer is not kept."""
    return _NOT_KEPT.get(word, word.replace("_", " "))


def _not_kept(request: KeptRequest) -> str:
    if request.kept:
        return f", and did not keep this one: {not_kept_words(request.kept)}"
    return "; it keeps this one" if 200 <= request.status < 300 and not request.cut else ""


def _saved(saved: KeptSaved | None) -> str:
    return f", which saved {_amounts(saved)}" if saved is not None and _amounts(saved) else ""


def _partly(saved: KeptSaved | None) -> str:
    return f", but parts of it, which saved {_amounts(saved)}" if saved is not None and _amounts(saved) else ""


def _amounts(saved: KeptSaved) -> str:
    """`1 call upstream, 248 tokens and $0.001915`."""
    tokens = saved.prompt + saved.completion
    parts = [f"{saved.requests:,} call{'' if saved.requests == 1 else 's'} upstream"] if saved.requests else []
    parts += [f"{tokens:,} tokens"] if tokens else []
    parts += [f"${saved.pico / PICO:.6f}"] if saved.pico else []
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else ""
