"""Hooks of the site: navigation from docs/README.md, links, anchors of translations, an index for each language."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jieba
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]

# It would say how long it took, and read a cache from /tmp, which anybody can have put there.
jieba.setLogLevel(logging.WARNING)
jieba.dt.tmp_dir = sys.prefix

FENCE = re.compile(r"^ *(?:```|~~~).*?^ *(?:```|~~~)\s*$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#{1,6}) +(.+?) *$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
MARK = re.compile(r"\A<!-- translation of .*? -->\s*")
TITLE = re.compile(r"^# +(.+?) *$", re.MULTILINE)
slug = slugify(case="lower")


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """`markdown` with everything changed that is not a block of code."""
    parts, end = [], 0
    for block in FENCE.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


# ---- navigation: the sections of docs/README.md, each page where it is first named ----


def contents(index: str) -> Iterator[tuple[str, list[str]]]:
    """The sections of the index, each with its pages."""
    seen: set[str] = set()
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        pages = []
        for _, target in LINK.findall(section):
            page = target.partition("#")[0]
            if page.endswith(".md") and not page.startswith("..") and page not in seen:
                seen.add(page)
                pages.append(page)
        yield section.partition("\n")[0].strip(), pages


def on_config(config: Any) -> Any:
    docs = Path(config.docs_dir)
    sections = [one for one in contents((docs / "README.md").read_text()) if one[1]]
    config.nav = ["README.md", *({title: pages} for title, pages in sections)]
    chinese = docs / "README.zh.md"
    if chinese.exists():
        titles = [title for title, pages in contents(chinese.read_text().replace(".zh.md", ".md")) if pages]
        if len(titles) != len(sections):
            raise PluginError(f"docs/README.zh.md has {len(titles)} sections of pages, docs/README.md {len(sections)}")
        zh = next(one for one in config.plugins["i18n"].config.languages if one.locale == "zh")
        zh.nav_translations = dict(zip((title for title, _ in sections), titles, strict=True))
    config.extra["social"] = [{"icon": "fontawesome/brands/github", "link": SOURCE, "name": "GitHub"}]
    return config


# ---- pages ----


def address(target: str, page: str, docs: Path) -> str:
    """Where a link of `page` (a path in docs) leads in the site; what is no page of it is at the repository."""
    path, hash_, anchor = target.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return target
    absolute = Path(os.path.normpath(docs / PurePosixPath(page).parent / path))
    if not absolute.exists() or (absolute.is_relative_to(docs) and not absolute.is_dir()):
        return target
    kind = "tree" if absolute.is_dir() else "blob"
    return f"{SOURCE}/{kind}/main/{absolute.relative_to(ROOT).as_posix()}{hash_}{anchor}"


def anchored(markdown: str, source: str) -> str:
    """A translation whose headings have the anchors of its source, too: links of other pages lead there."""
    names = iter([anchor(heading) for heading in headings(source)])

    def with_anchor(heading: re.Match[str]) -> str:
        name = next(names, "")
        return heading[0] if name in {"", anchor(heading)} else f'{heading[1]} {heading[2]}<a id="{name}"></a>'

    return outside_code(markdown, lambda text: HEADING.sub(with_anchor, text))


def anchor(heading: re.Match[str]) -> str:
    """ "" of a page's title: nobody links there."""
    return "" if heading[1] == "#" else str(slug(heading[2].replace("`", ""), "-"))


def headings(markdown: str) -> Iterator[re.Match[str]]:
    return HEADING.finditer(FENCE.sub("", markdown))


def named(text: str, target: str, page: str, docs: Path) -> str:
    """What a link says: a page's title, where the text is its file's name, in a translation without the language."""
    path = docs / PurePosixPath(page).parent / target.partition("#")[0]
    if path.name.replace(".zh.md", ".md") != text or path.suffix != ".md" or not path.is_file():
        return text
    title = TITLE.search(path.read_text())
    return title[1] if title else text


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    path, docs = page.file.src_uri, Path(config.docs_dir)

    def with_address(link: re.Match[str]) -> str:
        text, target = link.groups()
        return f"[{named(text, target, path, docs)}]({address(target, path, docs)})"

    def with_addresses(text: str) -> str:
        return LINK.sub(with_address, text)

    if path.endswith(".zh.md"):
        markdown = MARK.sub("", markdown)  # a page's title is what it begins with
        markdown = anchored(markdown, (docs / path.replace(".zh.md", ".md")).read_text())
    return outside_code(markdown, with_addresses)


# ---- search: who reads one language is not shown the other's pages ----


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """A Chinese page takes the index of its own folder."""
    # The theme would ask for a sitemap below each of these, and there is none; they say nothing without a host.
    output = re.sub(r'\s*<link rel="alternate"[^>]*>', "", output)
    if not page.url.startswith("zh/"):
        return output
    return re.sub(r'("base": ?)"\.\.(?:/(\.\.[^"]*))?"', lambda base: f'{base[1]}"{base[2] or "."}"', output, count=1)


@event_priority(-200)  # after the languages' plugin, which gathers all entries
def on_post_build(config: Any) -> None:
    file = Path(config.site_dir, "search", "search_index.json")
    index = json.loads(file.read_text())
    of: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for entry in index["docs"]:
        of[entry["location"].startswith("zh/")].append(entry)
    for folder, entries in (("zh", of[True]), (".", of[False])):
        chosen = [{**entry, "location": entry["location"].removeprefix("zh/")} for entry in entries]
        target = Path(config.site_dir, folder, "search", "search_index.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({**index, "docs": chosen}, ensure_ascii=False, separators=(",", ":")))
