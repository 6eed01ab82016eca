"""Any text encoder: the vectors of an export equal those of sentence-transformers, or the export is refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import exporters
import runtime
from exporters.families.family import FolderRequest
from exporters.families.sentence.load import load_folder
from exporters.families.sentence.tower import SentenceTower
from runtime.artifact.manifest import Weights
from runtime.errors import EmbeddingBackbonesError, ItemError
from tests.exporters.families.checkpoints.build import Checkpoint
from tests.exporters.families.checkpoints.families import FAMILIES
from tests.exporters.families.checkpoints.settings import SETTINGS
from tests.exporters.families.tried import ROWS, read_page, record

GROUPS = {"Text encoders": FAMILIES, "Settings of text encoders": SETTINGS}
BOUND = 1e-4  # of the largest value, as in the gate

# None of them is among the texts of the gate.
TEXTS = (
    "",
    "Nuit",
    "Wie spät ist es? — Es ist schon HALB ZEHN, Straße und İstanbul.",
    "नमस्ते दुनिया, 안녕하세요 세계",
    "Съешь ещё этих мягких французских булок",
    "\tdef embed(texts):\n\n    return [text.upper() for text in texts]  ",
    "query: which of the two is the longer one",
    "👩‍👩‍👧 1234567890 a_b-c/d <s> [MASK] <|endoftext|>",
    " ".join(f"{number} bottles of beer on the wall, and wall {number + 1}." for number in range(150)),
)

# These settings change how a checkpoint is read, and no operator of the graph: torch shows them without an ONNX file.
READING = (
    *("layout: 0_Transformer", "layout: dot", "limit: above the positions", "limit: lowered", "limit: null"),
    *(
        "padding side: left, absolute positions",
        "positions: LongRoPE, limited",
        "pooling: legacy booleans",
        "truncate_dim",
        "truncation side: left",
    ),
    *("plain: for causal language modelling", "plain: for classification", "plain: for masked language modelling"),
    *("settings: do_lower_case", "settings: model, tokenizer and config arguments", "settings: module_output_name"),
    *("settings: sentence_roberta_config.json", "code: of a module, trusted", "code: of the model, trusted"),
    "tokenizer: padding without an embedding",
    *("weights: bfloat16 in shards", "weights: float16", "weights: pytorch_model.bin"),
)

# Of the cases that take seconds, those that `make test` exports: one for each mechanism. `make tried` exports all.
EXPORTED = (
    *("modernbert", "embedding-gemma", "nystromformer"),
    *("pooling: every mode", "pooling: without prompt", "dense: activations", "prompts: default"),
    "positions: dynamic NTK",
)

Embed = Callable[..., Any]


def _cases(*, refused: bool) -> list[Any]:
    return [
        pytest.param(group, name, id=name, marks=_marks(name, checkpoint))
        for group, checkpoints in GROUPS.items()
        for name, checkpoint in checkpoints.items()
        if bool(checkpoint.refused) is refused and name not in READING
    ]


def _marks(name: str, checkpoint: Checkpoint) -> list[Any]:
    if not checkpoint.slow:
        return []
    return [pytest.mark.slow if name in EXPORTED else pytest.mark.tried]


def _cases_to_read() -> list[tuple[str, str]]:
    """Return the cases that `make test` does not export."""
    return [
        (group, name)
        for group, checkpoints in GROUPS.items()
        for name, checkpoint in checkpoints.items()
        if not checkpoint.refused and (name in READING or pytest.mark.tried in _marks(name, checkpoint))
    ]


def _export(checkpoint: Checkpoint, folder: Path) -> tuple[Path, Path]:
    """Write a checkpoint and export it; return both folders."""
    model = folder / "model"
    model.mkdir()
    checkpoint.write(model)
    options = exporters.ExportOptions(**checkpoint.options)
    return model, exporters.export(str(model), output=folder / "artifacts", options=options)


def _load_library(folder: Path, checkpoint: Checkpoint) -> SentenceTransformer:
    library = SentenceTransformer(
        str(folder),
        device="cpu",
        local_files_only=True,
        trust_remote_code=checkpoint.options.get("trust_remote_code", False),
        model_kwargs={"dtype": "float32"},
    )
    if limit := checkpoint.options.get("max_length", checkpoint.limit):
        library.max_seq_length = limit
    return library


def _worst(ours: Embed, theirs: Embed, texts: Sequence[str], **options: Any) -> float:
    """Return the largest difference of texts alone and in batches, as a share of the largest value."""
    expected = np.concatenate([theirs([text], show_progress_bar=False, **options) for text in texts])
    alone = np.concatenate([ours([text], **options) for text in texts])
    found = [alone, ours(texts, **options), ours(texts[::-1], batch_size=2, **options)[::-1]]
    assert all(vectors.shape == expected.shape for vectors in found)
    return max(float(np.abs(vectors - expected).max()) for vectors in found) / float(np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:.* texts? .* cut:UserWarning")
@pytest.mark.parametrize(("group", "name"), _cases(refused=False))
def test_an_export_equals_its_library(group: str, name: str, tmp_path: Path) -> None:
    checkpoint = GROUPS[group][name]
    folder, artifact = _export(checkpoint, tmp_path)
    library, model = _load_library(folder, checkpoint), runtime.load(artifact, provider="cpu")
    texts = TEXTS if checkpoint.empty else TEXTS[1:]
    worst = _worst(model.embed, library.encode, texts)
    if not checkpoint.empty:
        with pytest.raises(ItemError):
            model.embed([""])
    if any(library.prompts.values()):
        worst = max(worst, *(_worst(model.embed, library.encode, texts, prompt_name=key) for key in library.prompts))
        worst = max(worst, _worst(model.embed_query, library.encode_query, texts))
        worst = max(worst, _worst(model.embed_document, library.encode_document, texts))
        worst = max(worst, _worst(model.embed, library.encode, texts, prompt="another prompt: "))
    assert worst <= BOUND
    record(group, name, "equal", worst, library="sentence-transformers")


@pytest.mark.parametrize(("group", "name"), _cases_to_read())
def test_a_model_is_read_as_by_its_library(group: str, name: str, tmp_path: Path) -> None:
    """The module that an export traces, fed by the runtime's own preprocessing, equals the library."""
    checkpoint, options = GROUPS[group][name], exporters.ExportOptions(**GROUPS[group][name].options)
    checkpoint.write(tmp_path)
    weights = Weights(origin="file", description=name, sha256="")
    (tower,) = load_folder(FolderRequest(path=tmp_path, weights=weights, options=options))
    assert isinstance(tower, SentenceTower)
    texts = TEXTS if checkpoint.empty else TEXTS[1:]
    worst = _worst(_embed_with_torch(tower), _load_library(tmp_path, checkpoint).encode, texts)
    assert worst <= BOUND
    if name in READING:
        record(group, name, "equal", worst, library="sentence-transformers")


def _embed_with_torch(tower: SentenceTower) -> Embed:
    module = tower.module()

    def embed(texts: Sequence[str], **_: Any) -> Any:
        arrays = tower.preprocessor.collate([tower.preprocessor.prepare(text) for text in texts])
        with torch.inference_mode():
            return module(*(torch.from_numpy(arrays[spec.name]) for spec in tower.record.inputs)).numpy()

    return embed


@pytest.mark.parametrize(("group", "name"), _cases(refused=True))
def test_a_refusal_names_its_cause(group: str, name: str, tmp_path: Path) -> None:
    checkpoint = GROUPS[group][name]
    with pytest.raises(EmbeddingBackbonesError) as caught:
        _export(checkpoint, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in checkpoint.says if word not in message] == [], message
    assert not (tmp_path / "artifacts").exists() or not list((tmp_path / "artifacts").iterdir())
    record(group, name, f"refused: {checkpoint.refused}", library="sentence-transformers")


@pytest.mark.skipif(ROWS in os.environ, reason="the page is being written")
@pytest.mark.parametrize("group", GROUPS)
def test_the_page_has_a_row_for_each_case(group: str) -> None:
    assert set(read_page(group)) == set(GROUPS[group])
