"""Write the README of a layout: a model card that says how to use it, and where a consumer differs."""

from __future__ import annotations

from pathlib import Path

from exporters.publish.layout import Card, Layout
from exporters.publish.source import Source
from runtime.artifact.describe import describe_manifest, weight_warnings
from runtime.artifact.parity import format_cosine
from runtime.machine.cpu import cpu_model, int8_units
from runtime.session.providers import installed_packages
from runtime.version import __version__

README_FILE = "README.md"


def write_card(source: Source, layout: Layout, card: Card, folder: Path) -> None:
    """Write ``README.md``."""
    manifest = source.manifest
    head = "".join(f"{key}: {value}\n" for key, value in card.metadata.items())
    parts = [
        f"---\n{head}tags:\n- onnx\n- feature-extraction\n---",
        f"# {manifest.name}",
        *(f"> **WARNING: {warning}.**" for warning in weight_warnings(manifest)),
        f"The embedding model {manifest.name} ({manifest.task}, {manifest.output_dim} dimensions) in the layout "
        f"`{layout.name}`, for {layout.consumers}. embedding-backbones {__version__} wrote it from the artifact "
        f"`{manifest.sha256[:12]}`.",
        f"## Use it\n\n{card.usage}",
        f"## Held to the golden vectors\n\n{_describe_held(source, card)}",
        f"## Where a consumer differs\n\n{_describe_differences(card)}",
        f"## The model\n\n{_describe_limits(source)}```text\n{describe_manifest(manifest)}\n```",
    ]
    (folder / README_FILE).write_text("\n\n".join(parts) + "\n", "utf-8")


def _describe_held(source: Source, card: Card) -> str:
    rows = "\n".join(f"| `{held.file}` | {held.what} | {format_cosine(held.min_cosine)} |" for held in card.held)
    units = ", ".join(sorted(int8_units())) or "no 8-bit units such as VNNI"
    package = " ".join(next(iter(installed_packages().items()), ("onnxruntime", "")))
    text = (
        "Each graph was opened again after it was written, in a session with default settings. It embedded "
        f"{len(source.golden(next(iter(source.manifest.towers)))[0])} items; the table has the smallest cosine "
        f"similarity to the vectors of the model's own library. Measured with {package} on {cpu_model()} ({units})."
    )
    return f"{text}\n\n| file | variant | min cosine |\n|---|---|---|\n{rows}" + _describe_int8(card)


def _describe_int8(card: Card) -> str:
    text = ""
    if any("int8" in held.what for held in card.held):
        text += "\n\nint8 graphs have unsigned weights, so that CPUs without VNNI add up their products exactly."
    if any("vnni" in held.file for held in card.held):
        text += (
            " The graph for CPUs with VNNI has signed weights, as exported, and is faster there. Elsewhere its sums "
            'saturate without the session setting `session.x64quantprecision` = "1", with which it was measured.'
        )
    return text


def _describe_differences(card: Card) -> str:
    return "\n".join(f"- {each}" for each in card.differences) or "Nowhere that we know of."


def _describe_limits(source: Source) -> str:
    if "text" not in source.manifest.towers:
        return ""
    recipe = source.text
    prompts = "".join(f"- `{name}`: `{prompt!r}`\n" for name, prompt in recipe.prompts.items())
    stated = f"Texts are cut to {recipe.max_length} tokens, special ones included.\n\n"
    if not prompts:
        return stated
    return f"{stated}Prompts, to be put before a text (default: {recipe.default_prompt}):\n\n{prompts}\n"
