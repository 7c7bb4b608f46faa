"""Whether this package is compiled, and whether what was compiled is what its sources say.

`make compile` translates the modules of the request path to machine code (docs/decisions/0022-a-compiled-build.md) and
leaves `compiled.json` beside them: the SHA-256 of each of their sources. Python prefers a compiled module to the source
beside it, so one that is older than its source would be run without a word; here it is an error.
"""

from __future__ import annotations

import json
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

MANIFEST = "compiled.json"


class StaleBuildError(ImportError):
    """Compiled modules are not those of the sources beside them."""


def check(package: Path) -> bool:
    """Whether the package in this folder is compiled. Raises StaleBuildError if that cannot be relied upon."""
    libraries = [path for path in package.rglob("*") if path.name.endswith(tuple(EXTENSION_SUFFIXES))]
    sources = {
        f"{path.relative_to(package).with_name(path.name.partition('.')[0]).as_posix()}.py" for path in libraries
    }
    manifest = package / MANIFEST
    built: dict[str, str] = json.loads(manifest.read_text("utf-8")) if manifest.exists() else {}
    stale = sources.symmetric_difference(built)
    stale.update(name for name in sources - stale if sha256((package / name).read_bytes()).hexdigest() != built[name])
    if stale:
        raise StaleBuildError(
            f"the compiled modules in {package} are not of the sources beside them ({', '.join(sorted(stale)[:3])}). "
            "Build them again (make compile), or go back to plain Python (make pure)."
        )
    return bool(built)


COMPILED = check(Path(__file__).parent)
"""Whether the modules of the request path are machine code."""


def describe() -> str:
    """For people: `compiled` or `pure Python`."""
    return "compiled" if COMPILED else "pure Python"
