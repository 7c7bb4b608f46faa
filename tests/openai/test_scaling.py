"""The work and the memory of every parser that sees foreign bytes grow no faster than these bytes do."""

from __future__ import annotations

import gc
import time
import tracemalloc

import pytest
from quotapool.openai.session_events import may_create

from tests.fakes.parsers import ATOMS, PARSERS, PLACES, Parser

pytestmark = pytest.mark.alone
SIZE = 16 * 1024
QUICK_S = 0.05  # of CPU for four times SIZE: no need to look closer
MOST_S_A_BYTE = 4e-6  # whatever the slope
MOST_BYTES_A_BYTE = 250


def text_of(place: tuple[bytes, bytes], atom: bytes, size: int) -> bytes:
    return place[0] + atom * (size // len(atom)) + place[1]


def cost_s(parser: Parser, text: bytes, times: int) -> float:
    """CPU seconds, the best of some; without the collection of garbage, which depends on all else in this process."""
    best = float("inf")
    gc.disable()
    try:
        for _ in range(times):
            began = time.process_time()
            parser(text)
            best = min(best, time.process_time() - began)
    finally:
        gc.enable()
    return best


def peak_of(parser: Parser, text: bytes) -> int:
    """Bytes that the parser holds at most."""
    tracemalloc.start()
    parser(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("place", range(len(PLACES)))
def test_work_grows_with_the_bytes(name, place):
    slow = []
    for atom in ATOMS:
        large = text_of(PLACES[place], atom, 4 * SIZE)
        if cost_s(PARSERS[name], large, 1) < QUICK_S:
            continue
        costs = [cost_s(PARSERS[name], text_of(PLACES[place], atom, times * SIZE), 3) for times in (1, 2, 4)]
        small, _, whole = costs
        if whole > MOST_S_A_BYTE * len(large) or whole > 8 * max(small, 0.005):  # quadratic: 16 times
            slow.append((atom, costs))
    assert slow == []


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("place", range(len(PLACES)))
def test_memory_grows_with_the_bytes(name, place):
    large = []
    for atom in ATOMS:
        text = text_of(PLACES[place], atom, SIZE)
        peak = peak_of(PARSERS[name], text)
        if peak > MOST_BYTES_A_BYTE * len(text):
            large.append((atom, peak))
    assert large == []


@pytest.mark.parametrize("atom", [b"[],", b"{},", b'"a",', b'{"a":0},', b"1,", b"[" * 300 + b"]" * 300 + b","])
@pytest.mark.parametrize("name", ["request", "names", "event"])
def test_a_large_body_takes_bounded_work_and_memory(name, atom):
    """48 MB, as in the field: 7 s and 1.5 GiB."""
    text = b'{"model":"m","type":"response.create","file_ids":[' + atom * (48_000_000 // len(atom)) + b"1]}"
    parser = PARSERS[name] if name != "event" else may_create
    assert cost_s(parser, text, 3) < 0.5  # a tenth of a second where this was measured
    assert peak_of(parser, text) < 64 * 2**20
