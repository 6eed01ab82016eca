"""Check the project's English: no sentence over 25 words, and no docstring that begins with a nominal clause.

It reads docstrings and comments of Python files, and prose of Markdown files. Usage: ``plain_english.py [PATH ...]``,
by default all tracked files. It exits with 1 if it finds a fault, and prints one line for each.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = 25
SECTIONS = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Source|Example|Examples|Note):\s*$")
ENTRY = re.compile(r"^\s*[`*\w.\[\], ]+(?: \([^)]*\))?:\s+(?=\S)")  # "name: text" of a Google section
LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
END = re.compile(r"(?<=[.!?;:])[)\"'*`]*\s+(?=\S)")
NOMINAL = re.compile(r"^(What|Whatever|Who|Whoever|Which|That)\b(?!.*\?)")
SKIPPED = ("docs/reports/*/report.md", "exporters/samples/photos/README.md", "CHANGELOG.md")


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield each paragraph or list item with the offset of its first line."""
    start, lines, fenced = 0, [], False
    for number, line in enumerate(text.splitlines()):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
            line = ""
        breaks = fenced or not line.strip() or line.lstrip().startswith(("|", "#", ">>>", "<", "!!!"))
        if breaks or SECTIONS.match(line.strip()) or LIST_ITEM.match(line) or ENTRY.match(line):
            if lines:
                yield start, " ".join(lines)
            lines = []
        if breaks or SECTIONS.match(line.strip()):
            continue
        if not lines:
            start = number
        lines.append(ENTRY.sub("", LIST_ITEM.sub("", line), count=1).strip() if not lines else line.strip())
    if lines:
        yield start, " ".join(lines)


def faults(text: str) -> Iterator[tuple[int, str]]:
    """Yield what is wrong with each sentence of ``text``, with the offset of its paragraph."""
    for offset, paragraph in paragraphs(text):
        plain = re.sub(r"`+[^`]*`+|\]\([^)]*\)|https?://\S+", " x ", paragraph)
        for sentence in END.split(plain):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if len(words) > MOST_WORDS:
                yield offset, f"{len(words)} words: {' '.join(words[:10])} ..."
        if NOMINAL.match(plain) and not plain.startswith(("What is", "How to")):
            yield offset, f"a nominal clause begins it: {' '.join(plain.split()[:8])} ..."


def python_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield docstrings and runs of comments with their line numbers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text.replace("\n    ", "\n")
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.startswith(("# noqa", "# type:", "#!")):
            continue
        text = re.sub(r"#\s?(noqa:\S*( [A-Z]+\d+)*\s*)?", "", token.string, count=1)
        after_code = bool(token.line[: token.start[1]].strip())  # such a comment is a text of its own
        if block and (token.start[0] != last + 1 or after_code):
            yield first, "\n".join(block)
            block = []
        if not block:
            first = token.start[0]
        block.append(text.strip())
        last = 0 if after_code else token.start[0]
    if block:
        yield first, "\n".join(block)


def check(path: Path) -> Iterator[str]:
    """Yield the faults of a file."""
    source = path.read_text("utf-8")
    texts = python_texts(source) if path.suffix == ".py" else [(1, source)]
    for line, text in texts:
        for offset, fault in faults(text):
            yield f"{path}:{line + offset}: {fault}"


def main(names: list[str]) -> int:
    """Check the files, print the faults, and return the exit code."""
    if not names:
        names = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    files = [Path(name) for name in names]
    files = [file for path in files for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    chosen = [file for file in files if file.suffix in (".py", ".md") and not any(map(file.match, SKIPPED))]
    found = [fault for file in chosen for fault in check(file)]
    print("\n".join(found) or f"{len(chosen)} files, no sentence over {MOST_WORDS} words")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
