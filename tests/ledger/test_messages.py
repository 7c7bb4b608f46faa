"""The scripts' arguments are MessagePack as any other library writes it."""

from __future__ import annotations

import msgspec
import pytest
from quotapool.domain.quantities import Limits
from quotapool.ledger.grants import written_limits
from quotapool.ledger.messages import packed_array


@pytest.mark.parametrize("count", [0, 1, 2, 6, 15, 16, 255, 256, 65_535])
def test_an_array_of_packed_elements(count):
    whole = [["account", n, -1, 0.5] for n in range(count)]
    packed = packed_array([msgspec.msgpack.encode(one) for one in whole])
    assert bytes(packed) == msgspec.msgpack.encode(whole)


@pytest.mark.parametrize(
    ("limits", "packed"),
    [
        # https://github.com/msgpack/msgpack/blob/master/spec.md: c0-ff are -1 and so on, 3c is 60, cb a double
        (Limits(rpm=60), b"\x95\x3c\xff\xff\xff\xff"),
        (Limits(rpm=60.0, ipm=5), b"\x95\x3c\xff\xff\xff\x05"),
        (Limits(rpd=99.5), b"\x95\xff\xff\xcb\x40\x58\xe0\x00\x00\x00\x00\x00\xff\xff"),
    ],
)
def test_limits_take_as_few_bytes_as_their_numbers_need(limits, packed):
    assert msgspec.msgpack.encode(written_limits(limits)) == packed
