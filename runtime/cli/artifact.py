"""The commands ``info``, ``verify`` and ``doctor``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from runtime import console
from runtime.arguments import parse_path
from runtime.artifact.describe import describe_manifest
from runtime.artifact.reader import check_files, read_manifest
from runtime.artifact.variants import VARIANT_NAMES
from runtime.cli.options import NUMBER, add_command, add_session_options, session_keywords
from runtime.errors import UsageError
from runtime.jobs.canary import DEFAULT_SAMPLE


def add_info(commands: Any) -> None:
    """Add the command ``info``."""
    info = add_command(commands, "info", _info, "Print a description of an artifact")
    info.add_argument("--json", action="store_true", help="Print the manifest as JSON (default: a summary)")
    info.add_argument(
        "--placement",
        action="store_true",
        help="Load the graphs and tell how many of their nodes run on the CPU instead of the provider, and how many "
        "copies that makes (default: load nothing)",
    )
    add_session_options(info)


def add_verify(commands: Any) -> None:
    """Add the command ``verify``."""
    verify = add_command(
        commands,
        "verify",
        _verify,
        "Check the hashes of an artifact, and its vectors on this machine against those of its export",
    )
    verify.add_argument(
        "--vectors",
        type=parse_path,
        metavar="FILE",
        help="Also embed again a sample of what this output of embed was made of, and compare with its vectors. The "
        "exit code is 0 only if every item of the sample is found again and gives the same vector (default: no file)",
    )
    verify.add_argument(
        "--sample",
        help=f"Embed again this number of rows of --vectors, spread evenly (default: {DEFAULT_SAMPLE})",
        **NUMBER,
    )
    verify.add_argument(
        "--require-signature",
        type=parse_path,
        metavar="PUBLIC_KEY",
        help="First check that the artifact is signed with the private key of this PEM file, see the command sign of "
        "exporters (default: no signature is required)",
    )
    add_session_options(verify)


def add_compat(commands: Any) -> None:
    """Add the command ``compat``."""
    compat = add_command(
        commands,
        "compat",
        _compat,
        "Tell whether the vectors of two artifacts, or of an artifact and a file, may be compared, and what differs",
    )
    compat.add_argument(
        "other",
        type=parse_path,
        metavar="OTHER",
        help="Folder of another artifact, or an output of embed: a .npz or .parquet file, or a folder of a Ray job",
    )
    for flag, side in (("--variant", "ARTIFACT"), ("--other-variant", "OTHER, if it is an artifact")):
        compat.add_argument(
            flag, choices=VARIANT_NAMES, default="fp32", help=f"Compare this variant of {side} (default: %(default)s)"
        )


def add_doctor(commands: Any) -> None:
    """Add the command ``doctor``."""
    summary = "Print the installed packages, the execution providers that work here, and advice for each problem"
    doctor = commands.add_parser("doctor", help=summary, description=f"{summary}.")
    doctor.add_argument("--json", action="store_true", help="Print the report as JSON (default: as text)")
    doctor.set_defaults(command=_doctor)


def _info(arguments: argparse.Namespace) -> int:
    from runtime.loading.tuning_store import read_tuning
    from runtime.tune.report import round_figure

    session = session_keywords(arguments)
    if not arguments.placement and any(value not in (None, "auto") for value in session.values()):
        raise UsageError("info loads no graph without --placement, so the options of a session need it; add it")
    if arguments.json and arguments.placement:
        raise UsageError("--json prints the manifest, which has no --placement; leave one of them out")
    manifest = read_manifest(arguments.artifact)
    if arguments.json:
        print(manifest.to_json())
        return 0
    print(describe_manifest(manifest))
    for tower in manifest.towers:
        tuning = read_tuning(manifest, tower)
        found = "not on this machine; see `python -m runtime tune`"
        if tuning:
            found = f"{tuning}, {round_figure(tuning.winner.items_per_s)} items/s"
        print(f"tuned         {tower}: {found}")
    if arguments.placement:
        from runtime.loading.placements import find_placements

        for name, placement in find_placements(arguments.artifact, **session).items():
            print(f"placement     {name}: {placement}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from runtime.loading.verify import describe_verification, verify

    if arguments.require_signature:
        from runtime.artifact.signature import check_signature

        check_signature(arguments.artifact, arguments.require_signature)
        print(f"verified: signed with the private key of {arguments.require_signature}")
    if arguments.sample is not None and not arguments.vectors:
        raise UsageError("--sample is for --vectors; add it, or leave --sample out")
    if arguments.vectors:
        return _verify_vectors(arguments)
    result = verify(arguments.artifact, **session_keywords(arguments))
    print(f"verified: hashes, and golden vectors with {describe_verification(result)}")
    return 0


def _verify_vectors(arguments: argparse.Namespace) -> int:
    """Verify the artifact, then the vectors of a file, with the towers and the variant that made them."""
    from runtime.jobs.canary import check_vectors, describe_canary, recorded_origin
    from runtime.jobs.origin import check_space
    from runtime.loading.load import load
    from runtime.loading.verify import describe_verification, verify_model

    origin, session = recorded_origin(arguments.vectors), session_keywords(arguments)
    if session["variant"] == "auto" and origin.variant in VARIANT_NAMES:
        session["variant"] = origin.variant
    tower = origin.towers[0] if len(origin.towers) == 1 else None
    check_files(arguments.artifact, read_manifest(arguments.artifact))
    with load(arguments.artifact, tower=tower, check_hashes=False, **session) as model:
        verification = verify_model(model, arguments.artifact)
        print(f"verified: hashes, and golden vectors with {describe_verification(verification)}")
        if doubt := check_space(model, arguments.vectors, origin):
            print(f"note: {doubt}", file=sys.stderr)
        result = check_vectors(
            model, arguments.vectors, DEFAULT_SAMPLE if arguments.sample is None else arguments.sample
        )
    for line in (*(f"lost: {row}" for row in result.lost), *(f"changed: {row}" for row in result.changed)):
        print(console.printable(line), file=sys.stderr)
    print(f"{'verified' if result.passes else 'NOT VERIFIED'}: {arguments.vectors}, {describe_canary(result)}")
    return 0 if result.passes else console.FAILURE


def _compat(arguments: argparse.Namespace) -> int:
    from runtime.jobs.compat import compare_spaces, describe_comparison

    variants = {"variant": arguments.variant, "other_variant": arguments.other_variant}
    comparison = compare_spaces(arguments.artifact, arguments.other, **variants)
    print(console.printable(describe_comparison(comparison)))
    return 0 if comparison.comparable else console.FAILURE


def _doctor(arguments: argparse.Namespace) -> int:
    from runtime.doctor import examine, render_json, render_text

    report = examine()
    print(render_json(report) if arguments.json else render_text(report))
    return 0 if report.healthy else console.FAILURE
