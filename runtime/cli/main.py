"""The command line of ``python -m runtime``: arguments in, exit code out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import console
from runtime.artifact.describe import describe_manifest, weight_warnings
from runtime.artifact.reader import read_manifest
from runtime.cli.options import (
    add_cluster_options,
    add_job_options,
    add_run_options,
    add_session_options,
    add_tune_options,
)
from runtime.errors import UsageError
from runtime.jobs.outputs import OutputOptions, report_path
from runtime.jobs.read_vectors import read_ranges, read_vectors
from runtime.jobs.run import Job, is_complete, run_job
from runtime.preprocess.files import looks_like_image_path
from runtime.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from runtime.inference.embedder import Embedder

_LABEL = 24  # characters of a text that name it in a table


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    return console.run(lambda: arguments.command(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime",
        description="Embed texts, images or meshes from an exported artifact, without PyTorch.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    embed = _command(commands, "embed", _embed, "write the vectors of images, meshes or texts to a file")
    add_job_options(embed)
    add_cluster_options(embed)
    add_run_options(embed)

    similarity = _command(commands, "similarity", _similarity, "print the cosine similarities of a few inputs")
    similarity.add_argument("inputs", nargs="+", metavar="INPUT", help="as for embed")
    add_run_options(similarity)

    search = _command(commands, "search", _search, "print what is nearest to a query among vectors that embed wrote")
    search.add_argument("query", metavar="QUERY", help="one input, as for embed")
    search.add_argument(
        "vectors", type=Path, metavar="VECTORS", help="the file that embed wrote: .npy, .npz or .parquet"
    )
    search.add_argument("--names", type=Path, help="a text file with a name on each line, one for each row of VECTORS")
    search.add_argument("--truncate-dim", type=int, metavar="N", help="as it was given to embed")
    search.add_argument("--top", type=int, default=5, help="how many to print (default: %(default)s)")
    add_run_options(search)

    info = _command(commands, "info", _info, "print what an artifact is; loads no graph")
    info.add_argument("--json", action="store_true", help="print the whole manifest")

    tune = _command(commands, "tune", _tune, "measure what is fastest on this machine, and have load() do that")
    add_tune_options(tune)

    verify = _command(commands, "verify", _verify, "check the hashes, then torch's golden vectors on this machine")
    add_session_options(verify)

    summary = "print what is installed, which providers really run a graph here, and what to mend"
    doctor = commands.add_parser("doctor", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    doctor.add_argument("--json", action="store_true", help="print the report for machines")
    doctor.set_defaults(command=_doctor)
    return parser


def _command(commands: Any, name: str, function: Any, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the artifact's folder")
    parser.set_defaults(command=function)
    return parser


def _embed_on_ray(arguments: argparse.Namespace) -> int:
    from runtime.ray_jobs.job import RayJob, embed_on_ray

    for flag in ("resume", "ranges", "provider_option", "device_ids"):
        if getattr(arguments, flag):
            raise UsageError(f"--{flag.replace('_', '-')} is for one machine; leave it out with --engine ray")
    if arguments.dtype != "float32":
        raise UsageError("--engine ray writes float32; leave --dtype out, or quantize what it wrote")
    done = embed_on_ray(
        RayJob(
            artifact=arguments.artifact,
            inputs=arguments.inputs,
            output=arguments.output,
            column=arguments.column,
            tower=arguments.tower,
            provider=arguments.provider,
            variant=arguments.variant,
            workers=arguments.workers,
            threads=arguments.threads,
            batch_size=arguments.batch_size,
            on_error=arguments.on_error,
            normalize=arguments.normalize,
            truncate_dim=arguments.truncate_dim,
            rows_per_part=arguments.rows_per_part,
            address=arguments.address,
            force=arguments.force,
            progress=_shows_progress(arguments),
        )
    )
    sessions = f"{done.workers} workers of {done.threads} threads by {' and '.join(done.providers)}"
    print(f"{done.output}: {done.rows} rows in {done.parts} parts from {sessions}")
    if done.redone:
        print(f"{done.redone} parts were begun again, after a worker was lost")
    if done.truncated:
        print(f"{done.truncated} texts were cut to the model's limit of tokens")
    if done.skipped:
        print(f"{done.skipped} rows have no vector, and say why in their column error; the first: {done.first_error}")
    return 0


def _shows_progress(arguments: argparse.Namespace) -> bool:
    return sys.stderr.isatty() if arguments.progress is None else bool(arguments.progress)


def _embed(arguments: argparse.Namespace) -> int:
    if arguments.engine == "ray":
        return _embed_on_ray(arguments)
    if arguments.address or arguments.rows_per_part:
        raise UsageError("--address and --rows-per-part are for a cluster; add --engine ray")
    job = _job(arguments)
    if is_complete(job):
        print(f"{arguments.output}: is there already and nothing is left to resume; --force embeds everything again")
        return 0
    with _load(arguments, workers=arguments.workers, device_ids=arguments.device_ids) as model:
        result = run_job(model, job)
    kind = "" if arguments.dtype == "float32" else f"{arguments.dtype} "
    dim = arguments.truncate_dim or model.output_dim
    print(f"{arguments.output}: {result.rows} {kind}vectors of {dim} by {_running(model)}")
    if result.resumed:
        print(f"{result.resumed} of {result.items} inputs were done by an earlier run")
    if result.rows < result.items:
        left_out = result.items - result.rows
        print(f"{left_out} of {result.items} inputs left out: see {report_path(Path(arguments.output))}")
    if result.truncated:
        print(f"{result.truncated} of {result.rows} texts were cut to the model's limit of tokens")
    return 0


def _job(arguments: argparse.Namespace) -> Job:
    ranges = read_ranges(arguments.ranges) if arguments.ranges else None
    return Job(
        words=arguments.inputs,
        column=arguments.column,
        output=OutputOptions(path=Path(arguments.output), dtype=arguments.dtype, ranges=ranges),
        on_error=arguments.on_error,
        resume=arguments.resume,
        force=arguments.force,
        normalize=arguments.normalize,
        truncate_dim=arguments.truncate_dim,
        batch_size=arguments.batch_size,
        progress=_shows_progress(arguments),
    )


def _similarity(arguments: argparse.Namespace) -> int:
    import numpy as np

    model = _load(arguments)
    items = _items(model, arguments.inputs)
    vectors = model.embed(items, batch_size=arguments.batch_size)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    _print_similarities(_labels(model, items), unit @ unit.T)
    return 0


def _search(arguments: argparse.Namespace) -> int:
    import numpy as np

    from runtime.artifact.parity import cosine_similarities

    model = _load(arguments)
    dim = arguments.truncate_dim or model.output_dim
    vectors, names = read_vectors(arguments.vectors, dim)
    if arguments.names:
        names = _read_names(arguments.names, len(vectors))
    names = names or [""] * len(vectors)
    query = model.embed(_items(model, [arguments.query]), batch_size=arguments.batch_size)[:, :dim]
    cosines = cosine_similarities(query, vectors)[0]
    nearest = np.argsort(-cosines, kind="stable")[: arguments.top]
    print(console.table(["row", "cosine", "name"], [[row, f"{cosines[row]:.3f}", names[row]] for row in nearest]))
    return 0


def _read_names(path: Path, rows: int) -> list[str]:
    try:
        names = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read as text ({exc})") from exc
    if len(names) != rows:
        raise UsageError(f"{path} has {len(names)} lines, where the vectors have {rows} rows")
    return names


def _load(
    arguments: argparse.Namespace, *, workers: int | None = None, device_ids: Sequence[int] | None = None
) -> Embedder:
    from runtime.loading.load import load
    from runtime.session.provider_options import parse_options

    model = load(
        arguments.artifact,
        provider=arguments.provider,
        provider_options=parse_options(arguments.provider, arguments.provider_option),
        threads=arguments.threads,
        workers=workers,
        device_ids=device_ids,
        tower=arguments.tower,
        variant=arguments.variant,
    )
    for warning in weight_warnings(model.manifest):
        print(f"WARNING: {warning}", file=sys.stderr)
    return model


def _running(model: Embedder) -> str:
    return model.provider if model.variant == "fp32" else f"{model.provider}, {model.variant}"


def _items(model: Embedder, inputs: Sequence[str]) -> Sequence[str | Path]:
    """Returns the words of the command line as ``embed`` takes them: with two towers, files are paths."""
    if len(model.towers) == 1:
        return inputs
    files = {word for word in inputs if os.path.isfile(word)}  # noqa: PTH113  Path.is_file raises for long texts
    missing = [word for word in inputs if looks_like_image_path(word) and word not in files]
    if missing:
        raise UsageError(f"there is no file {missing[0]}; if it is a text, say so by --tower text")
    return [Path(word) if word in files else word for word in inputs]


def _label(model: Embedder, item: str | Path) -> str:
    if isinstance(item, str) and "text" in model.towers:
        return " ".join(item.split())[:_LABEL] or '""'
    return Path(item).stem


def _labels(model: Embedder, items: Sequence[str | Path]) -> list[str]:
    """Returns a short name for each item: a file's, with its folder where files have one name, or a text's beginning.

    What is still there several times is numbered from the second on.
    """
    labels = [_label(model, item) for item in items]
    if len(set(labels)) < len(labels) and "text" not in model.towers:
        shared = os.path.commonpath([Path(item).absolute().parent for item in items])
        labels = [os.path.relpath(item, shared) for item in items]
    return [
        label if label not in labels[:index] else f"{label} ({labels[:index].count(label) + 1})"
        for index, label in enumerate(labels)
    ]


def _print_similarities(names: Sequence[str], cosines: np.ndarray[Any, Any]) -> None:
    import numpy as np

    others = np.where(np.eye(len(names), dtype=bool), -np.inf, cosines)
    nearest = [names[index] if len(names) > 1 else "-" for index in others.argmax(axis=1)]
    rows = [
        [name, *(f"{value:.3f}" for value in row), best]
        for name, row, best in zip(names, cosines, nearest, strict=True)
    ]
    print(console.table(["cosine", *names, "nearest"], rows))


def _info(arguments: argparse.Namespace) -> int:
    from runtime.loading.tuning_store import read_tuning
    from runtime.tune.report import round_figure

    manifest = read_manifest(arguments.artifact)
    if arguments.json:
        print(manifest.to_json())
        return 0
    print(describe_manifest(manifest))
    for tower in manifest.towers:
        tuning = read_tuning(manifest, tower)
        found = (
            f"{tuning}, {round_figure(tuning.items_per_s)} items/s"
            if tuning
            else "not on this machine; see `python -m runtime tune`"
        )
        print(f"tuned         {tower}: {found}")
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from runtime.loading import tuning_store as memory
    from runtime.tune import report
    from runtime.tune.measure import TuneOptions, measure

    if arguments.forget:
        return _forget(arguments)
    options = TuneOptions(
        max_latency_ms=arguments.max_latency_ms,
        min_cosine=arguments.min_cosine,
        batch_sizes=arguments.batch_sizes,
        threads=arguments.threads,
        provider=arguments.provider,
        tower=arguments.tower,
        rounds=arguments.rounds,
    )
    memory.check_store()
    found = measure(arguments.artifact, options, progress=sys.stderr.isatty())
    print(report.render_json(found) if arguments.json else report.render_text(found))
    if found.winner is None:
        raise report.explain_no_winner(found)
    manifest = read_manifest(arguments.artifact)
    memory.write_tuning(manifest, report.make_tuning(manifest, found.tower, found.winner, options.max_latency_ms))
    if not arguments.json:
        print(f"winner: {found.winner}; load() does so from now on")
    return 0


def _forget(arguments: argparse.Namespace) -> int:
    from runtime.loading import tuning_store as memory

    manifest = read_manifest(arguments.artifact)
    towers = [arguments.tower] if arguments.tower else list(manifest.towers)
    forgotten = [tower for tower in towers if memory.remove_tuning(manifest, tower)]
    print(f"forgotten: {' and '.join(forgotten)}" if forgotten else "there was nothing to forget on this machine")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from runtime.loading.verify import describe_verification, verify
    from runtime.session.provider_options import parse_options

    options = parse_options(arguments.provider, arguments.provider_option)
    result = verify(
        arguments.artifact,
        provider=arguments.provider,
        provider_options=options,
        threads=arguments.threads,
        variant=arguments.variant,
    )
    print(f"verified: hashes, and golden vectors with {describe_verification(result)}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from runtime.doctor import examine, render_json, render_text

    report = examine()
    print(render_json(report) if arguments.json else render_text(report))
    return 0 if report.healthy else console.FAILURE
