"""The parsers of foreign bytes under atheris: python -m tests.soak.fuzz_parsers [options of libFuzzer] CORPUS.

The first byte chooses the parser. What raises is written to a file; put it into tests/data/fuzz without its
first byte, and mend the parser.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["quotapool.openai", "quotapool.observe.redaction", "json"]):
    from tests.fakes.parsers import PARSERS

_CHOICES = list(PARSERS.values())


def run(data: bytes) -> None:
    if data:
        _CHOICES[data[0] % len(_CHOICES)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()
