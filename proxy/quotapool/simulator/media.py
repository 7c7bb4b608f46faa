"""Sound and pictures of the simulated OpenAI: transcription, translation, speech, image generation, edits, variations.

The answers show whether uploads arrived completely: a transcript has the number of bytes received and their CRC-32, an
edited picture is the picture that was sent. Shapes: Python SDK 3.54, `types/audio` and `types/images_response.py`.
"""

from __future__ import annotations

import base64
import io
import math
import time
import wave
import zlib
from typing import Any, Final

import msgspec

from quotapool.simulator import errors
from quotapool.simulator.errors import ErrorReply
from quotapool.simulator.objects import ObjectReply, Request
from quotapool.simulator.replies import pretty

TOKENS_PER_SECOND: Final = 10  # of input sound
TOKENS_PER_PICTURE: Final = 272  # a small square one of gpt-image-1
SPEECH_RATE: Final = 24_000  # samples per second, two bytes each
_WORD_S: Final = 0.1
_STREAM: Final = "text/event-stream; charset=utf-8"
_TYPES: Final = {"wav": "audio/wav", "mp3": "audio/mpeg", "opus": "audio/opus", "flac": "audio/flac"}
_NO_FILE: Final = ErrorReply(400, "Invalid file format. A file is required.", param="file")


def serve(request: Request) -> ObjectReply | ErrorReply | None:
    """The answer; None if the path is about neither sound nor pictures."""
    if request.method != "POST":
        return None
    match request.path:
        case ("audio", "transcriptions" | "translations"):
            return _transcript(request)
        case ("audio", "speech"):
            return _speech(request.fields)
        case ("images", "generations" | "edits" | "variations" as what):
            return _pictures(request, what)
        case _:
            return None


# ---- sound


def _transcript(request: Request) -> ObjectReply | ErrorReply:
    fields, sound = request.fields, request.upload
    if not fields.get("model"):
        return errors.MISSING_MODEL
    if sound is None:
        return _NO_FILE
    text, seconds = transcript_of(sound[1]), _seconds(sound[1])
    if fields.get("response_format") == "text":
        return ObjectReply(f"{text}\n".encode(), type="text/plain; charset=utf-8")
    tokens = max(1, math.ceil(seconds * TOKENS_PER_SECOND))
    details = {"text_tokens": 0, "audio_tokens": tokens}
    words = len(text.split())
    usage: dict[str, Any] = {"type": "tokens", "input_tokens": tokens, "output_tokens": words}
    usage |= {"total_tokens": tokens + words, "input_token_details": details}
    if fields["model"].startswith("whisper"):
        usage = {"type": "duration", "seconds": math.ceil(seconds)}
    elif fields.get("stream") == "true":
        deltas = [{"type": "transcript.text.delta", "delta": f"{word} "} for word in text.split()]
        return _stream([*deltas, {"type": "transcript.text.done", "text": text, "usage": usage}])
    return ObjectReply(pretty({"text": text, "usage": usage}))


def transcript_of(sound: bytes) -> str:
    """The transcript of these bytes."""
    return f"{len(sound)} bytes with the checksum {zlib.crc32(sound):08x}"


def _seconds(sound: bytes) -> float:
    """The duration of a WAV file; anything else counts as 32 kbit/s."""
    try:
        with wave.open(io.BytesIO(sound)) as file:
            return float(file.getnframes() / file.getframerate())
    except (wave.Error, EOFError, ZeroDivisionError):
        return len(sound) / 4_000


def _speech(fields: dict[str, Any]) -> ObjectReply | ErrorReply:
    """A tenth of a second of silence for each word; as a playable file if WAV is asked for."""
    for name in ("model", "input", "voice"):
        if not fields.get(name):
            return errors.missing_parameter(name)
    words = len(str(fields["input"]).split())
    silence = bytes(2 * int(words * _WORD_S * SPEECH_RATE))
    if fields.get("stream_format") == "sse":
        usage = {"input_tokens": words, "output_tokens": 2 * words, "total_tokens": 3 * words}
        delta = {"type": "speech.audio.delta", "audio": base64.b64encode(silence).decode()}
        return _stream([delta, {"type": "speech.audio.done", "usage": usage}])
    kind = fields.get("response_format") or "mp3"
    if kind == "wav":
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(SPEECH_RATE)
            out.writeframes(silence)
        silence = file.getvalue()
    return ObjectReply(silence, type=_TYPES.get(kind, "audio/pcm"))


# ---- pictures


def _pictures(request: Request, what: str) -> ObjectReply | ErrorReply:
    fields = request.fields
    if what != "variations" and not fields.get("prompt"):
        return errors.missing_parameter("prompt")
    sent = request.upload
    if what != "generations" and sent is None:
        return errors.missing_parameter("image")
    count = int(fields.get("n") or 1)
    picture = base64.b64encode(dot() if sent is None else sent[1]).decode()
    read = len(str(fields.get("prompt", "")).split())
    looked = 0 if sent is None else TOKENS_PER_PICTURE
    usage = {"input_tokens": read + looked, "output_tokens": count * TOKENS_PER_PICTURE}
    usage_document = {
        **usage,
        "total_tokens": sum(usage.values()),
        "input_tokens_details": {"text_tokens": read, "image_tokens": looked},
    }
    if fields.get("stream") in {True, "true"}:
        kind = "image_edit.completed" if what == "edits" else "image_generation.completed"
        about = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}
        done = {"type": kind, "b64_json": picture, "created_at": int(time.time()), **about, "usage": usage_document}
        return _stream([done])
    return ObjectReply(
        pretty({"created": int(time.time()), "data": [{"b64_json": picture}] * count, "usage": usage_document})
    )


def dot() -> bytes:
    """A PNG of one grey pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = (1).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00\x80")) + chunk(b"IEND", b"")
    )


def _stream(events: list[dict[str, Any]]) -> ObjectReply:
    """All server-sent events at once: neither sound nor pictures are produced bit by bit here."""
    texts = (f"event: {event['type']}\ndata: {msgspec.json.encode(event).decode()}\n\n" for event in events)
    return ObjectReply("".join(texts).encode(), type=_STREAM)
