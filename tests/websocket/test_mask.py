"""Masking: what RFC 6455 §5.3 computes byte by byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from quotapool.websocket.mask import mask


@given(key=st.binary(min_size=4, max_size=4), payload=st.binary(max_size=300))
def test_each_byte_is_combined_with_its_byte_of_the_key(key, payload):
    masked = bytearray(payload)
    mask(key, masked)
    assert masked == bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    mask(key, masked)
    assert masked == payload
