"""The command ``embed``: a job on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from runtime.arguments import parse_path
from runtime.artifact.manifest import Tower, TowerName
from runtime.artifact.reader import read_manifest
from runtime.cli.options import (
    NUMBER,
    NUMBERS,
    add_command,
    add_run_options,
    load_model,
    print_weight_warnings,
    session_keywords,
    take_options,
)
from runtime.errors import UsageError
from runtime.inference.options import EmbedOptions
from runtime.inference.prompts import applied_prompt, prompt_names, quote
from runtime.inference.workers import split_options
from runtime.jobs.finished import check_finished
from runtime.jobs.memory_check import warn_of_memory
from runtime.jobs.origin import name_precision
from runtime.jobs.outputs import OutputOptions, report_path
from runtime.jobs.read_vectors import read_ranges
from runtime.jobs.run import EmbedJob, EmbedJobResult, is_complete, run_job
from runtime.postprocess import Dtype
from runtime.session.provider_options import OPTIONS, CpuOptions, OpenVinoOptions, parse_options
from runtime.session.providers import expected_provider
from runtime.session.session import SessionOptions, count_concurrent_batches
from runtime.uris import SCHEMES, refuse_uri

if TYPE_CHECKING:
    from runtime.inference.embedder import Embedder

_LOCAL_ONLY = ("resume", "ranges", "provider_option", "device_ids")


def add_commands(commands: Any) -> None:
    """Add the command ``embed``."""
    parser = add_command(commands, "embed", _run, "Write the vectors of images, meshes or texts to a file")
    _add_job_options(parser)
    add_run_options(parser)
    _add_engine_options(parser)


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="Items to embed: image files, mesh files or texts, as the artifact requires; folders; patterns, including "
        "**; - for standard input; .txt files, with one item per line; .jsonl, .parquet, .csv and .tsv files, see "
        "--column. Images and meshes are listed by their paths. If the artifact embeds texts and images, an INPUT that "
        "is no file is a text.",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="Write this file, with a row per input in order: .npy (vectors), .npz or .parquet (vectors, names and "
        "index). With --engine ray, write a folder of .parquet files.",
    )
    parser.add_argument(
        "--column",
        help="Read items from this column of .parquet, .csv and .tsv files or key of .jsonl files (default: the kind "
        "of item: text, image or mesh)",
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        default="float32",
        help="Store vectors as this type; int8 needs .npz or .parquet (default: %(default)s)",
    )
    parser.add_argument(
        "--ranges",
        type=parse_path,
        metavar="FILE",
        help="Quantize to int8 with the ranges in this file: an output of int8, or a .npy of [2, dimensions], the "
        "smallest and largest values (default: the ranges of the vectors themselves)",
    )
    parser.add_argument("--normalize", action="store_true", help="Scale vectors to unit length (default: off)")
    parser.add_argument("--truncate-dim", help="Keep only the first N dimensions (default: all dimensions)", **NUMBER)
    parser.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="End the job at an unreadable input (raise), or skip it and list it in OUTPUT.skipped.jsonl (skip). "
        "With --engine ray, a skipped input keeps its row, with an error and no vector (default: %(default)s).",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="Continue an interrupted job. It is always safe: it starts a new job if there is none, and exits if the "
        "job is finished (default: off).",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="Replace an existing output, and drop an interrupted job unless --resume is given (default: off)",
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="Draw a progress bar on standard error (default: only on a terminal)",
    )


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several processes, GPUs or machines")
    group.add_argument(
        "--workers",
        help="Run N processes, each with a session and a share of the threads (default: one session in this process; "
        "with --engine ray, as many as the cluster has room for)",
        **NUMBER,
    )
    group.add_argument("--device-ids", help="Run a process on each of these GPUs (default: none)", **NUMBERS)
    group.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="Run the job on this machine or on a Ray cluster. With ray, --threads counts for each worker "
        "(default: up to 4), and --variant is fp32 by default (default: %(default)s)",
    )
    group.add_argument(
        "--address",
        help="Join the Ray cluster at this address, or start one on this machine for the address local (Ray only; "
        "default: RAY_ADDRESS, or local)",
    )
    group.add_argument(
        "--rows-per-part",
        help="Write at most N rows per output file; a lost worker repeats at most this many. For .txt and .jsonl, "
        "N is rounded up to a multiple of 64 (Ray only; default: a share of the input, from 64 to 16384 texts "
        "or 1024 images or meshes)",
        **NUMBER,
    )


def _run(arguments: argparse.Namespace) -> int:
    options = take_options(EmbedOptions, arguments)
    progress = sys.stderr.isatty() if arguments.progress is None else arguments.progress
    if arguments.engine == "ray":
        return _run_on_ray(arguments, options, progress)
    if arguments.address is not None or arguments.rows_per_part is not None:
        raise UsageError("--address and --rows-per-part are for a cluster; add --engine ray")
    refuse_uri(arguments.output, f"write it here and copy it, or add --engine ray for {SCHEMES}")
    ranges = read_ranges(arguments.ranges) if arguments.ranges else None
    output = OutputOptions(path=Path(arguments.output), dtype=arguments.dtype, ranges=ranges)
    job = take_options(EmbedJob, arguments, output=output, options=options, progress=progress)
    if is_complete(job):
        _report_finished(arguments, job)
        return 0
    _warn_of_memory(arguments)
    with load_model(arguments, workers=arguments.workers, device_ids=arguments.device_ids) as model:
        _mention_prompts(model.loaded_towers(), options)
        _report(job, model, run_job(model, job))
    return 0


def _report_finished(arguments: argparse.Namespace, job: EmbedJob) -> None:
    manifest, precision = read_manifest(arguments.artifact), _find_precision(arguments)
    path = job.output.path
    if not check_finished(job, manifest, variant=arguments.variant, precision=precision):
        print(f"{path} does not tell which job made it: a .npy holds only vectors", file=sys.stderr)
    print(f"{path}: the job is finished, nothing is left to resume; --force embeds everything again")


def _report(job: EmbedJob, model: Embedder, result: EmbedJobResult) -> None:
    path, dtype = job.output.path, "" if job.output.dtype == "float32" else f"{job.output.dtype} "
    dim = job.options.truncate_dim or model.output_dim
    variant = "" if model.variant == "fp32" else f", {model.variant}"
    print(f"{path}: {result.rows} {dtype}vectors of {dim} dimensions by {model.provider}{variant}")
    if result.resumed:
        print(f"an earlier run embedded {result.resumed} of {result.items} inputs")
    if result.rows < result.items:
        print(f"skipped {result.items - result.rows} of {result.items} inputs: see {report_path(path)}")
    if result.truncated:
        print(f"{result.truncated} of {result.rows} texts were cut to the model's token limit")


def _find_precision(arguments: argparse.Namespace) -> str | None:
    """Return the precision that the options ask for; ``None`` if the machine decides."""
    options = parse_options(arguments.provider, arguments.provider_option)
    if options is None and arguments.provider != "auto":
        options = OPTIONS[arguments.provider]()
    if options is None or (isinstance(options, OpenVinoOptions) and options.dtype == "auto"):
        return None
    return name_precision(options)


def _warn_of_memory(arguments: argparse.Namespace) -> None:
    session = SessionOptions(**session_keywords(arguments)).resolved()
    share, *others = split_options(session, arguments.workers, arguments.device_ids)
    provider = expected_provider(share.provider)
    if provider.device != "cpu":
        return  # batches are in the memory of the GPU
    settings = share.provider_options or OPTIONS[provider.name]()
    warn_of_memory(
        arguments.artifact,
        read_manifest(arguments.artifact),
        arguments.tower,
        batch_size=arguments.batch_size,
        limit=settings.memory_limit_bytes if isinstance(settings, CpuOptions) else None,
        workers=1 + len(others),
        concurrent_batches=share.concurrent_batches or count_concurrent_batches(provider, settings, share.threads or 1),
    )


def _mention_prompts(towers: Mapping[TowerName, Tower], options: EmbedOptions) -> None:
    """Print the names of the artifact's prompts if the user chose none and none applies by default."""
    names, chosen = prompt_names(towers), (options.prompt, options.prompt_name) != (None, None)
    if names and not applied_prompt(options, towers) and not chosen:
        print(f"no prompt applies; --prompt-name takes {quote(names)}", file=sys.stderr)


def _run_on_ray(arguments: argparse.Namespace, options: EmbedOptions, progress: bool) -> int:
    for flag in _LOCAL_ONLY:
        if getattr(arguments, flag):
            raise UsageError(f"--{flag.replace('_', '-')} is for one machine; leave it out with --engine ray")
    if arguments.dtype != "float32":
        raise UsageError("--engine ray writes float32; leave --dtype out, or quantize the output later")
    from runtime.ray_jobs.cluster import ClusterOptions, import_ray

    import_ray()  # before modules that need pyarrow
    from runtime.ray_jobs.job import RayJob, embed_on_ray

    manifest = read_manifest(arguments.artifact)
    print_weight_warnings(manifest)
    _mention_prompts(manifest.select_towers(options.tower), options)
    cluster = take_options(ClusterOptions, arguments)
    result = embed_on_ray(take_options(RayJob, arguments, options=options, cluster=cluster, progress=progress))
    workers = f"{result.workers} workers of {result.threads} threads by {' and '.join(result.providers)}"
    print(f"{result.output}: {result.rows} rows in {result.parts} parts from {workers}")
    if result.redone:
        print(f"repeated {result.redone} parts after the loss of a worker")
    if result.truncated:
        print(f"{result.truncated} texts were cut to the model's token limit")
    if result.skipped:
        print(f"{result.skipped} rows have no vector, see their column error; the first: {result.first_error}")
    return 0
