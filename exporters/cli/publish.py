"""The command ``publish``."""

from __future__ import annotations

import argparse
from typing import Any

from exporters.progress import StageDisplay
from exporters.publish.names import LAYOUT_NAMES
from runtime.arguments import ListAction, parse_path
from runtime.artifact.variants import VARIANT_NAMES
from runtime.errors import UsageError, needs_extra


def add_commands(commands: Any) -> None:
    """Add the command ``publish``."""
    parser = commands.add_parser("publish", help="Lay an artifact out for other programs")
    parser.description = (
        "Write ARTIFACT in the layouts of other programs. Each layout is opened again and held to the golden vectors "
        "of the artifact. The folder is written only if all layouts pass. Their READMEs say how to use them, and where "
        "a program gives other vectors."
    )
    parser.set_defaults(command=_publish)
    add = parser.add_argument
    add("artifact", type=parse_path, metavar="ARTIFACT", help="Folder of the artifact")
    add("--to", action=ListAction, choices=LAYOUT_NAMES, required=True, help="Write these layouts")
    add(
        "-o",
        "--output",
        type=parse_path,
        required=True,
        metavar="FOLDER",
        help="Make this folder, with a folder of its name for each layout",
    )
    add(
        "--variant",
        action=ListAction,
        choices=VARIANT_NAMES,
        default=(),
        help="Publish these variants; the README of a layout opens the first one (default: all that a layout has names "
        "for; fp32 if it holds one graph)",
    )
    add(
        "--token-type-ids",
        action="store_true",
        help="Give text graphs an unused input token_type_ids, for programs that always give it, such as chromadb. "
        "Only huggingface, openvino and single take this (default: no)",
    )
    add(
        "--push",
        metavar="ORG/NAME",
        help="Upload the only layout to this repository of the Hugging Face hub. Other graphs in it, ONNX or OpenVINO, "
        "are deleted (default: no upload)",
    )
    add(
        "--private",
        action="store_true",
        help="With --push: if the repository does not exist, make a private one (default: as your settings on the hub "
        "say, often public)",
    )


def _publish(arguments: argparse.Namespace) -> int:
    if arguments.push and len(set(arguments.to)) > 1:
        raise UsageError("--push uploads one layout; name one by --to")
    if arguments.private and not arguments.push:
        raise UsageError("--private is for --push; give both, or leave it out")
    with needs_extra("publish", "publishing"):
        from exporters.publish.publish import publish
        from exporters.publish.push import push

    folders = publish(
        arguments.artifact,
        arguments.to,
        arguments.output,
        variants=arguments.variant,
        token_types=arguments.token_type_ids,
        stage=StageDisplay(),
    )
    for folder in folders:
        print(f"{folder}: its README.md says how to use it")
    if arguments.push:
        print(push(folders[0], arguments.push, private=arguments.private))
    return 0
