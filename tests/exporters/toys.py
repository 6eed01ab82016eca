"""Toy models of the real families, exported in seconds."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from exporters.catalogue.spec import BackboneSpec, ClipSource, HuggingFaceSource, OpenClipSource
from exporters.weights.stand_in_tokenizer import build_stand_in_clip_tokenizer, build_stand_in_tokenizer

DIM = 24
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SIDE = 64
BERT = HuggingFaceSource(
    model_id="someone/toy", model_type="bert", config={"vocab_size": 400, **SMALL}, max_length=64, licence="MIT"
)
CLIP = ClipSource(
    model_id="someone/toy-clip",
    text_config=SMALL,
    vision_config=SMALL | {"image_size": SIDE, "patch_size": 16},
    projection_dim=DIM,
    licence="MIT",
)
OPEN_CLIP = OpenClipSource(
    model_name="toy-xlm-roberta-ViT",
    tag="toy",
    text_config=SMALL | {"vocab_size": 400, "max_position_embeddings": 130, "type_vocab_size": 1, "pad_token_id": 1},
    tokenizer_id="someone/toy-xlm-roberta",
    licence="MIT",
)
OPEN_CLIP_CONFIG = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "patch_size": 16, "head_width": 8},
    "text_cfg": {"hf_model_name": "none", "hf_tokenizer_name": "none", "hf_pooler_type": "mean_pooler"},
}

RUN_METADATA = {
    "name": "toy",
    "descriptor": "toy",
    "options": {"pooler": "cls", "pooler_options": None},
    "output_dim": None,
}

_TEXT: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
FAMILIES: dict[str, Callable[[int], PreTrainedModel]] = {
    "bert": lambda size: BertModel(BertConfig(vocab_size=size, **_TEXT)),
    "distilbert": lambda size: DistilBertModel(
        DistilBertConfig(vocab_size=size, dim=24, n_layers=2, n_heads=4, hidden_dim=32)
    ),
    "t5": lambda size: T5EncoderModel(
        T5Config(vocab_size=size, d_model=24, num_layers=2, num_heads=4, d_kv=6, d_ff=32)
    ),
    "xlm-roberta": lambda size: XLMRobertaModel(
        XLMRobertaConfig(vocab_size=size, max_position_embeddings=66, pad_token_id=1, **_TEXT)
    ),
    "mpnet": lambda size: MPNetModel(MPNetConfig(vocab_size=size, max_position_embeddings=66, pad_token_id=1, **_TEXT)),
}


def toy_spec(source: Any, name: str = "toy") -> BackboneSpec:
    """Return an entry of the catalogue."""
    return BackboneSpec(
        name=name, task="text-to-image", output_dim=DIM, architecture="transformer", description="toy", source=source
    )


def save_toy(folder: Path, family: str = "bert") -> Path:
    """Write a folder in the layout of transformers."""
    tokenizer = build_stand_in_tokenizer(family, 64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    FAMILIES[family](len(tokenizer)).save_pretrained(folder)
    return folder


def save_layers(folder: Path, *modules: tuple[str, dict[str, Any] | None], limit: Any = None) -> Path:
    """Add the files of sentence-transformers to a folder: modules by type, each with its config.json or none."""
    entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (kind, config) in enumerate(modules, start=1):
        path = f"{index}_{kind}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir()
        if config is not None:
            width = {"word_embedding_dimension": 24} if kind == "Pooling" else {}
            (folder / path / "config.json").write_text(json.dumps(width | config))
    (folder / "modules.json").write_text(json.dumps(entries))
    if limit is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    return folder


def make_bert(source: HuggingFaceSource = BERT, seed: int = 8) -> BertModel:
    """Build a BERT of the configuration of ``source``."""
    config: Any = source.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: BertModel = BertModel(BertConfig(**config))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def make_clip(seed: int = 3) -> CLIPModel:
    """Build a CLIP whose weights no seed of the exporters gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPConfig(
            text_config=dict(CLIP.text_config), vision_config=dict(CLIP.vision_config), projection_dim=DIM
        )
        model: CLIPModel = CLIPModel(config)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def save_clip_tokenizer(folder: Path) -> Path:
    """Write a folder that holds only the tokenizer of the toy."""
    build_stand_in_clip_tokenizer(77, bos_token_id=49406, eos_token_id=49407).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """Write a folder in the layout of transformers."""
    make_clip().save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE + 5}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )
    return save_clip_tokenizer(folder)


def write_run(folder: Path, models: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]]) -> Path:
    """Write a Finetuner run: the metadata and state dict of each model, by the name of its folder."""
    (folder / "models").mkdir(parents=True)
    (folder / "config.yml").write_text(yaml.safe_dump({"run_name": folder.name}))
    (folder / "metadata.yml").write_text(yaml.safe_dump({"name": folder.name, "product": "finetuner"}))
    for name, (metadata, state_dict) in models.items():
        place = folder / "models" / name
        place.mkdir(parents=True)
        shape = ["batch-size", 3, 224, 224]
        document = {"input_shapes": [shape], "tailor_input_shape": shape, **metadata}  # YAML makes this an alias
        (place / "metadata.yml").write_text(yaml.safe_dump(document, sort_keys=False))
        torch.save(dict(state_dict), place / "model.pt")
    return folder


def bert_run_weights() -> dict[str, Tensor]:
    """Return the state dict of :data:`BERT` as a Finetuner run stores it."""
    return {f"_model.{name}": value for name, value in make_bert().state_dict().items() if "pooler" not in name}


def zip_folder(folder: Path) -> Path:
    """Pack a folder as Finetuner did, with the folder itself at the top of the zip."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def to_bytes(content: object) -> bytes:
    """Return the bytes that ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
