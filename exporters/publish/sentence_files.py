"""The files beside the graphs that sentence-transformers, transformers and transformers.js read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import HuggingFaceSource
from exporters.publish.json_file import write_json
from exporters.publish.layout import text_obstacle
from exporters.publish.sentence_chain import Module, chain_obstacle, write_chain
from exporters.publish.source import Source
from exporters.publish.tokenizer_files import write_tokenizer

_NOT_FOR_ENCODERS = ("custom", "cnn", "pointnet")


def sentence_obstacle(source: Source) -> str | None:
    """Return why sentence-transformers cannot have the artifact, or ``None``."""
    obstacle = text_obstacle(source)
    if obstacle or len(source.manifest.towers) > 1:
        return obstacle or "it takes texts alone; clip-js and immich take the two towers of a CLIP"
    if model_type(source) is None:
        return f"transformers has no architecture {source.manifest.architecture!r} for config.json"
    return chain_obstacle(source)


def model_type(source: Source) -> str | None:
    """Return transformers' name of the encoder's architecture; ``None`` if it has none."""
    architecture = source.manifest.architecture
    if architecture != "transformer":
        return None if architecture in _NOT_FOR_ENCODERS else architecture
    entry = BACKBONES.get(source.manifest.backbone)
    return entry.source.model_type if entry and isinstance(entry.source, HuggingFaceSource) else None


def write_sentence_files(source: Source, folder: Path, modules: list[Module], width: int) -> None:
    """Write all files of a folder of sentence-transformers but the graphs."""
    write_tokenizer(source, folder)
    write_chain(modules, folder)
    recipe = source.text
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    write_json(
        folder / "config.json",
        {
            "model_type": model_type(source),
            "hidden_size": width,
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": recipe.max_length,
            "pad_token_id": recipe.pad_token_id,
            "is_encoder_decoder": False,
        },
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": recipe.max_length, "do_lower_case": False})
    settings: dict[str, Any] = {"prompts": recipe.prompts, "default_prompt_name": recipe.default_prompt}
    settings["similarity_fn_name"] = source.manifest.similarity_function
    if source.manifest.output_dim < _chain_width(modules):
        settings["truncate_dim"] = source.manifest.output_dim
    write_json(folder / "config_sentence_transformers.json", settings)


def _chain_width(modules: list[Module]) -> int:
    width = 0
    for module in modules:
        if module.kind == "Pooling":
            modes = sum(value is True for key, value in module.config.items() if key.startswith("pooling_mode"))
            width = int(module.config["word_embedding_dimension"]) * modes
        elif module.kind == "Dense":
            width = int(module.config["out_features"])
    return width
