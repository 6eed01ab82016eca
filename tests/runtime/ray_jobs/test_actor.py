from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import runtime
from runtime.artifact.reader import read_manifest
from runtime.errors import ClusterError, ItemError
from runtime.inference.options import EmbedOptions
from runtime.jobs.origin import read_origin
from runtime.ray_jobs import actor, job
from runtime.ray_jobs.actor import ShardEmbedder, ShardResult, WorkerOptions
from runtime.ray_jobs.cluster import ClusterOptions, WorkerResources
from runtime.ray_jobs.input_files import find_inputs
from runtime.ray_jobs.job import RayJob, embed_on_ray
from runtime.ray_jobs.shards import Shard, cut
from runtime.session import providers
from runtime.session.provider_options import OpenVinoOptions, ProviderOptions
from runtime.session.providers import PROVIDERS
from runtime.session.session import SessionOptions
from runtime.version import __version__
from tests.runtime.toy_artifact import write_artifact


def make_worker(
    artifact: Path,
    texts: Path,
    options: EmbedOptions = EmbedOptions(),  # noqa: B008  frozen
    *,
    provider: str = "cpu",
    space: str = "vs1-0000000000000000",
    version: str = __version__,
) -> tuple[ShardEmbedder, Shard]:
    """Return a worker that writes beside ``texts``, and their only shard."""
    inputs = find_inputs([str(texts)], None, "text")
    (shard,) = cut(inputs, 10)
    settings = WorkerOptions(
        artifact=str(artifact),
        folder=str(texts.parent),
        format=inputs.format,
        options=options,
        session=SessionOptions(provider=provider, variant="fp32", threads=1),
        space=space,
        inputs=(texts.name,),
        version=version,
    )
    return ShardEmbedder(settings, attempts=None), shard


def test_a_worker_applies_the_prompt(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "toy", prompts={"query": "query : "})
    (tmp_path / "in.txt").write_text("a\nb c\n")
    worker, shard = make_worker(artifact, tmp_path / "in.txt", EmbedOptions(tower="text", prompt_name="query"))
    worker.embed(shard, 1)
    origin = read_origin(tmp_path / "part-000000.parquet")
    assert origin
    assert (origin.prompt, origin.inputs, origin.column) == ("query : ", ("in.txt",), "text")
    vectors = parquet.read_table(tmp_path / "part-000000.parquet")["embedding"].to_pylist()
    assert vectors == runtime.load(artifact, provider="cpu").embed_query(["a", "b c"]).tolist()


def test_a_worker_with_another_artifact_or_version_is_refused(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "toy")
    (tmp_path / "in.txt").write_text("a\n")
    worker, _ = make_worker(artifact, tmp_path / "in.txt")
    fault = worker._fault
    assert isinstance(fault, runtime.SpaceError)
    assert "copy the same artifact to every machine" in str(fault)
    worker, _ = make_worker(artifact, tmp_path / "in.txt", space=read_manifest(artifact).space.id, version="0.0.9")
    assert f"is of version {__version__} here, and of 0.0.9 where the job began" in str(worker._fault)


def test_a_prompt_that_is_unknown_is_refused_before_the_cluster_starts(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "toy", prompts={"query": "query : "})
    (tmp_path / "in.txt").write_text("a\n")
    refused = RayJob(
        artifact=artifact,
        inputs=[str(tmp_path / "in.txt")],
        output=str(tmp_path / "out"),
        options=EmbedOptions(prompt_name="passage"),
    )
    with pytest.raises(runtime.UsageError, match="no prompt called 'passage'; the artifact has 'query'"):
        embed_on_ray(refused)


def test_a_worker_has_at_most_as_many_concurrent_batches_as_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    artifact, inputs = write_artifact(tmp_path / "toy"), [str(tmp_path / "in.txt")]
    batches: list[int | None] = []

    def run(_: RayJob, options: WorkerOptions, *others: Any) -> list[ShardResult]:
        batches.append(options.session.concurrent_batches)
        raise ClusterError("far enough")

    monkeypatch.setattr(job, "_run", run)
    resources = nullcontext(WorkerResources(workers=1, threads=4, gpus=0))
    monkeypatch.setattr(job, "open_cluster", lambda options: resources)
    asked = RayJob(artifact=artifact, inputs=inputs, output=str(tmp_path / "out"), concurrent_batches=8)
    with pytest.raises(ClusterError, match="far enough"):
        embed_on_ray(asked)
    assert batches == [4]
    with pytest.raises(runtime.UsageError, match="concurrent_batches is 8, it must be from 1 to 4, the threads of a"):
        embed_on_ray(replace(asked, cluster=ClusterOptions(threads=4)))


@pytest.mark.parametrize(("tower", "most"), [("text", 1152), ("image", 1024)])
def test_a_part_holds_fewer_images_than_texts(
    tower: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.txt").write_text("a\n" * 9000)
    sizes: list[int] = []

    def run(_: RayJob, options: WorkerOptions, shards: Sequence[Shard], *others: Any) -> list[ShardResult]:
        sizes.extend(shard.rows for shard in shards)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_check_tower", lambda _: (tower, 4, f"vs1-{'0' * 16}"))
    monkeypatch.setattr(job, "_run", run)
    resources = nullcontext(WorkerResources(workers=1, threads=1, gpus=0))
    monkeypatch.setattr(job, "open_cluster", lambda options: resources)
    with pytest.raises(KeyboardInterrupt):
        embed_on_ray(RayJob(artifact="toy", inputs=[str(tmp_path / "in.txt")], output=str(tmp_path / "out")))
    assert (sum(sizes), max(sizes)) == (9000, most)


def test_parts_that_cannot_be_moved_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, output = write_artifact(tmp_path / "toy"), tmp_path / "out"
    (tmp_path / "in.txt").write_text("a\n")
    (output / "part-000000.parquet").mkdir(parents=True)  # no file can be moved onto a folder
    (output / "_SUCCESS").touch()

    def run(_: RayJob, options: WorkerOptions, shards: Sequence[Shard], *others: Any) -> list[ShardResult]:
        return [ShardEmbedder(options, attempts=None).embed(shard, 1) for shard in shards]

    monkeypatch.setattr(job, "_run", run)
    resources = nullcontext(WorkerResources(workers=1, threads=1, gpus=0))
    monkeypatch.setattr(job, "open_cluster", lambda options: resources)
    inputs = [str(tmp_path / "in.txt")]
    with pytest.raises(runtime.OutputError, match=r"cannot move the output .* the parts are in file://.*/_partial-"):
        embed_on_ray(RayJob(artifact=artifact, inputs=inputs, output=output.as_uri(), force=True))
    (part,) = output.glob("_partial-*/*")
    assert parquet.read_table(part)["source_file"].to_pylist() == inputs
    assert not (output / "_SUCCESS").exists()


def test_a_worker_writes_the_part_of_a_shard(exported_text: Path, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["a", None, "b c"], "id": [7, 8, 9]}), tmp_path / "in.parquet")
    space = runtime.load(exported_text, provider="cpu", variant="fp32").space

    def embed(options: EmbedOptions) -> tuple[object, ...]:
        worker, shard = make_worker(exported_text, tmp_path / "in.parquet", options, space=space)
        result = worker.embed(shard, 1)
        return result.rows, result.skipped, result.truncated, result.provider, str(result.first_error)

    with pytest.raises(ItemError, match=r"in\.parquet row 1"):
        embed(EmbedOptions())
    done = embed(EmbedOptions(on_error="skip", truncate_dim=4))
    assert done == (3, 1, 0, "cpu", f"item 1 ({tmp_path}/in.parquet row 1): 'text' is null")
    table = parquet.read_table(tmp_path / "part-000000.parquet")
    assert table.column_names == ["source_file", "source_row", "id", "error", "embedding"]
    assert table["error"].to_pylist() == [None, "'text' is null", None]
    first, none, last = table["embedding"].to_pylist()
    assert none is None
    np.testing.assert_allclose([first, last], runtime.load(exported_text).embed(["a", "b c"])[:, :4], atol=1e-6)


@pytest.mark.parametrize(("provider", "dtype"), [("openvino", "fp32"), ("auto", "fp32"), ("cpu", None)])
def test_openvino_computes_in_float32_on_every_machine(
    provider: str, dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[ProviderOptions | None] = []
    monkeypatch.setattr(providers, "available_providers", lambda: [PROVIDERS["openvino"], PROVIDERS["cpu"]])
    monkeypatch.setattr(actor, "load", lambda path, *, provider_options, **_: given.append(provider_options))
    monkeypatch.setattr(ShardEmbedder, "_check_space", lambda self: None)
    (tmp_path / "in.txt").write_text("a\n")
    make_worker(Path("artifact"), tmp_path / "in.txt", provider=provider)
    assert given == [OpenVinoOptions(dtype="fp32") if dtype else None]


def test_auto_goes_on_to_the_cpu_where_openvino_cannot_load(
    exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "available_providers", lambda: [PROVIDERS["openvino"], PROVIDERS["cpu"]])
    monkeypatch.setattr(ShardEmbedder, "_check_space", lambda self: None)
    (tmp_path / "in.txt").write_text("a\n")
    workers = [make_worker(exported_text, tmp_path / "in.txt", provider=name)[0] for name in ("auto", "openvino")]
    assert [type(worker._fault) for worker in workers] == [type(None), runtime.ProviderError]
