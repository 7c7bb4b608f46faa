"""Masking: what RFC 6455 §5.3 computes byte by byte, in C and in Python."""

from __future__ import annotations

import runpy
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.websocket import mask as module
from quotapool.websocket.mask import mask, mask_in_python


@pytest.mark.parametrize("apply", [mask, mask_in_python])
@given(key=st.binary(min_size=4, max_size=4), payload=st.binary(max_size=300))
def test_each_byte_is_combined_with_its_byte_of_the_key(apply, key, payload):
    masked = bytearray(payload)
    apply(key, masked)
    assert masked == bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    apply(key, masked)
    assert masked == payload


def test_masking_works_without_what_aiohttp_has_in_c(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp._websocket.helpers", None)
    found = runpy.run_path(module.__file__)
    assert found["mask"] is found["mask_in_python"]
