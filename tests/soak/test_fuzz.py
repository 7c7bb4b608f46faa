"""Five minutes of a coverage-guided fuzzer over every parser of foreign bytes: none raises, hangs or fills memory."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fakes.parsers import CORPUS, PARSERS

SECONDS = 300
SLOWEST_S = 5  # for one input of at most LONGEST bytes
LONGEST = 4096
MOST_MIB = 1024


@pytest.mark.skipif(find_spec("atheris") is None, reason="no atheris: `make soak` installs it if it has a wheel")
def test_no_input_that_the_fuzzer_finds_breaks_a_parser(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for path in CORPUS.iterdir():
        for number, name in enumerate(PARSERS):
            (corpus / f"{path.name}-{name}").write_bytes(bytes([number]) + path.read_bytes())
    options = [f"-max_total_time={SECONDS}", f"-timeout={SLOWEST_S}", f"-max_len={LONGEST}",
               f"-rss_limit_mb={MOST_MIB}", f"-artifact_prefix={tmp_path}/"]  # fmt: skip
    command = [sys.executable, "-m", "tests.soak.fuzz_parsers", *options, str(corpus)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    print(done.stderr[-400:])
    assert done.returncode == 0, done.stderr[-4000:]
