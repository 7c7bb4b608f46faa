"""Sound and pictures: what was uploaded is what the simulator received; shapes are read by the official SDK."""

from __future__ import annotations

import base64
import io
import wave
import zlib

import pytest
from openai import BadRequestError

RATE = 8_000
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the SDK, of old operations


def two_seconds() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(bytes(2 * 2 * RATE))
    return file.getvalue()


async def test_a_transcript_shows_what_was_received_and_charges_its_seconds(simulate):
    sdk, sound = (await simulate()).sdk(), two_seconds()
    text = f"{len(sound)} bytes with the checksum {zlib.crc32(sound):08x}"
    said = await sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", sound))
    assert said.text == text
    assert (said.usage.input_tokens, said.usage.output_tokens, said.usage.total_tokens) == (20, 6, 26)
    old = await sdk.audio.transcriptions.create(model="whisper-1", file=("a.wav", sound))
    assert (old.usage.type, old.usage.seconds) == ("duration", 2)
    assert (await sdk.audio.translations.create(model="whisper-1", file=("a.wav", sound))).text == text
    plain = await sdk.audio.transcriptions.create(model="whisper-1", file=("a.wav", sound), response_format="text")
    assert plain == f"{text}\n"
    stream = await sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", sound), stream=True)
    *deltas, done = [event async for event in stream]
    assert "".join(event.delta for event in deltas).strip() == done.text == text
    assert done.usage.total_tokens == 26


async def test_speech_takes_a_tenth_of_a_second_for_each_word(simulate):
    sdk = (await simulate()).sdk()
    speech = await sdk.audio.speech.create(
        model="gpt-4o-mini-tts", voice="alloy", input="one two", response_format="wav"
    )
    assert speech.response.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(speech.read())) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(0.2)


async def test_an_edited_picture_is_the_one_that_was_sent(simulate):
    sdk, picture = (await simulate()).sdk(), bytes(range(256)) * 9
    edited = await sdk.images.edit(model="gpt-image-1", image=("p.png", picture), prompt="a red hat")
    assert base64.b64decode(edited.data[0].b64_json) == picture
    assert (edited.usage.input_tokens, edited.usage.output_tokens) == (275, 272)
    stream = await sdk.images.edit(model="gpt-image-1", image=("p.png", picture), prompt="a red hat", stream=True)
    (event,) = [event async for event in stream]
    assert event.type == "image_edit.completed"
    made = await sdk.images.generate(model="gpt-image-1", prompt="a dot", n=2)
    assert [base64.b64decode(one.b64_json)[:4] for one in made.data] == [b"\x89PNG"] * 2
    varied = await sdk.images.create_variation(image=("p.png", picture))
    assert base64.b64decode(varied.data[0].b64_json) == picture


async def test_what_is_missing_is_named_and_forms_are_limited_by_their_model(simulate):
    simulation = await simulate()
    with pytest.raises(BadRequestError, match="prompt"):
        await simulation.sdk().images.edit(model="gpt-image-1", image=("p.png", b"x"), prompt="")
    await simulation.fault("insufficient_quota", model="gpt-image-1")
    with pytest.raises(Exception, match="exceeded your current quota"):
        await simulation.sdk().images.edit(model="gpt-image-1", image=("p.png", b"x"), prompt="y")
