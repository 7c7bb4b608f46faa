"""A store as the tests ask for it: with time to answer.

The product gives a call a quarter of a second. A machine that does other things beside the tests can stand still for
longer, and a test that counts on the store would fail for that. What a deadline does is tested with one of the test's
own.
"""

from __future__ import annotations

from typing import Final

from quotapool.store import store
from quotapool.store.store import Store

PATIENT_S: Final = 30.0


def connect(url: str, *, timeout_s: float = PATIENT_S, ca_file: str | None = None) -> Store:
    """As `quotapool.store.store.connect`."""
    return store.connect(url, timeout_s=timeout_s, ca_file=ca_file)  # noqa: TID251 - the one place
