from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.artifact.reader import read_manifest
from runtime.server.ray_serve import describe_job
from tests.runtime.server.conftest import Running
from tests.runtime.spaces import add_variants
from tests.runtime.toy_artifact import write_artifact

CALLS: dict[str, Any] = {
    "/v1/embeddings": {"input": "a"},
    "/embed": {"inputs": "a"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/v2/models/toy/infer": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]},
}


@pytest.mark.parametrize("path", CALLS)
def test_a_response_names_the_space_of_its_vectors(path: str, server: Running, model: runtime.Embedder) -> None:
    assert server.post(path, CALLS[path]).headers["x-vector-space"] == model.space


def test_the_descriptions_of_models_name_their_spaces(server: Running, model: runtime.Embedder) -> None:
    assert server.get("/info").json()["models"]["toy"]["vector_space"] == model.space
    assert {each["vector_space"] for each in server.get("/v1/models").json()["data"]} == {model.space}
    assert "x-vector-space" not in server.get("/info").headers


def test_replicas_of_ray_embed_in_one_space(tmp_path: Path) -> None:
    """Machines differ in what `auto` chooses, and the folder may be replaced before a later replica starts."""
    artifact = add_variants(write_artifact(tmp_path / "toy"), "int8")
    arguments = {"artifacts": {"texts": str(artifact)}}
    job = describe_job(arguments, memory_limit=None)
    assert (job.session["variant"], job.spaces) == ("fp32", {"texts": read_manifest(artifact).space.id})
    for variant, expected in (("int8", {"texts": runtime.load(artifact, variant="int8").space}), ("auto", {})):
        assert describe_job(arguments | {"session": {"variant": variant}}, memory_limit=None).spaces == expected
