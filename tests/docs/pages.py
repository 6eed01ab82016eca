"""The documentation's pages, taken apart: code blocks, links, headings, options."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from tests.paths import ROOT

DOCS = ROOT / "docs"
GENERATED = DOCS / "reference/cli.md"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if DOCS / "reports" not in path.parents)]
# Why a block is not run. Each block that is not run names one of these in a comment before it.
REASONS = {
    "installs packages",
    "is part of a file",
    "needs a GPU",
    "needs a cluster",
    "needs a model hub",
    "needs a running server",
    "needs a variant",
    "needs another environment",
    "needs your own files",
    "starts a server",
    "takes minutes",
}
_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]+`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: File of the page.
        line: Line of its fence, from 1.
        language: Word after the fence: ``sh``, ``python`` or ``text``.
        code: The code.
        reason: Why it is not run; ``None`` if it is run.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of ``page`` in order."""
    language, start, reason = None, 0, None
    code: list[str] = []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        fence, mark = _FENCE.match(line), _NOT_RUN.match(line)
        if language is None and fence:
            language, start, code = fence[1], number, []
        elif language is not None and fence:
            yield Block(page=page, line=start, language=language, code="\n".join(code) + "\n", reason=reason)
            language, reason = None, None
        elif language is not None:
            code.append(line)
        elif line.strip():
            reason = mark[1] if mark else None


def prose(page: Path) -> str:
    """Return the text of ``page`` without its blocks of code."""
    return re.sub(r"^```.*?^```\s*$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def tables(page: Path) -> Iterator[list[str]]:
    """Yield the lines of each table of ``page``, with those that a reader sees as text because they have no head."""
    for found in re.finditer(r"(?:^\|.*\n)+", prose(page), flags=re.MULTILINE):
        yield found[0].splitlines()


def links(page: Path) -> list[str]:
    """Return the targets of links and images that lie in this repository."""
    found = _LINK.findall(_CODE.sub("`x`", prose(page)))
    return [target for target in found if not target.startswith(("https://", "http://"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings that GitHub and the site make alike."""
    titles = [re.sub(r"[`*]", "", title) for title in _HEADING.findall(prose(page))]
    return {_github_slug(title) for title in titles} & {_site_slug(title) for title in titles}


def _github_slug(title: str) -> str:
    return re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-")


def _site_slug(title: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())


def options(page: Path) -> set[str]:
    """Return the options that ``page`` mentions, such as ``--weights``."""
    return set(_OPTION.findall(page.read_text("utf-8")))


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block of shell."""
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip("|;&"):
                words.append(word)
            elif words:
                yield words
                words = []


@cache
def cli_reference() -> SimpleNamespace:
    """Return the script that writes the page of the command line; it knows all parsers."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / ".ci/cli_reference.py")))
