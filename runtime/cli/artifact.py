"""The commands ``info``, ``verify`` and ``doctor``."""

from __future__ import annotations

import argparse
from typing import Any

from runtime import console
from runtime.artifact.describe import describe_manifest
from runtime.artifact.reader import read_manifest
from runtime.cli.options import add_command, add_session_options, session_keywords
from runtime.errors import UsageError


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
    add_session_options(verify)


def add_doctor(commands: Any) -> None:
    """Add the command ``doctor``."""
    summary = "Print the installed packages, the execution providers that work here, and advice for each problem"
    doctor = commands.add_parser("doctor", help=summary, description=f"{summary}.")
    doctor.add_argument("--json", action="store_true", help="Print the report as JSON (default: as text)")
    doctor.add_argument(
        "--artifact",
        metavar="FOLDER",
        help="Also tell where the nodes of this artifact's graphs run (default: no artifact)",
    )
    doctor.set_defaults(command=_doctor)


def _info(arguments: argparse.Namespace) -> int:
    from runtime.loading.tuning_store import read_tuning
    from runtime.tune.report import round_figure

    session = session_keywords(arguments)
    if not arguments.placement and any(value not in (None, "auto") for value in session.values()):
        raise UsageError("info loads no graph without --placement, so the options of a session need it; add it")
    manifest = read_manifest(arguments.artifact)
    if arguments.json:
        print(manifest.to_json())
        return 0
    print(describe_manifest(manifest))
    for tower in manifest.towers:
        tuning = read_tuning(manifest, tower)
        found = "not on this machine; see `python -m runtime tune`"
        if tuning:
            found = f"{tuning}, {round_figure(tuning.items_per_s)} items/s"
        print(f"tuned         {tower}: {found}")
    if arguments.placement:
        from runtime.loading.placements import find_placements

        for name, placement in find_placements(arguments.artifact, **session).items():
            print(f"placement     {name}: {placement}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from runtime.loading.verify import describe_verification, verify

    result = verify(arguments.artifact, **session_keywords(arguments))
    print(f"verified: hashes, and golden vectors with {describe_verification(result)}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from runtime.doctor import examine, render_json, render_text

    report = examine(arguments.artifact)
    print(render_json(report) if arguments.json else render_text(report))
    return 0 if report.healthy else console.FAILURE
