"""Compiles the modules of the request path, if QUOTAPOOL_COMPILE=1 (`make compile`); all else is in pyproject.toml.

Which modules: `tool.quotapool.compiled` in pyproject.toml. Why, and how: docs/decisions/0022-a-compiled-build.md.
"""

import hashlib
import json
import os
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
PACKAGE = HERE / "proxy" / "quotapool"
COMPILED = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["quotapool"]["compiled"]


def digests() -> dict[str, str]:
    return {name: hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest() for name in COMPILED}


class Build(build):
    """Begins with an empty folder: setuptools packs all that it finds there, libraries of an older build too."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class Compile(build_ext):
    """Also leaves what `quotapool.build` checks at start: the digest of each compiled source."""

    def run(self) -> None:
        super().run()
        Path(self.build_lib, "quotapool", "compiled.json").write_text(json.dumps(digests(), indent=1) + "\n")


if os.environ.get("QUOTAPOOL_COMPILE") == "1":
    from mypyc.build import mypycify

    sources = [str((PACKAGE / name).relative_to(HERE)) for name in COMPILED]
    # The code of all is one library, beside the package. By its name no module can find that of another build.
    name = "quotapool_" + hashlib.sha256("".join(digests().values()).encode()).hexdigest()[:12]
    modules = mypycify(sources, debug_level="0", multi_file=True, group_name=name, target_dir="build/mypyc")
    setup(ext_modules=modules, cmdclass={"build": Build, "build_ext": Compile})
else:
    setup(cmdclass={"build": Build})
