"""Adapters of PEFT, such as LoRA: merged into the model that they adapt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sentence_transformers import SentenceTransformer
from torch import nn

from exporters.errors import WeightsError
from exporters.weights.parsing import parsing, read_json, summarize_error
from exporters.weights.state_dict import escape_name, hash_values
from runtime.artifact.manifest import Weights

ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter instead of a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def describe_adapter(folder: Path, model: SentenceTransformer, weights: Weights) -> Weights:
    """Return the record of an adapter with the model that it adapts. Its hash covers the values of both."""
    with parsing(folder / ADAPTER_CONFIG):
        base = str(read_json(folder / ADAPTER_CONFIG)["base_model_name_or_path"])
    name = escape_name(Path(base).name if Path(base).exists() else base)
    return replace(weights, description=f"{weights.description}, an adapter of {name}", sha256=hash_values(model))


def merge_adapters(encoder: nn.Module) -> None:
    """Add the weights of all adapters to those of their layers, in place.

    Raises:
        WeightsError: peft cannot merge an adapter: its kind has no merged form, or its weights contain NaN.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(encoder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            try:
                module.merge(safe_merge=True)
            except (NotImplementedError, ValueError) as exc:
                raise WeightsError(
                    f"peft cannot merge the adapter of {name} ({summarize_error(exc)}); export an adapter that it can "
                    "merge, or the model without it"
                ) from exc
            encoder.set_submodule(name, module.get_base_layer())
