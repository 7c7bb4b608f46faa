"""An answer of the Responses API, not streamed, that reports a failure with HTTP status 200."""

from __future__ import annotations

from typing import Final

import msgspec

from quotapool.openai.jsontext import BROKEN


class _Response(msgspec.Struct, gc=False):
    """The members that matter here; OpenAI's specification calls the object `Response`."""

    object: str = ""
    status: str | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_response: Final = msgspec.json.Decoder(_Response)


def failure_in(body: bytes) -> bytes | None:
    """The failure as a stream would have reported it (`response.failed`), for `classify_stream_error`; None if the body
    is anything but a failed response with an error."""
    if b'"failed"' not in body:  # nearly always: nothing is decoded
        return None
    try:
        response = _response.decode(body)
    except BROKEN:
        return None
    if response.object != "response" or response.status != "failed" or bytes(response.error) == b"null":
        return None
    return b'{"type":"response.failed","response":{"status":"failed","error":' + bytes(response.error) + b"}}"
