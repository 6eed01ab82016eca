from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from exporters.variants.retrieval_dataset import RetrievalDataset, load_retrieval_dataset
from runtime.errors import UsageError

BEIR = "query-id\tcorpus-id\tscore\nq1\td 2\t2\nq1\td3\t1\nq3\td1\t1\nq1\td1\t0\n"
TREC = "q1 0 d3 1\n\nq3 Q0 d1 1\r\nq1 0 d1 -2\n"


def write_jsonl(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Write queries and a corpus."""
    queries = [{"_id": f"q{number}", "text": f"query {number}", "metadata": {}} for number in (1, 2, 3)]
    documents = [
        {"_id": "d1", "title": "Kaffee", "text": "schwarz"},
        {"_id": "d 2", "text": "tea"},
        {"_id": "d3", "title": "", "text": "cocoa"},
    ]
    return write_jsonl(tmp_path / "queries.jsonl", queries), write_jsonl(tmp_path / "corpus.jsonl", documents)


def load(files: tuple[Path, Path], qrels: str) -> RetrievalDataset:
    path = files[0].with_name("qrels.tsv")
    path.write_text(qrels)
    return load_retrieval_dataset(*files, path, ["text"])


@pytest.mark.parametrize(("qrels", "first"), [(BEIR, {1: 2.0, 2: 1.0}), (TREC, {2: 1.0})], ids=["beir", "trec"])
def test_the_judgments_of_beir_and_trec_are_read(files: tuple[Path, Path], qrels: str, first: dict[int, float]) -> None:
    found = load(files, qrels)
    assert found.queries == ["query 1", "query 3"], "query 2 has no relevant document"
    assert found.documents == ["Kaffee schwarz", "tea", "cocoa"]
    assert found.relevant == [first, {0: 1.0}], "a grade of 0 or less is not relevant"
    assert (found.query_kind, found.document_kind) == ("text", "text")


def test_a_judgment_may_be_given_twice(files: tuple[Path, Path]) -> None:
    found = load(files, "QUERY doc Relevance\nq1 d1 2\nq1 0 d1 2.0\n")
    assert found.relevant == [{0: 2.0}]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1\td9\t1\n", r"qrels\.tsv:1 names 'd9', which is not in .*corpus\.jsonl"),
        ("q9 0 d1 1\n", r"qrels\.tsv:1 names 'q9', which is not in .*queries\.jsonl"),
        ("q1 0 d1 1\nq1 0 d1 high\n", r"qrels\.tsv:2 is no relevance judgment"),
        ("q1 0 d1 1\nq1\n", r"qrels\.tsv:2 has 1 fields"),
        ("q1 0 d1 1 x 1\n", r"qrels\.tsv:1 has 6 fields; a line has query, document and grade"),
        ("q1 d1\nq1 0 d1 1\n", r"qrels\.tsv:1 has 2 fields"),
        ("q1\td1\tyes\nq1\td3\t1\n", r"qrels\.tsv:1 is no relevance judgment; .*; a header ends in score, relev"),
        ("q1\td1\t1\nquery\tdocument\tscore\n", r"qrels\.tsv:2 is no relevance judgment"),
        ("q1\td1\tnan\nq1\td3\t1\n", r"qrels\.tsv:1 has the grade nan; a grade is a finite number"),
        ("q1\td1\tinf\n", r"qrels\.tsv:1 has the grade inf"),
        ("q1\td1\t2\nq1\td1\t0\n", r"qrels\.tsv:2 gives 'q1' and 'd1' the grade 0, after 2; keep one"),
        ("q1 0 d1 0\n", "names no relevant document"),
    ],
)
def test_wrong_judgments_are_refused(files: tuple[Path, Path], qrels: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(files, qrels)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"corpus\.jsonl:1 is not a line of BEIR such as"),
        ('{"_id": "d1"}', "KeyError 'text'"),
        ('{"_id": "d1", "text": 3}', "TypeError an _id is a string or a whole number; title and text are strings"),
        ('{"_id": "d1", "text": null}', "title and text are strings"),
        ('{"_id": "d1", "text": "", "title": 3}', "title and text are strings"),
        ('{"_id": null, "text": ""}', "an _id is a string or a whole number"),
        ('{"_id": true, "text": ""}', "an _id is a string or a whole number"),
        ('{"_id": 1.0, "text": ""}', "an _id is a string or a whole number"),
        ("[]", "is not a line of BEIR"),
        ('{"_id": 1, "text": ""}\n{"_id": "1", "text": ""}', r"corpus\.jsonl:2: a second item has the id '1'"),
    ],
)
def test_wrong_documents_are_refused(files: tuple[Path, Path], line: str, message: str) -> None:
    files[1].write_text(line)
    with pytest.raises(UsageError, match=message):
        load(files, BEIR)
    files[1].unlink()
    with pytest.raises(UsageError, match=r"corpus\.jsonl cannot be read"):
        load(files, BEIR)


def test_images_have_their_paths_as_ids(files: tuple[Path, Path], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "red").mkdir(parents=True)
    for name in ("b.png", "red/a.png"):
        Image.new("RGB", (8, 8)).save(photos / name)
    (photos / "notes.txt").write_text("no image")
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("q2 0 red/a.png 1\n")
    found = load_retrieval_dataset(files[0], photos, qrels, ["text", "image"])
    assert (found.query_kind, found.document_kind) == ("text", "image")
    assert [found.documents[position] for position in found.relevant[0]] == [photos / "red" / "a.png"]
    with pytest.raises(UsageError, match="is a folder, but the artifact embeds only texts"):
        load_retrieval_dataset(files[0], photos, qrels, ["text"])
    with pytest.raises(UsageError, match=r"queries\.jsonl is no folder; the artifact embeds no texts"):
        load_retrieval_dataset(files[0], photos, qrels, ["image"])
