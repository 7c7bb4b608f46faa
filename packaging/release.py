"""What the parts of a release have to agree on, and what they are told of it.

    python packaging/release.py check [--release 1.2.3]    every place that names the version names the same
    python packaging/release.py notes 1.2.3                that version's part of CHANGELOG.md
    python packaging/release.py show version|source        from pyproject.toml
    python packaging/release.py sbom FILE                  add what is in the built page to a bill of materials

Exit codes: 0; 1, with a line for each thing that is wrong. Needs Python's own library only, but for `sbom` that of
cyclonedx, which checks the result.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
UNRELEASED = "Unreleased"


def project(root: Path) -> dict[str, Any]:
    return dict(tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"])


def versions(root: Path) -> Iterator[tuple[str, str]]:
    """(place, version) of each place that names the version of this project."""
    package = "proxy/quotapool/__init__.py"
    yield package, re.findall(r'^__version__ = "(.*)"$', (root / package).read_text("utf-8"), re.MULTILINE)[0]
    for file in sorted((root / "config").rglob("*.y*ml")):
        place = str(file.relative_to(root))
        text = file.read_text("utf-8")
        for line in re.findall(r"^[ -]*image: (?:\S+/)?quotapool:([^\s@]+)", text, re.MULTILINE):
            yield f"{place}: image", line
        if file.name == "Chart.yaml":
            for name, value in re.findall(r"^(version|appVersion): *[\"']?([^\s\"']+)", text, re.MULTILINE):
                yield f"{place}: {name}", value
    for file in sorted((root / "dist").glob("*")) if (root / "dist").is_dir() else ():
        if found := re.match(r"quotapool-(\d[^-]*?)(?:-|\.tar\.gz$|\.tgz$|\.cdx\.json$)", file.name):
            yield f"dist/{file.name}", found[1]


def section(changelog: str, version: str) -> tuple[str, str] | None:
    """(what stands behind the version in its heading, the text below it); None: there is no such heading."""
    parts = re.split(r"^## \[([^\]\n]+)\](.*)$", changelog, flags=re.MULTILINE)
    found = dict(zip(parts[1::3], zip(parts[2::3], parts[3::3], strict=True), strict=True))
    return found.get(version)


def problems(root: Path, release: str | None) -> Iterator[str]:
    version = str(project(root)["version"])
    for place, named in versions(root):
        if named != version:
            yield f"{place} names {named}, but pyproject.toml {version}"
    changelog = (root / "CHANGELOG.md").read_text("utf-8")
    if release is None:
        if section(changelog, version) is None and section(changelog, UNRELEASED) is None:
            yield f"CHANGELOG.md has neither [{version}] nor [{UNRELEASED}]"
        return
    if release != version:
        yield f"this is to be the release {release}, but pyproject.toml names {version}"
    found = section(changelog, release)
    if found is None or not re.fullmatch(r" - \d{4}-\d\d-\d\d", found[0]):
        yield f"CHANGELOG.md has no heading ## [{release}] - with the day of the release"
    elif not found[1].strip():
        yield f"CHANGELOG.md says nothing about {release}"
    if (waiting := section(changelog, UNRELEASED)) is not None and waiting[1].strip():
        yield f"CHANGELOG.md still has changes under [{UNRELEASED}]"


def add_the_page(file: Path, root: Path) -> None:
    """The page is one bundle, in which no scanner finds anything: it holds what dashboard/package-lock.json installs
    for more than building."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bill = json.loads(file.read_text("utf-8"))
    ours = next(entry for entry in bill["dependencies"] if entry["ref"] == bill["metadata"]["component"]["bom-ref"])
    lock = json.loads((root / "dashboard" / "package-lock.json").read_text("utf-8"))
    for place, package in sorted(lock["packages"].items()):
        if place and not package.get("dev"):
            name = place.rpartition("node_modules/")[2]
            address = f"pkg:npm/{name.replace('@', '%40')}@{package['version']}"
            bill["components"].append(
                {
                    "type": "library",
                    "bom-ref": address,
                    "name": name,
                    "version": package["version"],
                    "purl": address,
                    "licenses": [{"license": {"id": package["license"]}}],
                }
            )
            bill["dependencies"].append({"ref": address})
            ours["dependsOn"].append(address)
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"{file}: {wrong}")
    file.write_text(text, "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("--release", metavar="VERSION")
    commands.add_parser("notes").add_argument("version")
    commands.add_parser("show").add_argument("what", choices=["version", "source"])
    commands.add_parser("sbom").add_argument("file", type=Path)
    options = parser.parse_args()
    if options.command == "show":
        print(project(ROOT)["version"] if options.what == "version" else project(ROOT)["urls"]["Source"])
    elif options.command == "sbom":
        add_the_page(options.file, ROOT)
    elif options.command == "notes":
        found = section((ROOT / "CHANGELOG.md").read_text("utf-8"), options.version)
        if found is None:
            print(f"CHANGELOG.md has no heading ## [{options.version}]", file=sys.stderr)
            return 1
        print(found[1].strip())
    else:
        found_wrong = list(problems(ROOT, options.release))
        print("\n".join(found_wrong), file=sys.stderr, end="\n" if found_wrong else "")
        return 1 if found_wrong else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
