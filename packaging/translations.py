"""Is each translation as new as its English page, and as whole? Without arguments this says so; with translations, it
confirms that they say what their pages say now.

A translation's first line names the digest of the page that it was made from, heading by heading:

    <!-- translation of keys.md: 3fa1c09b 9e12aa40 … -->
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- translation of (\S+):((?: [0-9a-f]{8})*) -->\n")
FENCE = re.compile(r"^ *(?:```|~~~).*?^ *(?:```|~~~)\s*$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +.+$", re.MULTILINE)
NAME = re.compile(r"(?<!`)`[^`]+`(?!`)")
FIGURE = re.compile(r"(?<![\w.])\d[\d.,]*(?<![.,])")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMENT = re.compile(r"(?:^| +)#.*$", re.MULTILINE)
CONFIRM = "python packaging/translations.py"


def translations(root: Path = ROOT) -> list[Path]:
    return sorted([*root.glob("*.zh-CN.md"), *(root / "docs").rglob("*.zh.md")])


def source_of(translation: Path) -> Path:
    return translation.with_name(translation.name.replace(".zh-CN.md", ".md").replace(".zh.md", ".md"))


class Section(NamedTuple):
    heading: str
    """With its `#`s; "" for what stands before the first one."""
    text: str

    @property
    def digest(self) -> str:
        """Spaces and line breaks do not count: a paragraph that was only wrapped again says the same."""
        return hashlib.sha256(" ".join(self.text.split()).encode()).hexdigest()[:8]


def sections(text: str) -> list[Section]:
    code = [block.span() for block in FENCE.finditer(text)]
    starts = [
        heading.start()
        for heading in HEADING.finditer(text)
        if not any(start <= heading.start() < end for start, end in code)
    ]
    ends = [*starts[1:], len(text)]
    found = [Section(text[a:b].partition("\n")[0].strip(), text[a:b]) for a, b in zip(starts, ends, strict=True)]
    before = text[: starts[0] if starts else len(text)]
    return [Section("", before), *found] if before.strip() else found


def mark_for(source: Path) -> str:
    digests = " ".join(section.digest for section in sections(source.read_text()))
    return f"<!-- translation of {source.name}: {digests} -->\n"


def shape(text: str) -> list[int]:
    """The levels of the headings; 0 for what stands before the first one."""
    return [len(section.heading) - len(section.heading.lstrip("#")) for section in sections(text)]


def slug(heading: str) -> str:
    """Its anchor at GitHub, which in the site leads to the same place."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")


def destination(page: Path, link: str) -> str:
    """Where a link leads, told alike for a page and its translation: the page, and which of its headings."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if "://" in link or not target.is_file() or target.suffix != ".md":
        return link.replace(".zh.", ".")  # pictures have a language, too
    anchors = [slug(section.heading) for section in sections(target.read_text()) if section.heading]
    place = f"#{anchors.index(anchor) if anchor in anchors else anchor}" if anchor else ""
    return os.path.relpath(source_of(target), page.parent) + place


def kept(page: Path, section: Section) -> Counter[str]:
    """What a translation takes over as it is: names in code, figures, rows of tables, where links lead, commands."""
    prose = FENCE.sub("", section.text)
    rows = [f"a row of {line.count('|') - 1} cells" for line in prose.splitlines() if line.startswith("|")]
    links = [f"a link to {destination(page, link)}" for link in LINK.findall(prose)]
    prose = LINK.sub(lambda link: link[0].partition("](")[0], " ".join(prose.split()))
    code = COMMENT.sub("", "\n".join(FENCE.findall(section.text))).splitlines()
    commands = [line for line in code if line.strip() and not line.startswith("```")]
    return Counter([*NAME.findall(prose), *FIGURE.findall(NAME.sub("", prose)), *rows, *links, *commands])


def incomplete(translation: Path, text: str) -> list[str]:
    """Sections that have less or more than those of the source; both have the same headings."""
    source = source_of(translation)
    found = []
    for theirs, ours in zip(sections(source.read_text()), sections(text), strict=True):
        wanted, given = kept(source, theirs), kept(translation, ours)
        for what, parts in (("lacks", wanted - given), ("adds", given - wanted)):
            if parts:
                where = ours.heading or "its beginning"
                found.append(f"{translation.name}: {where} {what} {', '.join(sorted(parts.elements()))}")
    return found


def in_english(translation: Path, text: str) -> list[str]:
    """Links to a page of which there is a translation. A page's own source is another matter: readers may want that."""
    found = []
    for link in LINK.findall(FENCE.sub("", text)):
        target = (translation.parent / link.partition("#")[0]).resolve()
        others = [target.with_name(target.stem + ending) for ending in (".zh.md", ".zh-CN.md")]
        if target.suffix == ".md" and target != source_of(translation):
            found += [f"{translation.name}: {link} should be {other.name}" for other in others if other.exists()]
    return found


def problems(translation: Path) -> list[str]:
    """What keeps it from being its source's translation: nothing, or what an author has to do."""
    source = source_of(translation)
    if not source.exists():
        return [f"{translation.name}: there is no {source.name}"]
    text = translation.read_text()
    mark = MARK.match(text)
    if not mark or mark[1] != source.name:
        line = f"<!-- translation of {source.name}: … -->"
        return [f"{translation.name}: its first line is not `{line}`; run `{CONFIRM} {shown(translation)}`"]
    found = []
    known, now = mark[2].split(), sections(source.read_text())
    if known != [section.digest for section in now]:
        new = [section.heading or "its beginning" for section in now if section.digest not in known]
        gone = len([digest for digest in known if digest not in {section.digest for section in now}])
        what = ", ".join(new) or ("a section that was taken out" if gone else "the order of its sections")
        found.append(
            f"{translation.name} is older than {source.name}: {what}. See `{difference(translation)}`, "
            f"translate it, then run `{CONFIRM} {shown(translation)}`"
        )
    theirs, ours = shape(source.read_text()), shape(text[mark.end() :])
    if theirs != ours:
        where = next(i for i, (a, b) in enumerate(zip_longest(theirs, ours)) if a != b)
        found.append(f"{translation.name}: its headings are not those of {source.name}, from heading {where + 1} on")
    elif not found:
        found += incomplete(translation, text[mark.end() :])
    return found + in_english(translation, text)


def shown(path: Path) -> str:
    return os.path.relpath(path, ROOT)


def difference(translation: Path) -> str:
    """One command that shows what changed in the source since the translation was confirmed."""
    source, translated = shown(source_of(translation)), shown(translation)
    return f"git diff $(git log -1 --format=%h -G'translation of' -- {translated}) -- {source}"


def confirm(translation: Path) -> None:
    text = translation.read_text()
    translation.write_text(mark_for(source_of(translation)) + MARK.sub("", text, count=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translation", nargs="*", type=Path, help="confirm that it says what its source says now")
    for path in parser.parse_args().translation:
        if path.resolve() not in translations():
            parser.error(f"{path} is no translation")
        confirm(path.resolve())
    bad = 0
    for path in translations():
        found = problems(path)
        bad += bool(found)
        print("\n".join(found) or f"{shown(path)} is up to date")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
