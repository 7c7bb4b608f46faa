"""A compiled module that is not of the source beside it is never run."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from quotapool import __version__, build
from quotapool.build import MANIFEST, StaleBuildError, check
from quotapool.request import path

SUFFIX = EXTENSION_SUFFIXES[0]


@pytest.fixture
def package(tmp_path) -> Path:
    """As `make compile` leaves it: two sources, one of them compiled, and the digest of that one."""
    for name in ("plain.py", "request/path.py"):
        source = tmp_path / name
        source.parent.mkdir(exist_ok=True)
        source.write_text(f"# {name}\n")
    (tmp_path / f"request/path{SUFFIX}").touch()
    (tmp_path / MANIFEST).write_text(json.dumps({"request/path.py": sha256(b"# request/path.py\n").hexdigest()}))
    return tmp_path


def test_a_package_without_libraries_is_plain_python(tmp_path):
    (tmp_path / "path.py").touch()
    assert check(tmp_path) is False


def test_a_package_whose_libraries_are_of_its_sources_is_compiled(package):
    assert check(package) is True
    (package / "plain.py").write_text("# changed, but not compiled\n")
    assert check(package) is True


def change_the_source(package: Path) -> None:
    (package / "request/path.py").write_text("# request/path.py, newer\n")


def lose_the_manifest(package: Path) -> None:
    (package / MANIFEST).unlink()


def lose_the_library(package: Path) -> None:
    (package / f"request/path{SUFFIX}").unlink()


def leave_another_library(package: Path) -> None:
    (package / f"plain{SUFFIX}").touch()


def leave_one_of_any_python(package: Path) -> None:
    (package / "plain.abi3.so").touch()


SPOILS = [change_the_source, lose_the_manifest, lose_the_library, leave_another_library, leave_one_of_any_python]


@pytest.mark.parametrize("spoil", SPOILS)
def test_what_is_not_of_its_source_is_an_error_that_says_what_to_do(package, spoil):
    spoil(package)
    with pytest.raises(StaleBuildError, match=r"(request/path|plain)\.py.*make compile.*make pure"):
        check(package)


def test_it_is_told_which_build_runs():
    is_library = str(path.__file__).endswith(SUFFIX)
    assert is_library is build.COMPILED
    said = subprocess.run([sys.executable, "-m", "quotapool", "--version"], capture_output=True, text=True, check=True)
    kind = "compiled" if is_library else "pure Python"
    assert said.stdout.startswith(f"quotapool {__version__} ({kind}, Python 3.")
