"""The catalogue as a table, JSON or Markdown."""

from __future__ import annotations

import json

from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import BackboneSpec
from runtime import console
from runtime.artifact.manifest import TASKS
from runtime.errors import UsageError

OTHER_MODELS = (
    "Any other encoder is named by its folder, its hub id such as intfloat/e5-small-v2, or its library: timm:NAME, "
    "torchvision:NAME, open_clip:MODEL or open_clip:MODEL/TAG."
)
COLUMNS = ("name", "task", "output_dim", "architecture", "description")


def describe_models(task: str | None = None) -> None:
    """Print the catalogue, all or one ``task``, as a table, as Finetuner's function of the same name did.

    Raises:
        UsageError: The task does not exist.
    """
    print(as_table(task))


def list_models(task: str | None = None) -> list[BackboneSpec]:
    """Return the entries of the catalogue, all or those of one task.

    Raises:
        UsageError: The task does not exist.
    """
    if task is not None and task not in TASKS:
        raise UsageError(f"there is no task {task!r}; use one of {', '.join(TASKS)}")
    return [spec for spec in BACKBONES.values() if task in (None, spec.task)]


def as_table(task: str | None = None) -> str:
    """Return the catalogue as aligned text."""
    return console.table(COLUMNS, [_row(spec) for spec in list_models(task)])


def as_json(task: str | None = None) -> str:
    """Return the catalogue as a JSON array of objects with the columns, ``note`` and ``exportable``."""
    rows = [
        {column: getattr(spec, column) for column in (*COLUMNS, "note")} | {"exportable": spec.source is not None}
        for spec in list_models(task)
    ]
    return json.dumps(rows, indent=2)


def as_markdown(task: str | None = None) -> str:
    """Return the catalogue as the README's table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(_row(spec) for spec in list_models(task))]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _row(spec: BackboneSpec) -> list[object]:
    description = spec.description + (f" ({spec.note})" if spec.note else "")
    return [spec.name, spec.task, spec.output_dim, spec.architecture, description]
