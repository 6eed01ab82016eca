"""Write tiny text checkpoints as sentence-transformers and transformers do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
    Pooling,
    Transformer,
)
from torch import nn
from transformers import PreTrainedModel

from tests.exporters.families.vocabularies import (
    surround,
)

DIM = 32
LIMIT = 96
SIZES: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder that a library writes, and how its export ends.

    Attributes:
        write: Writes the files of the model into a folder.
        refused: Why the export is refused; empty if it succeeds.
        says: Words of the refusal.
        options: Options of the export.
        limit: Limit of tokens that the library has to be given, where its own is above the model's positions.
        empty: Whether the library itself can embed an empty text.
        fast: Whether the case belongs to the fast tests although it is exported.
        traced: Whether the refusal comes after the export.
    """

    write: Callable[[Path], None]
    refused: str = ""
    says: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    empty: bool = True
    fast: bool = False
    traced: bool = False

    @property
    def slow(self) -> bool:
        """Whether the case takes many seconds and is not for the fast tests."""
        return not self.fast and (self.traced or not self.refused)


def _randomize(model: nn.Module) -> None:
    """Set weights of which every part shows in the vectors: the default standard deviation of 0.02 is too small."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * 0.15)
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.05)
            else:
                parameter.add_(noise * 0.1)


def build_model(name: str, tokenizer: Any, **config: Any) -> PreTrainedModel:
    """Return a model of a class of transformers with random weights."""
    model_class = getattr(transformers, name)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    ids = {name: index for name, index in ids.items() if index is not None}
    config = {"vocab_size": len(tokenizer), **ids, **config}
    model: PreTrainedModel = model_class(model_class.config_class(**config))
    _randomize(model)
    nn.Module.eval(model)
    return model


def save_encoder(folder: Path, model: PreTrainedModel, tokenizer: Any, **options: Any) -> None:
    """Write a folder in the layout of transformers."""
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)


def save_chain(folder: Path, *modules: nn.Module, limit: int | None = None, **options: Any) -> None:
    """Replace a folder in the layout of transformers by that of sentence-transformers.

    Args:
        folder: The encoder, in the layout of transformers.
        modules: All modules after the encoder.
        limit: Largest number of tokens.
        options: Arguments of SentenceTransformer: prompts, default_prompt_name, truncate_dim.
    """
    encoder = Transformer(str(folder), **({} if limit is None else {"max_seq_length": limit}))
    shutil.rmtree(folder)
    save_modules(folder, encoder, *modules, **options)


def save_modules(folder: Path, *modules: nn.Module, **options: Any) -> None:
    """Save a model of sentence-transformers that consists of ``modules``."""
    torch.manual_seed(1)
    SentenceTransformer(modules=list(modules), device="cpu", **options).save(str(folder), create_model_card=False)


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; ``...`` removes a key."""
    document = json.loads(path.read_text("utf-8")) if path.exists() else {}
    document = {key: value for key, value in (document | changes).items() if value is not ...}
    path.write_text(json.dumps(document, indent=2), "utf-8")


Words = Callable[[], Any]
Chain = Callable[[], tuple[nn.Module, ...]]
TWO_LAYERS: dict[str, Any] = {"num_hidden_layers": 2}


def pool(*modes: str, dim: int = DIM, normalize: bool = False, **options: Any) -> Chain:
    """Return a function that makes a pooling, and a normalisation if asked for."""
    return lambda: (Pooling(dim, modes, **options), *([Normalize()] if normalize else []))


MEAN = pool("mean")


def make_words(make: Callable[..., Any], *arguments: Any, around: str = "", **options: Any) -> Words:
    """Return a function that makes a tokenizer with a limit, and with special tokens around a text."""

    def build() -> Any:
        tokenizer = make(*arguments, **({"model_max_length": LIMIT} | options))
        return surround(tokenizer, around) if around else tokenizer

    return build


def chain_checkpoint(
    model: str, words: Words, config: Mapping[str, Any] | None = None, chain: Chain = MEAN, **more: Any
) -> Checkpoint:
    """Return a checkpoint of an encoder and the modules after it, as sentence-transformers saves it."""
    saving = {key: more.pop(key) for key in ("prompts", "default_prompt_name", "truncate_dim") if key in more}
    own_names = any(name in (config or {}) for name in ("d_model", "dim", "n_embd"))
    sizes = {**({} if own_names else SIZES | {"max_position_embeddings": LIMIT}), **(config or {})}

    def write(folder: Path) -> None:
        tokenizer = words()
        save_encoder(folder, build_model(model, tokenizer, **sizes), tokenizer)
        save_chain(folder, *chain(), **saving)

    return Checkpoint(write=write, **more)


def plain_checkpoint(
    model: str, words: Words, config: Mapping[str, Any], dtype: torch.dtype = torch.float32, **saving: Any
) -> Checkpoint:
    """Return a checkpoint that transformers saves, with no file of sentence-transformers."""

    def write(folder: Path) -> None:
        tokenizer = words()
        encoder = build_model(model, tokenizer, **config)
        nn.Module.to(encoder, dtype)
        save_encoder(folder, encoder, tokenizer, **saving)

    return Checkpoint(write=write)
