"""Pages without running them: their links, options, paths and first sentences."""

from __future__ import annotations

import argparse
import dataclasses
import re
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest

from runtime.artifact.manifest import SCHEMA_VERSION, Manifest
from runtime.session.provider_options import OPTIONS
from tests.docs.pages import (
    DOCS,
    GENERATED,
    PAGES,
    REASONS,
    Block,
    anchors,
    blocks,
    cli_reference,
    commands,
    links,
    options,
    prose,
    tables,
)
from tests.paths import ROOT

API = DOCS / "reference/api"  # its anchors are those of Python objects, which the site's build checks
GUIDES = [page for page in PAGES if page.parent == DOCS]
FOREIGN_OPTIONS = {
    *("--preload", "--max-requests"),  # of gunicorn
    *("--signature", "--public"),  # of model_signing
    "--generate",  # ray
    "--head",  # ray
    "--port",  # ray
    *("--device", "--model-id", "--url-prefix"),  # infinity
    "--model-repository",  # of Triton
    *("--filename", "--from-file"),  # of kubectl
    *("--no-deps", "--wheel-dir"),  # of pip
    "--inplace",  # of rsync
    *("--build-arg", "--file", "--gpus", "--publish", "--tag", "--volume"),  # of Docker
}
PROGRAMS = (
    *("curl", "docker", "env", "gzip", "infinity_emb", "openssl", "pip"),
    *("printf", "ray", "serve", "tritonserver", "zcat"),
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCKS = [block for page in PAGES for block in blocks(page)]
_PATH = re.compile(r"`((?:\.ci|benchmarks|docs|exporters|runtime|tests)/[\w./-]*)`")


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = cli_reference().build_parsers()
    return found


def known_options(parsers: dict[str, argparse.ArgumentParser]) -> set[str]:
    return {name for parser in parsers.values() for action in parser._actions for name in action.option_strings}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 145


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_a_page_begins_with_what_its_reader_can_do_afterwards(page: Path) -> None:
    title, first, *_ = page.read_text("utf-8").split("\n\n")
    assert title.startswith("# ")
    assert first.startswith("After this page you ")
    assert re.fullmatch(r"[^.]+(\.\w[^.]*)*\.", first), "one sentence"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.language in ("sh", "python", "text") or (block.language == "js" and block.reason is not None)
    assert block.reason is None or block.reason in REASONS
    assert block.reason is None or block.language != "text"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.code, str(block), "exec")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_commands_parse(block: Block, parsers: dict[str, argparse.ArgumentParser]) -> None:
    for words in commands(block):
        if words[:2] == ["python", "-m"]:
            parse(words, parsers)
        elif words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
            assert {word for word in words[1:] if "=" not in word} <= set(targets)
        else:
            assert words[0] in PROGRAMS, f"an unknown program: {words[0]}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_have_no_comments(page: Path) -> None:
    """In an interactive zsh, the shell of macOS, ``#`` and the words after it are arguments."""
    shell = [line for block in blocks(page) if block.language == "sh" for line in block.code.splitlines()]
    assert [line for line in shell if re.search(r"(^|\s)#", line)] == []


def parse(words: list[str], parsers: dict[str, argparse.ArgumentParser]) -> None:
    """Parse as the program does: it knows a command for users who name none."""
    program, rest = " ".join(words[:3]), words[3:]
    for name in (f"{program} {rest[0] if rest else ''}", f"{program} export", f"{program} run", program):
        if name in parsers:
            parsers[name].parse_args(rest[1:] if rest and name == f"{program} {rest[0]}" else rest)
            return
    pytest.fail(f"no such program: {program}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_exist(page: Path, parsers: dict[str, argparse.ArgumentParser]) -> None:
    assert options(page) <= known_options(parsers) | FOREIGN_OPTIONS


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        assert not page.is_relative_to(DOCS) or file.is_relative_to(DOCS), f"{target} is not on the site"
        if anchor and not file.is_relative_to(API):
            assert anchor in anchors(file), target


@pytest.mark.parametrize(
    "page", [*PAGES, *(DOCS / "reports").rglob("*.md")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_tables_have_a_head_and_rows_of_one_width(page: Path) -> None:
    for head, *rows in tables(page):
        rule = rows[0] if rows else ""
        assert re.fullmatch(r"\|([ :]*-+[ :]*\|)+", rule), f"no head before: {head}"
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(re.findall(r"(?<!\\)\|", head))}, head


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    for path in _PATH.findall(prose(page)):
        assert (ROOT / path).exists(), path


def navigation() -> list[Any]:
    """Return the site's navigation: the page of the beginning, then sections."""
    return list(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"])


def test_every_page_is_in_the_navigation_once() -> None:
    written = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert sorted(pages_of(navigation())) == written


def pages_of(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    members = entry.values() if isinstance(entry, dict) else entry
    return [page for member in members for page in pages_of(member)]


def test_the_first_page_has_the_sections_of_the_navigation() -> None:
    sections = re.split(r"^## ", (DOCS / "index.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    for section, entry in zip(sections, navigation()[1:], strict=True):
        ((title, pages),) = entry.items()
        assert section.startswith(f"{title}\n")
        assert re.findall(r"\]\(([^)]+)\)", section) == without_single_reports(pages_of(pages))


def test_the_readme_links_every_page() -> None:
    linked = {target.partition("#")[0].removeprefix("docs/") for target in links(ROOT / "README.md")}
    pages = [
        page for page in without_single_reports(pages_of(navigation()[1:])) if not page.startswith("reference/api/")
    ]
    assert set(pages) <= linked


def without_single_reports(pages: list[str]) -> list[str]:
    return [page for page in pages if not page.startswith("reports/") or page == "reports/README.md"]


def test_the_quickstart_lists_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (table,) = re.findall(
        r"^\| extra \|.*\n\|---.*\n((?:\|.*\n)+)", (DOCS / "quickstart.md").read_text("utf-8"), re.MULTILINE
    )
    listed = [name for row in table.splitlines() for name in re.findall(r"`([\w-]+)`", row.split(" | ")[0])]
    assert sorted(listed) == sorted(extras)


@pytest.mark.parametrize("block", [block for block in BLOCKS if "pip install" in block.code], ids=str)
def test_the_distribution_is_installed_from_a_clone(block: Block) -> None:
    assert "embedding-backbones" not in block.code, "it is on no package index"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_a_page_says_where_benchmarks_are(page: Path) -> None:
    if "python -m benchmarks " in "".join(block.code for block in blocks(page)):
        assert "root of a clone" in prose(page)


def test_the_table_of_providers_has_every_option() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\S+)` \|", (DOCS / "providers.md").read_text("utf-8"), re.MULTILINE)
    fields = [(name, field) for name, kind in OPTIONS.items() for field in dataclasses.fields(kind)]
    assert sorted(rows) == sorted((name, field.name, repr(field.default).replace("'", '"')) for name, field in fields)


def test_every_command_is_on_the_reference_page(parsers: dict[str, argparse.ArgumentParser]) -> None:
    page = GENERATED.read_text("utf-8")
    assert all(f"`{command}`" in page for command in parsers)


def records(kind: Any) -> dict[str, Any]:
    """Return the dataclasses that a manifest is made of, by name."""
    found = {}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        found[kind.__name__] = kind
        members = tuple(typing.get_type_hints(kind).values())
    else:
        members = typing.get_args(kind)
    for member in members:
        found |= records(member)
    return found


@pytest.mark.parametrize("name", sorted(records(Manifest)))
def test_the_artifact_format_names_every_field(name: str) -> None:
    sections = re.split(r"^#{2,3} ", (DOCS / "artifact-format.md").read_text("utf-8"), flags=re.MULTILINE)
    section = next(section for section in sections if section.startswith(f"{name}\n"))
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*)", section, re.MULTILINE))
    own = typing.get_type_hints(records(Manifest)[name])
    assert [*documented] == ([*own, "sha256"] if name == "Manifest" else [*own])
    for field, hint in own.items():
        members = typing.get_args(hint)
        for kind in (hint, *(members if type(None) in members else ())):
            values = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
            assert all(f'`"{value}"`' in documented[field] for value in values), f"{field} has a value more"


def test_the_artifact_format_is_of_this_schema() -> None:
    assert f"This page describes schema version {SCHEMA_VERSION}." in (DOCS / "artifact-format.md").read_text("utf-8")
