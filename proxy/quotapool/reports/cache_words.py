"""What the cache did for a request, and why it did no more, in plain words. Pure."""

from __future__ import annotations

from typing import Final

from quotapool.domain.wallet import PICO
from quotapool.observe.kept_request import KeptRequest, KeptSaved

_REASONS: Final = {  # by the word that a request is kept with
    # Why it is not looked up
    "client": "its client is not served from the cache (cache.clients, or the client's option cache)",
    "temperature": "its temperature is above cache.max_temperature, and it does not ask for a kept answer",
    "no_store": "it says Cache-Control: no-store",
    "query": "its URL has a query",
    "stored_objects": "it names or makes objects that OpenAI stores",
    "tools_hosted": "it uses tools that OpenAI runs, whose results differ from call to call",
    "audio": "it asks for audio",
    # Why its answer is not kept
    "tools": "it calls tools, and cache.tools is false",
    "too_large": "it is larger than cache.max_entry",
    "error": "it is an error",
    "refusal": "the model refused",
    "content_filter": "a content filter ended it",
    "cut": "it was cut short",
    "incomplete": "it is not complete",
    "usage": "it has no usage",
    "store": "the store was away, or full",
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
            why = f": {reason_words(request.kept)}" if request.kept else ""
            return f"It was not looked up in the cache{why}."
        case _:
            return ""


def reason_words(word: str) -> str:
    """What a word means; one that a newer version wrote is shown as it is."""
    return _REASONS.get(word, word.replace("_", " "))


def _not_kept(request: KeptRequest) -> str:
    if request.kept:
        return f", and did not keep this one: {reason_words(request.kept)}"
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
