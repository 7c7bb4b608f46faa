"""Forms that pass as they come, and are looked at for the model they name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from quotapool.openai.forms import FieldReader, FormError


async def watched(
    form: AsyncIterator[bytes], boundary: bytes, named: Callable[[Mapping[str, str]], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """A form as it passes. When its model has come, `named` is awaited with the fields found so far; what is left of
    the form passes after that, so upstream does no work before."""
    reader: FieldReader | None = FieldReader(boundary, with_files=False)
    async for piece in form:
        if reader is not None:
            try:
                reader.feed(piece)
                if "model" in reader.found:
                    await named(reader.found)
                    reader = None
            except FormError:  # there is no telling what it names
                reader = None
        yield piece


async def after(held: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if held:
        yield held
    async for piece in rest:
        yield piece
