"""An error that is kept lets go of where it came from."""

from __future__ import annotations


def release_frames(error: BaseException | None) -> None:
    """Forget the frames of an error and of what caused it: they hold the request, with its body, and it may hold the
    error. All that would wait for the garbage collector, which seldom comes by."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
