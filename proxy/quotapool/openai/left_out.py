"""Which members of a request do not shape its answer, and why; and which of them may be null instead of absent.

Sources: OpenAI's specification, and the types of its Python SDK 3.54.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class LeftOut(NamedTuple):
    """A member that does not shape the answers of these endpoints."""

    member: str
    endpoints: str
    why: str


_GENERATING: Final = "chat/completions completions responses"
_BOTH: Final = "chat/completions responses"
LEFT_OUT: Final = (
    LeftOut("stream", _GENERATING, "the same answer in another form, which a replay makes"),
    LeftOut(
        "stream_options",
        _GENERATING,
        "`include_usage` and `include_obfuscation` are for the replay; with another option it stays in",
    ),
    LeftOut("user", f"{_GENERATING} embeddings", "names the end user, for OpenAI's checks"),
    LeftOut("safety_identifier", _BOTH, "names the end user, for OpenAI's checks"),
    LeftOut("metadata", _BOTH, "labels of a stored object, and nothing is stored"),
    LeftOut("prompt_cache_key", _BOTH, "where upstream looks for a cached prompt: changes the price, not the words"),
    LeftOut("prompt_cache_retention", _BOTH, "how long upstream caches the prompt"),
    LeftOut("service_tier", _BOTH, "how soon and at which price, by the same model"),
    LeftOut("store", _BOTH, "only false gets this far, chat's default"),
    LeftOut("background", "responses", "only false gets this far, the default"),
)
"""A response repeats some of them: `openai/own_members.py` gives each client its own."""

NULL_IS_DEFAULT: Final[dict[str, str]] = {
    "chat/completions": (
        "audio frequency_penalty logit_bias logprobs max_completion_tokens max_tokens modalities moderation n"
        " prediction presence_penalty reasoning_effort seed stop temperature top_logprobs top_p verbosity"
    ),
    "completions": (
        "best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop suffix temperature"
        " top_p"
    ),
    "responses": (
        "context_management conversation include instructions max_output_tokens max_tool_calls moderation"
        " parallel_tool_calls previous_response_id prompt reasoning temperature top_logprobs top_p truncation"
    ),
    "embeddings": "",
    "moderations": "",
}
"""Members for which null is the same as their absence: those that the specification has as optional and nullable."""
