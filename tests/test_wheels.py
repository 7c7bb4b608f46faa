"""What is built without QUOTAPOOL_COMPILE=1 holds Python and nothing else, whatever was built before.

The compiled wheel has its libraries counted where it is built: in tests/end_to_end/test_container.py and `make wheels`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "pyproject.toml",
    "setup.py",
    "requirements.txt",
    "requirements-build.txt",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with a wheel and a source distribution, made in a copy in which compiled modules were built before."""
    source = tmp_path_factory.mktemp("source")
    for name in FILES:
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "proxy", source / "proxy", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    left = source / "build" / "lib" / "quotapool"
    left.mkdir(parents=True)
    for name in (f"build{EXTENSION_SUFFIXES[0]}", "compiled.json", "long_gone.py"):
        (left / name).touch()
    script = "import sys; from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, capture_output=True, timeout=120)
    return source / "dist"


def test_the_wheel_in_plain_python_fits_everywhere_and_holds_no_library(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "proxy" / "quotapool"
    ours = [path for path in package.rglob("*") if path.suffix in {".py", ".lua", ".typed"}]
    ours += [path for path in (package / "dashboard" / "files").iterdir() if path.is_file()]
    assert packed == {str(path.relative_to(ROOT / "proxy")) for path in ours}


def test_the_source_distribution_can_be_compiled(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    assert set(FILES) <= packed
    assert {
        f"proxy/quotapool/{name}"
        for name in ("request/path.py", "ledger/lua/ledger/batch.lua", "dashboard/files/index.html", "py.typed")
    } <= packed
    assert not [name for name in packed if name.endswith((".so", ".c", "compiled.json")) or name.startswith("tests")]
