"""The memory that JSON takes is bounded by its bytes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from runtime.preprocess.json_memory import parsed_json_bytes
from tests.peak_memory import needs_proc, run_and_read

N = 200_000


def test_plain_text_takes_little() -> None:
    assert parsed_json_bytes(b"a" * 1000) == 2000
    assert parsed_json_bytes("é".encode() * 500) == 5000


@pytest.mark.parametrize("escape", ["%41", "%41xy", f"%41{'x' * 20}"])
def test_escapes_of_a_data_url_take_no_more_memory_than_it_says(escape: str) -> None:
    url = escape * N
    tracemalloc.start()
    unquote_to_bytes(url)
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said = parsed_json_bytes(url.encode())
    assert 0.5 * said < taken < said


def repeat(value: str) -> bytes:
    return f"[{value}{f',{value}' * N}]".encode()


BODIES = {
    "lists": repeat("[]"),
    "lists of a number": repeat("[1000]"),
    "dicts": repeat("{}"),
    "dicts of a number": repeat('{"":1000}'),
    "dicts of a text": repeat('{"text":"ab"}'),
    "points": repeat("[0.5,0.25,1000]"),
    "numbers": repeat("1000"),
    "small numbers": repeat("0"),
    "letters": repeat('"ab"'),
    "wide letters": repeat('"é"'),
    "one wide letter": f'["😀{"a" * 5 * N}"]'.encode(),
    "an escaped letter": f'["\\ud83d\\ude00{"a" * 5 * N}"]'.encode(),
    "keys": f'{{"":0{"".join(f",{chr(34)}{at}{chr(34)}:1000" for at in range(N))}}}'.encode(),
}


@pytest.mark.process
@needs_proc
@pytest.mark.parametrize("parser", ["orjson", "json"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_parsing_takes_no_more_memory_than_it_says(parser: str, body: bytes, tmp_path: Path) -> None:
    pytest.importorskip(parser)
    (tmp_path / "body").write_bytes(body)
    code = (
        f"import {parser}; data = Path(sys.argv[1]).read_bytes(); {parser}.loads(b'[]'); before = peak()\n"
        f"values = {parser}.loads(data); print(peak() - before)"
    )
    said, (taken,) = parsed_json_bytes(body), run_and_read(code, tmp_path / "body")
    assert 0.05 * said < taken < said + (4 << 20), (said, taken)
