"""Read the user's own queries, documents and relevance judgments, in the formats of BEIR and TREC."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.jobs.inputs import folder_suffixes, walk_folder
from runtime.jobs.items import Unreadable
from runtime.jobs.text_files import BLANKS, read_file_lines
from runtime.preprocess.files import file_suffix

Grades: TypeAlias = Mapping[int, float]
_FORM = "a line has query, document and grade (BEIR), or query, 0, document and grade (TREC)"
_HEADERS = ("score", "relevance", "grade", "label")  # of the last column


@dataclass(frozen=True, kw_only=True)
class RetrievalDataset:
    """Queries, the documents among which they search, and the relevant documents of each query.

    Attributes:
        queries: The queries that have a relevant document.
        query_kind: Kind of the queries.
        documents: The documents.
        document_kind: Kind of the documents.
        relevant: For each query, the positions of its relevant documents with their grades, which are above 0.
    """

    queries: Sequence[Any]
    query_kind: TowerName
    documents: Sequence[Any]
    document_kind: TowerName
    relevant: Sequence[Grades]


def load_retrieval_dataset(queries: Path, corpus: Path, qrels: Path, towers: Collection[TowerName]) -> RetrievalDataset:
    """Read a search from three places.

    Args:
        queries: A .jsonl file of BEIR, with ``_id`` and ``text`` in each line. Or a folder of images or meshes, whose
            ids are their paths in the folder.
        corpus: The documents, in the same form. A ``title`` goes before the ``text``, as in BEIR.
        qrels: The judgments. A line of BEIR has query, document and grade, with tabs between them. A line of TREC has
            query, an ignored word, document and grade. A grade above 0 means relevant.
        towers: Kinds of item that the artifact embeds.

    Raises:
        UsageError: A file cannot be read, an id has no item, or no document is relevant.
    """
    query_kind, all_queries = _read_items(queries, towers)
    document_kind, documents = _read_items(corpus, towers)
    positions = {name: position for position, name in enumerate(documents)}
    judged: dict[tuple[str, str], float] = {}
    relevant: dict[str, dict[int, float]] = {}
    for place, query, document, grade in _read_qrels(qrels):
        for name, known, path in ((query, all_queries, queries), (document, documents, corpus)):
            if name not in known:
                raise UsageError(f"{place} names {name!r}, which is not in {path}; remove the line, or add the item")
        before = judged.setdefault((query, document), grade)
        if grade != before:
            raise UsageError(
                f"{place} gives {query!r} and {document!r} the grade {grade:g}, after {before:g}; keep one"
            )
        if grade > 0:
            relevant.setdefault(query, {})[positions[document]] = grade
    if not relevant:
        raise UsageError(f"{qrels} names no relevant document; a relevant one has a grade above 0")
    return RetrievalDataset(
        queries=[all_queries[name] for name in relevant],
        query_kind=query_kind,
        documents=list(documents.values()),
        document_kind=document_kind,
        relevant=list(relevant.values()),
    )


def _read_items(path: Path, towers: Collection[TowerName]) -> tuple[TowerName, dict[str, Any]]:
    """Return the kind of the items and the items by their ids."""
    if path.is_dir():
        kind = next((tower for tower in towers if tower != "text"), None)
        if kind is None:
            raise UsageError(f"{path} is a folder, but the artifact embeds only texts; give them as .jsonl")
        suffixes = folder_suffixes(kind)
        files = [Path(name) for name in walk_folder(str(path)) if file_suffix(name) in suffixes]
        return kind, {file.relative_to(path).as_posix(): file for file in files}
    if "text" not in towers:
        raise UsageError(f"{path} is no folder; the artifact embeds no texts, so give a folder of {', '.join(towers)}s")
    texts: dict[str, Any] = {}
    for place, name, text in _read_texts(path):
        if name in texts:
            raise UsageError(f"{place}: a second item has the id {name!r}; give each its own id")
        texts[name] = text
    return "text", texts


def _read_texts(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the place, the id and the text of each line."""
    for place, line in _read_lines(path):
        try:
            record = json.loads(line)
            name, title, text = record["_id"], record.get("title") or "", record["text"]
            if type(name) not in (str, int) or not isinstance(title, str) or not isinstance(text, str):
                raise TypeError("an _id is a string or a whole number; title and text are strings")
            yield place, str(name), " ".join(filter(None, [title, text]))
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            form = '{"_id": "q1", "text": "..."}'
            raise UsageError(f"{place} is not a line of BEIR such as {form}: {type(exc).__name__} {exc}") from exc


def _read_qrels(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield the place, query, document and grade of each line. The first line may be a header."""
    for number, (place, line) in enumerate(_read_lines(path)):
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) not in (3, 4):
            raise UsageError(f"{place} has {len(fields)} fields; {_FORM}")
        if number == 0 and fields[-1].strip().lower() in _HEADERS:
            continue
        try:
            grade = float(fields[-1])
        except ValueError as exc:
            header = f"; a header ends in {', '.join(_HEADERS)}" if number == 0 else ""
            raise UsageError(f"{place} is no relevance judgment; {_FORM}{header}") from exc
        if not math.isfinite(grade):
            raise UsageError(f"{place} has the grade {grade}; a grade is a finite number")
        yield place, fields[0], fields[-2], grade


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not blank, each with its place."""
    try:
        for place, line in read_file_lines(str(path)):
            if isinstance(line, Unreadable):
                raise UsageError(f"{place}: {line.reason}")
            if line.strip(BLANKS):
                yield place, line
    except OSError as exc:
        raise UsageError(f"{path} cannot be read ({exc.strerror}); check the path") from exc
