"""Run jobs on one Ray cluster in a separate process: Ray issues warnings, and pytest treats warnings as errors.

Usage: ``ray_scenarios FOLDER``. The folder holds an artifact of texts, one of images, and inputs. The script writes
results.json there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray

from runtime.errors import EmbeddingBackbonesError
from runtime.inference.options import EmbedOptions
from runtime.ray_jobs.actor import ShardEmbedder, ShardResult, WorkerOptions
from runtime.ray_jobs.cluster import ClusterOptions
from runtime.ray_jobs.job import RayJob, RayJobResult, embed_on_ray
from runtime.ray_jobs.shards import Shard, ShardRows

FOLDER = Path(sys.argv[1])
BEGUN = FOLDER / "begun"


class SlowEmbedder(ShardEmbedder):
    """Creates a file for each shard that it begins, and waits, so that it can be killed in the middle of one."""

    def embed(self, shard: Shard, attempt: int) -> ShardResult:
        (BEGUN / f"{shard.number}-{attempt}-{os.getpid()}").touch()
        if 4 <= shard.number < 10:
            time.sleep(0.3)
        return super().embed(shard, attempt)


class MortalEmbedder(ShardEmbedder):
    """Is killed by one of the items, as native code may be."""

    max_attempts = 1

    def read(self, shard: Shard) -> ShardRows:
        rows = super().read(shard)
        if "poison" in rows.items:
            (BEGUN / f"poison-{time.monotonic_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rows


def job(name: str, **changes: Any) -> RayJob:
    """Return a small job. One worker starts sooner than two."""
    common = {"artifact": FOLDER / "toy", "output": str(FOLDER / name), "cluster": workers(1)}
    return RayJob(**{**common, **changes})


def workers(count: int) -> ClusterOptions:
    return ClusterOptions(workers=count, threads=1, provider="cpu")


def kill_in_the_middle() -> RayJobResult:
    """Kill the worker of a shard that is begun but not written, and record how many parts were written."""

    def kill() -> None:
        while not (begun := sorted(BEGUN.glob("[4-9]-1-*"))):
            time.sleep(0.01)
        number, _, pid = begun[0].name.split("-")
        os.kill(int(pid), signal.SIGKILL)
        written = {path.name for path in next(FOLDER.glob(".killed.*.partial")).glob("part-*.parquet")}
        kills.append({"written": len(written), "unwritten": f"part-{int(number):06}.parquet" not in written})

    kills: list[dict[str, Any]] = []
    thread = threading.Thread(target=kill)
    thread.start()
    with patch("runtime.ray_jobs.job.ShardEmbedder", SlowEmbedder):
        killed = job("killed", inputs=[str(FOLDER / "texts")], column="text", rows_per_part=100, cluster=workers(2))
        done = embed_on_ray(killed)
    thread.join()
    (FOLDER / "kills.json").write_text(json.dumps(kills))
    return done


def interrupt() -> RayJobResult:
    already = set(BEGUN.iterdir())

    def press() -> None:
        while set(BEGUN.iterdir()) == already:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with patch("runtime.ray_jobs.job.ShardEmbedder", SlowEmbedder):
        return embed_on_ray(job("interrupted", inputs=[str(FOLDER / "texts")], column="text", rows_per_part=100))


def with_poison() -> RayJobResult:
    with patch("runtime.ray_jobs.job.ShardEmbedder", MortalEmbedder):
        return embed_on_ray(job("poisoned", inputs=[str(FOLDER / "poison.txt")], rows_per_part=64))


def without_artifact() -> RayJobResult:
    """Run a job on workers that have no copy of the artifact."""

    def worker_options(**options: Any) -> WorkerOptions:
        return WorkerOptions(**options | {"artifact": "/no/such/artifact"})

    with patch("runtime.ray_jobs.job.WorkerOptions", worker_options):
        return embed_on_ray(job("nowhere", inputs=[str(FOLDER / "poison.txt")]))


SCENARIOS: dict[str, Callable[[], RayJobResult]] = {
    "killed": kill_in_the_middle,
    "images": lambda: embed_on_ray(
        job(
            "images",
            artifact=FOLDER / "tiny",
            inputs=[str(FOLDER / "photos")],
            options=EmbedOptions(on_error="skip"),
            rows_per_part=2,
        )
    ),
    "strict": lambda: embed_on_ray(job("strict", artifact=FOLDER / "tiny", inputs=[str(FOLDER / "photos")])),
    "lines": lambda: embed_on_ray(
        job(
            "",
            output=f"{FOLDER.as_uri()}/lines",
            inputs=[str(FOLDER / "lines.jsonl")],
            column="text",
            options=EmbedOptions(on_error="skip", normalize=True, truncate_dim=8),
            rows_per_part=64,
        )
    ),
    "artifact": without_artifact,
    "poison": with_poison,
    "room": lambda: embed_on_ray(job("room", inputs=[str(FOLDER / "poison.txt")], cluster=workers(3))),
    "interrupted": interrupt,
}


def run(scenario: Callable[[], RayJobResult]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        done = scenario()
    except (EmbeddingBackbonesError, KeyboardInterrupt) as exc:
        result = {"error": type(exc).__name__, "message": str(exc)}
    else:
        result = {**dataclasses.asdict(done), "first_error": str(done.first_error)}
    return result | {"seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    BEGUN.mkdir()
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
    results = {name: run(scenario) for name, scenario in SCENARIOS.items()}
    results["poison"]["attempts"] = len(list(BEGUN.glob("poison-*")))
    results["poison"]["most"] = MortalEmbedder.max_attempts
    (FOLDER / "results.json").write_text(json.dumps(results))
