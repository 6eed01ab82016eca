"""The commands about an artifact: ``sign`` and ``bom``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from runtime.arguments import parse_path


def add_commands(commands: Any) -> None:
    """Add the commands ``sign`` and ``bom``."""
    sign = commands.add_parser("sign", help="Sign an artifact with a private key")
    sign.description = (
        "Sign all files of ARTIFACT, and write the signature into its folder. `python -m runtime verify ARTIFACT "
        "--require-signature PUBLIC_KEY` checks it, and so does the OpenSSF's `model_signing verify key`."
    )
    sign.add_argument(
        "--key",
        type=parse_path,
        required=True,
        metavar="PRIVATE_KEY",
        help="Sign with this private key of an elliptic curve, an unencrypted PEM file",
    )
    bom = commands.add_parser("bom", help="Print the bill of materials of an artifact")
    bom.description = (
        "Print the bill of materials of ARTIFACT as JSON, in the format CycloneDX 1.6: its files with their hashes, "
        "the origin and the licence of the weights, and a model card with the figures of parity."
    )
    for parser, command in ((sign, _sign), (bom, _bom)):
        parser.set_defaults(command=command)
        parser.add_argument("artifact", type=parse_path, metavar="ARTIFACT", help="Folder of the artifact")


def _sign(arguments: argparse.Namespace) -> int:
    from exporters.signature import sign_artifact

    print(f"{sign_artifact(arguments.artifact, arguments.key)}: signed with {arguments.key}")
    return 0


def _bom(arguments: argparse.Namespace) -> int:
    from exporters.bom import make_bom

    print(json.dumps(make_bom(arguments.artifact), indent=2))
    return 0
