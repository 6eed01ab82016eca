"""Test that a server's own description of its artifact is found."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.serve.interfaces import make_endpoint
from benchmarks.serve.schema import ServedArtifact
from benchmarks.serve.targets import find_artifact
from tests.benchmarks.serve.toy_server import toy_server

OWN = {"variant": "int8", "provider": "cpu", "vector_space": "vs1-0123456789abcdef.int8-01234567"}
INFO = {"model_id": "toy", "models": {"other": OWN, "toy": OWN}}


@pytest.mark.parametrize(
    ("path", "model", "info", "name"),
    [
        ("/v1/embeddings", "other", INFO, "other"),
        ("/v1/embeddings", "toy:query", INFO, "toy"),
        ("/embed", "", INFO, "toy"),
        ("/v1/embeddings", "unknown", INFO, None),
        ("/embed", "", {"model_id": "BAAI/bge-small-en-v1.5"}, None),  # as text-embeddings-inference
        ("/embed", "", {"model_id": 7, "models": [7]}, None),
        ("/v1/embeddings", "toy", ["no info"], None),
        ("/prefix/v1/embeddings", "toy", INFO, None),
    ],
)
def test_the_artifact_of_a_server(path: str, model: str, info: Any, name: str | None) -> None:
    with toy_server() as server:
        server.info = info
        found = find_artifact(make_endpoint(server.url + path, model=model))
    space = "vs1-0123456789abcdef.int8-01234567"
    assert found == (ServedArtifact(name=name, space=space, variant="int8", provider="cpu") if name else None)
