"""What is built without QUOTAPOOL_COMPILE=1 holds Python and nothing else, whatever was built before.

And what a package index shows of it.

The compiled wheel has its libraries counted where it is built: in tests/end_to_end/test_container.py and `make wheels`.
"""

from __future__ import annotations

import email.message
import email.parser
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_SOURCES = shutil.ignore_patterns(
    *("__pycache__", "*.egg-info", "node_modules", "build", "dist", "var", ".git", ".*_cache", ".venv*", ".hypothesis")
)
MAN_PAGE = "packaging/quotapool.1"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with a wheel and a source distribution, made in a copy in which compiled modules were built before."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT, source, ignore=NOT_SOURCES, dirs_exist_ok=True)
    (source / MAN_PAGE).touch()
    left = source / "build" / "lib" / "quotapool"
    left.mkdir(parents=True)
    for name in (f"build{EXTENSION_SUFFIXES[0]}", "compiled.json", "long_gone.py"):
        (left / name).touch()
    script = "import sys; from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, capture_output=True, timeout=300)
    return source / "dist"


def test_the_wheel_in_plain_python_fits_everywhere_and_holds_no_library(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    manual = (
        f"quotapool-{PROJECT['version']}.data/data/share/man/man1/quotapool.1"  # where pip puts it below the prefix
    )
    assert manual in packed
    packed.remove(manual)
    package = ROOT / "proxy" / "quotapool"
    ours = [path for path in package.rglob("*") if path.suffix in {".py", ".lua", ".typed"}]
    ours += [path for path in (package / "dashboard" / "files").iterdir() if path.is_file()]
    assert packed == {str(path.relative_to(ROOT / "proxy")) for path in ours}


def test_the_source_distribution_can_be_compiled_and_has_tests_documents_and_configuration(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    left_out = {"dist", "build", "var", "node_modules", "__pycache__"}
    sources = {
        str(path.relative_to(ROOT))
        for name in (
            "proxy",
            "tests",
            "docs",
            "config",
            "demo",
            "benchmarks",
            "dashboard",
            "packaging",
            ".ci",
            ".github",
        )
        for path in (ROOT / name).rglob("*")
        if path.is_file() and not left_out & set(path.parts) and ".egg-info/" not in str(path)
    }
    sources |= {path.name for pattern in ("*.md", "*.txt", "*.toml", "*.py", "*.in") for path in ROOT.glob(pattern)}
    sources |= {"LICENSE", "Makefile", "Dockerfile", ".dockerignore"}
    assert len(sources) > 900
    assert sources - packed == set()
    assert not [name for name in packed if name.endswith((".so", ".c", "compiled.json", ".pyc"))]


# ---- what a package index shows ----


@pytest.fixture(scope="module")
def metadata(built) -> email.message.Message:
    (wheel,) = built.glob("*.whl")
    opened = zipfile.ZipFile(wheel)
    (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
    return email.parser.Parser().parsestr(opened.read(name).decode())


def places(html: str) -> dict[str, str]:
    """Each address that the page names, with the tag it stands in."""
    return {place: tag for tag, place in re.findall(r"<(a|img|source)\b[^>]*?(?:href|src|srcset)=\"([^\"]+)\"", html)}


def test_every_link_and_picture_of_the_readme_leads_somewhere_from_a_package_index(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    found = places(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert len(found) > 20
    source, version = PROJECT["urls"]["Source"], PROJECT["version"]
    for place, tag in found.items():
        assert urlsplit(place).scheme == "https", place
        if place.startswith(f"{source}/"):
            kind, tree, *path = place.removeprefix(f"{source}/").partition("#")[0].split("/")
            assert (kind, tree) == ("blob" if tag == "a" else "raw", f"v{version}")
            assert ROOT.joinpath(*path).exists(), place
    assert "img" in found.values()


def test_code_in_the_readme_stays_as_it_is(metadata):
    fence = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    code = fence.findall((ROOT / "README.md").read_text())
    assert code
    assert fence.findall(str(metadata.get_payload())) == code


def test_a_package_index_is_told_where_everything_is_and_which_pythons_there_are(metadata):
    urls = dict(value.split(", ", 1) for value in metadata.get_all("Project-URL", []))
    assert urls == PROJECT["urls"]
    assert urls.keys() == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert {urlsplit(url).scheme for url in urls.values()} == {"https"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_every_place_that_names_the_repository_names_that_of_pyproject():
    address = re.compile(r"https://[\w.-]+/[\w.-]+/quotapool\b")
    found: dict[str, set[str]] = {}
    for name in ("proxy", "docs", "config", "packaging", ".ci", ".github", "."):
        for path in (ROOT / name).glob("*" if name == "." else "**/*"):
            if path.is_file() and path.suffix not in {".png", ".so", ".pyc", ".tsv"}:
                for place in address.findall(path.read_text(errors="replace")):
                    found.setdefault(place, set()).add(str(path.relative_to(ROOT)))
    assert found.keys() == {PROJECT["urls"]["Source"]}, found
