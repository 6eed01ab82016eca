"""Runs jobs on one Ray cluster, in a process of its own: Ray warns, and pytest takes warnings for errors.

Called with a folder that holds an artifact of texts, one of images, and inputs; leaves results.json there.
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
from runtime.ray_jobs import job as on_ray
from runtime.ray_jobs.actor import PieceEmbedder, Receipt
from runtime.ray_jobs.job import RayJob, RaySummary, embed_on_ray
from runtime.ray_jobs.shards import Piece, Rows

FOLDER = Path(sys.argv[1])
BEGUN = FOLDER / "begun"


class Slow(PieceEmbedder):
    """Says which piece it begins, and takes its time, so that it can be killed in the middle of one."""

    def _embed(self, piece: Piece, attempt: int) -> Receipt:
        (BEGUN / f"{piece.number}-{attempt}-{os.getpid()}").touch()
        if 4 <= piece.number < 10:
            time.sleep(0.3)
        return super()._embed(piece, attempt)


class Mortal(PieceEmbedder):
    """Dies of an item, as native code may."""

    most_attempts = 1

    def _read(self, piece: Piece) -> Rows:
        rows = super()._read(piece)
        if "poison" in rows.items:
            (BEGUN / f"poison-{time.monotonic_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rows


def job(name: str, **changes: Any) -> RayJob:
    """Returns a small job; one worker starts sooner than two."""
    common = {"artifact": FOLDER / "toy", "output": str(FOLDER / name), "workers": 1, "threads": 1, "provider": "cpu"}
    return RayJob(**{**common, **changes})


def kill_in_the_middle() -> RaySummary:
    """Kills the worker of a piece that is begun and not yet written, and notes how much was left to do."""

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
    with patch.object(on_ray, "PieceEmbedder", Slow):
        done = embed_on_ray(job("killed", inputs=[str(FOLDER / "texts")], column="text", rows_per_part=100, workers=2))
    thread.join()
    (FOLDER / "kills.json").write_text(json.dumps(kills))
    return done


def interrupt() -> RaySummary:
    already = set(BEGUN.iterdir())

    def press() -> None:
        while set(BEGUN.iterdir()) == already:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with patch.object(on_ray, "PieceEmbedder", Slow):
        return embed_on_ray(job("interrupted", inputs=[str(FOLDER / "texts")], column="text", rows_per_part=100))


def with_poison() -> RaySummary:
    with patch.object(on_ray, "PieceEmbedder", Mortal):
        return embed_on_ray(job("poisoned", inputs=[str(FOLDER / "poison.txt")], rows_per_part=64))


def without_artifact() -> RaySummary:
    """As on a machine that has no copy of the artifact."""
    told = on_ray._options
    with patch.object(
        on_ray, "_options", lambda *given: dataclasses.replace(told(*given), artifact="/no/such/artifact")
    ):
        return embed_on_ray(job("nowhere", inputs=[str(FOLDER / "poison.txt")]))


SCENARIOS: dict[str, Callable[[], RaySummary]] = {
    "killed": kill_in_the_middle,
    "images": lambda: embed_on_ray(
        job("images", artifact=FOLDER / "tiny", inputs=[str(FOLDER / "photos")], on_error="skip", rows_per_part=2)
    ),
    "strict": lambda: embed_on_ray(job("strict", artifact=FOLDER / "tiny", inputs=[str(FOLDER / "photos")])),
    "lines": lambda: embed_on_ray(
        job(
            "",
            output=f"{FOLDER.as_uri()}/lines",
            inputs=[str(FOLDER / "lines.jsonl")],
            column="text",
            on_error="skip",
            normalize=True,
            truncate_dim=8,
            rows_per_part=64,
        )
    ),
    "artifact": without_artifact,
    "poison": with_poison,
    "room": lambda: embed_on_ray(job("room", inputs=[str(FOLDER / "poison.txt")], workers=3)),
    "interrupted": interrupt,
}


def run(scenario: Callable[[], RaySummary]) -> dict[str, Any]:
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
    results["poison"]["most"] = Mortal.most_attempts
    (FOLDER / "results.json").write_text(json.dumps(results))
