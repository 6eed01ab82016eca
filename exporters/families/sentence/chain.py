"""The modules of a SentenceTransformer as one module that can be traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    LayerNorm,
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
)
from torch import Tensor, nn

from exporters.errors import WeightsError
from exporters.modules.pooling import TokenPool
from runtime.artifact import manifest


class GeMPooling(Module):
    """Generalised-mean pooling, which only Finetuner has, as a module of a SentenceTransformer.

    A graph gets :class:`PoolingStep` instead. This module is the reference, is trained, and is saved in checkpoints.
    """

    config_keys: list[str] = ["embedding_dimension", "p", "eps", "include_prompt"]  # noqa: RUF012  as the library has it

    def __init__(self, embedding_dimension: int, p: float, eps: float, *, include_prompt: bool = True) -> None:
        """Keep the settings. ``include_prompt`` tells whether the tokens of a prompt are pooled too."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.embedding_dimension, self.p, self.eps, self.include_prompt = embedding_dimension, p, eps, include_prompt

    def get_embedding_dimension(self) -> int:
        """Return the length of a pooled vector."""
        return self.embedding_dimension

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Pool the tokens that the mask keeps, in float64."""
        start = 0 if self.include_prompt else int(torch.as_tensor(features.get("prompt_length", 0)).flatten()[0])
        weights = features["attention_mask"].unsqueeze(-1)[:, start:].double()
        powers = features["token_embeddings"][:, start:].double().clamp(min=self.eps).pow(self.p)
        pooled: Tensor = ((powers * weights).sum(dim=1) / weights.sum(dim=1)).pow(1 / self.p)
        features["sentence_embedding"] = pooled.float()
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the settings into a checkpoint."""
        self.save_config(output_path)


# Modules that a graph can hold.
_KNOWN = (Dense, Dropout, GeMPooling, LayerNorm, Normalize, Pooling, WeightedLayerPooling)


class StaticMean(nn.Module):
    """The mean of the rows of a table: what StaticEmbedding computes, for ids with padding."""

    def __init__(self, embedding: nn.EmbeddingBag) -> None:
        """Keep the table."""
        super().__init__()
        self.weight = embedding.weight
        self.pool = TokenPool(manifest.Pooling(method="mean"))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Embed; a text without tokens gets zeros, as in the library."""
        tokens = nn.functional.embedding(features["input_ids"], self.weight)
        features["sentence_embedding"] = self.pool(tokens, features["attention_mask"])
        return features


class PoolingStep(nn.Module):
    """:class:`TokenPool` as a module of a chain. It pools as the library, with operators that run on every provider."""

    def __init__(self, pooling: manifest.Pooling, *, skips_prompt: bool) -> None:
        """Build the pooling."""
        super().__init__()
        self.pool = TokenPool(pooling, skips_prompt=skips_prompt)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Pool the tokens that ``pooling_mask`` or else ``attention_mask`` keeps."""
        mask = features.get("pooling_mask", features["attention_mask"])
        features["sentence_embedding"] = self.pool(features["token_embeddings"], mask)
        return features


class Chain(nn.Module):
    """The modules of a SentenceTransformer in a row: the graph's inputs to ``[batch, output_dim]``.

    The modules share their weights with the library's model, which stays as it is.
    """

    def __init__(
        self, modules: Sequence[nn.Module], inputs: Sequence[str], output_dim: int, *, zero_types: bool
    ) -> None:
        """Keep the modules. ``zero_types`` tells whether the encoder needs token type ids that are all 0."""
        super().__init__()
        self.steps = nn.ModuleList(_traceable(module) for module in modules)
        self.inputs, self.output_dim, self.zero_types = tuple(inputs), output_dim, zero_types

    def forward(self, *tensors: Tensor) -> Tensor:
        """Embed."""
        features: dict[str, Any] = dict(zip(self.inputs, tensors, strict=True))
        if self.zero_types:
            features["token_type_ids"] = features["input_ids"].new_zeros(features["input_ids"].shape)
        for step in self.steps:
            features = step(features)
        embedding: Tensor = features["sentence_embedding"]
        return embedding[:, : self.output_dim]


def read_pooling(modules: Sequence[nn.Module]) -> manifest.Pooling:
    """Return the record of the chain's pooling; ``model`` if a module before it pools by itself."""
    for module in modules:
        if isinstance(module, GeMPooling):
            return manifest.Pooling(method="gem", p=module.p, eps=module.eps)
        if isinstance(module, Pooling):
            modes: Any = module.pooling_mode
            names: list[Any] = [modes] if isinstance(modes, str) else list(modes)
            return manifest.Pooling(method=names[0], others=tuple(names[1:]))
        if isinstance(module, StaticEmbedding):
            return manifest.Pooling(method="mean")
    return manifest.Pooling(method="model")


def skips_prompt(modules: Sequence[nn.Module]) -> bool:
    """Tell whether the pooling leaves the tokens of a prompt out."""
    return any(not getattr(module, "include_prompt", True) for module in modules)


def check_modules(model: SentenceTransformer, source: str, *, trusted: bool) -> None:
    """Check that a graph can hold every module of the model from ``source``.

    Raises:
        WeightsError: It has a module of another kind, or one that may embed queries and documents differently. Or its
            weights are quantized, or it is a mixture of experts.
    """
    if "task" in model.get_model_kwargs():
        raise WeightsError(
            f"{source} has a module that takes a task, as Router does: queries and documents may get different "
            "vectors, and a graph gives both the same; save the modules of one task as a model, or take the task out "
            "of the kwargs in its modules.json"
        )
    if quantized := {type(each).__name__ for each in model.parameters()} - {nn.Parameter.__name__}:
        raise WeightsError(
            f"{source} has quantized weights ({', '.join(sorted(quantized))}), which a graph cannot hold; export the "
            "model that was quantized, and quantize its graph by --precision int8"
        )
    if any(type(module).__name__.endswith("Experts") for module in model.modules()):
        raise WeightsError(
            f"{source} is a mixture of experts: torch cannot export how it chooses an expert for each token; export a "
            "model without experts"
        )
    first, *others = list(model)
    if not isinstance(first, Transformer | StaticEmbedding):
        raise WeightsError(
            f"the first module of {source} is a {type(first).__name__}, expected a Transformer or a StaticEmbedding; "
            "save one that begins so with sentence-transformers"
        )
    for module in others:
        if type(module) not in _KNOWN and not trusted:
            raise WeightsError(
                f"{source} has a module {type(module).__name__}, which a graph cannot hold; save it without that module"
            )


def refuse_processing(first: nn.Module, source: str) -> None:
    """Check that the first module prepares queries and documents alike, in the one way that the runtime has.

    Raises:
        WeightsError: It states another way.
    """
    for name in ("query_length", "document_length", "query_expansion", "processing_kwargs"):
        if value := getattr(first, name, None):
            raise WeightsError(f"{source} states {name} {value}, which the runtime cannot do; remove it")


def describe_modules(modules: Sequence[nn.Module]) -> tuple[str, ...]:
    """Return each module after the encoder in words."""
    return tuple(_describe(module) for module in modules)


def _describe(module: nn.Module) -> str:
    name = type(module).__name__
    if isinstance(module, GeMPooling):
        return name + ", without the prompt" * (not module.include_prompt)
    if isinstance(module, Pooling):
        modes = module.pooling_mode if isinstance(module.pooling_mode, str) else " + ".join(module.pooling_mode)
        return f"{name}: {modes}" + ", without the prompt" * (not module.include_prompt)
    if isinstance(module, Dense):
        what = f"{module.in_features} to {module.out_features}, {type(module.activation_function).__name__}"
        places = f", {module.module_input_name} to {module.module_output_name}"
        plain = module.module_input_name == module.module_output_name == "sentence_embedding"
        return f"{name}: {what}" + ", residual" * module.use_residual + places * (not plain)
    return name


def _traceable(module: nn.Module) -> nn.Module:
    if isinstance(module, Pooling | GeMPooling):
        return PoolingStep(read_pooling([module]), skips_prompt=skips_prompt([module]))
    return StaticMean(module.embedding) if isinstance(module, StaticEmbedding) else module
