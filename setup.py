"""What pyproject.toml cannot say: the README with links that lead somewhere from a package index, the man page, and, if
QUOTAPOOL_COMPILE=1 (`make compile`), the modules of the request path as machine code.

Which modules: `tool.quotapool.compiled` in pyproject.toml. Why, and how: docs/decisions/0022-a-compiled-build.md.
"""

import hashlib
import json
import os
import re
import shutil
import tomllib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
PACKAGE = HERE / "proxy" / "quotapool"
PYPROJECT = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))
COMPILED = PYPROJECT["tool"]["quotapool"]["compiled"]

_FENCE = re.compile(r"^(```.*?^```[^\n]*$)", re.DOTALL | re.MULTILINE)
# Where Markdown and the HTML in it name another place: [text](here), ![picture](here), [label]: here, <img src="here">.
_PLACE = re.compile(r"""(!?\[[^\]\n]*\]\(|^\[[^\]\n]+\]:[ ]+|\b(?:src|srcset|href)=")([^)\s">]+)""", re.MULTILINE)


def readme() -> str:
    """README.md for a reader who has no repository around it: places in the repository become addresses."""
    source, version = PYPROJECT["project"]["urls"]["Source"], PYPROJECT["project"]["version"]

    def absolute(found: re.Match[str]) -> str:
        before, place = found.groups()
        if re.match(r"[a-z][a-z0-9+.-]*:|//", place):
            return found[0]
        path = place if not place.startswith("#") else f"README.md{place}"  # an index gives headings no anchors
        picture = before.startswith("!") or before in {'src="', 'srcset="'}
        return f"{before}{source}/{'raw' if picture else 'blob'}/v{version}/{path}"

    # Every second part is code, which stays as it is.
    parts = _FENCE.split((HERE / "README.md").read_text("utf-8"))
    return "".join(part if number % 2 else _PLACE.sub(absolute, part) for number, part in enumerate(parts))


def digests() -> dict[str, str]:
    return {name: hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest() for name in COMPILED}


class Build(build):
    """Begins with an empty folder: setuptools packs all that it finds there, libraries of an older build too."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class Compile(build_ext):
    """Also leaves what `quotapool.build` checks at start: the digest of each compiled source."""

    def build_extensions(self) -> None:
        """On all processors: setuptools compiles the files of a library one after the other."""
        compiler = self.compiler
        one, all_of_them = compiler._compile, compiler.compile  # noqa: SLF001 - it has no public way

        def compile_together(*args: Any, **kwargs: Any) -> list[str]:
            begun: list[Future[None]] = []
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                compiler._compile = lambda *file: begun.append(pool.submit(one, *file))  # noqa: SLF001
                objects = all_of_them(*args, **kwargs)
            for file in begun:
                file.result()  # raises CompileError
            return objects

        compiler.compile = compile_together
        super().build_extensions()

    def run(self) -> None:
        super().run()
        Path(self.build_lib, "quotapool", "compiled.json").write_text(json.dumps(digests(), indent=1) + "\n")


MAN_PAGES = sorted(str(path.relative_to(HERE)) for path in HERE.glob("packaging/*.1"))
GENERAL = {
    "long_description": readme(),
    "long_description_content_type": "text/markdown",
    "data_files": [("share/man/man1", MAN_PAGES)] if MAN_PAGES else [],
}

if os.environ.get("QUOTAPOOL_COMPILE") == "1":
    from mypyc.build import mypycify

    sources = [str((PACKAGE / name).relative_to(HERE)) for name in COMPILED]
    # The code of all is one library, beside the package. By its name no module can find that of another build.
    name = "quotapool_" + hashlib.sha256("".join(digests().values()).encode()).hexdigest()[:12]
    modules = mypycify(sources, debug_level="0", multi_file=True, group_name=name, target_dir="build/mypyc")
    setup(**GENERAL, ext_modules=modules, cmdclass={"build": Build, "build_ext": Compile})
else:
    setup(**GENERAL, cmdclass={"build": Build})
