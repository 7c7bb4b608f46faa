"""A whole text as the deltas of a stream, with the log probabilities that belong to each."""

from __future__ import annotations

from typing import Any, Final

PIECE: Final = 512
"""Characters of a delta (bytes, if there are log probabilities). OpenAI sends a token each time; a replay need not, and
what wraps a delta is 200 bytes."""

_CONTINUES: Final = 0b1000_0000  # a byte of UTF-8 that is not the first of its character: 10xxxxxx
_FIRST_BITS: Final = 0b1100_0000


def pieces(text: str) -> list[str]:
    """Joined, they are the text; none for an empty one."""
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


def pieces_with(text: str, logprobs: object) -> list[tuple[str, list[Any]]]:
    """(piece, the log probabilities of its tokens). `logprobs`: decoded, `[{token, bytes, …}, …]` of chat or responses,
    or something else, which counts as none.

    A token may be a part of a character, so a piece ends where a token and a character do. From a token on that is not
    in the text, all that is left is one piece.
    """
    if type(logprobs) is not list or not logprobs:
        return [(piece, []) for piece in pieces(text)]
    whole = text.encode(errors="surrogatepass")
    found: list[tuple[str, list[Any]]] = []
    group: list[Any] = []
    start = at = 0
    for number, entry in enumerate(logprobs):
        spelled = _bytes_of(entry)
        if spelled is None or not whole.startswith(spelled, at):
            group += logprobs[number:]
            break
        group.append(entry)
        at += len(spelled)
        if at - start >= PIECE and (at == len(whole) or whole[at] & _FIRST_BITS != _CONTINUES):
            found.append((whole[start:at].decode(errors="surrogatepass"), group))
            group = []
            start = at
    if group or start < len(whole):
        found.append((whole[start:].decode(errors="surrogatepass"), group))
    return found


def _bytes_of(entry: object) -> bytes | None:
    if type(entry) is not dict:
        return None
    spelled = entry.get("bytes")
    if type(spelled) is list:
        try:
            return bytes(spelled)
        except (TypeError, ValueError):
            return None
    token = entry.get("token")
    return token.encode(errors="surrogatepass") if type(token) is str else None
