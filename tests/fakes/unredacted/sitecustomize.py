"""Switches redaction off in every process that finds this folder first on PYTHONPATH: proof that a test sees leaks."""

from typing import Any

from quotapool.domain import redact
from quotapool.observe import redaction


def _as_it_is(text: str) -> str:
    return text


def _bytes_as_they_are(_: redaction.Redactor, data: bytes) -> bytes:
    return data


def _clean(_: redaction.Redactor, text: str) -> str:
    return text


redact.mask = _as_it_is
switched: Any = redaction
switched.mask = _as_it_is
switched.Redactor.clean = _clean
switched.Redactor.clean_bytes = _bytes_as_they_are
