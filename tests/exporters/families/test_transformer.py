"""Text towers: every family at toy size, and what a checkpoint's own files say of pooling and projection."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import (
    BertModel,
    PreTrainedTokenizerFast,
)

import runtime
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import BackboneSpec, HuggingFaceSource
from exporters.catalogue.weights_ref import ModelFolder, Pretrained, RandomInit, StateDict
from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.export_towers import export_towers
from exporters.families.transformer.huggingface import load_folder, load_transformer
from exporters.families.transformer.tower import Transformer, TransformerTower
from exporters.modules.pooling import TokenPool
from exporters.samples.texts import TEXTS
from runtime.artifact.manifest import Pooling, Weights
from runtime.artifact.reader import read_manifest
from runtime.errors import UsageError
from tests.exporters.toys import FAMILIES, save_clip, save_toy

RECORD = Weights(origin="file", description="toy", sha256="0" * 64)
SPEC = BackboneSpec(name="toy", task="text-to-text", output_dim=0, architecture="transformer", description="toy")


def save_sentence_layers(folder: Path, *modules: tuple[str, dict[str, Any] | None], limit: Any = None) -> Path:
    """Adds the files of sentence-transformers: modules by type, each with its config.json or none."""
    entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (kind, config) in enumerate(modules, start=1):
        path = f"{index}_{kind}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir()
        if config is not None:
            (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(entries))
    if limit is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    return folder


def save_dense(folder: Path, dense: nn.Linear) -> None:
    save_file({f"linear.{name}": value for name, value in dense.state_dict().items()}, folder / "model.safetensors")


def load(folder: Path) -> Transformer:
    return load_folder(folder, RECORD)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_exports_and_agrees(family: str, tmp_path: Path) -> None:
    """The gate compares with the unmodified model, each text alone; here lengths and batches far from the traced."""
    text = load(save_toy(tmp_path / "toy", family))
    folder = export_towers(SPEC, [TransformerTower(text, ExportOptions())], tmp_path / "out", options=ExportOptions())
    model = runtime.load(folder)
    assert (model.towers, model.output_dim) == (("text",), 24)
    for inputs in onnx.load(folder / "text.onnx").graph.input:
        assert [dim.dim_param for dim in inputs.type.tensor_type.shape.dim] == ["batch", "sequence"]
    texts = ["", "a", *TEXTS[:3], "b " * 400]
    alone = np.concatenate([model.embed([text]) for text in texts])
    np.testing.assert_allclose(model.embed(texts), alone, atol=1e-5)
    assert runtime.verify(folder).towers["text"].items == 4


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture
def checkpoint(toy: Path, tmp_path: Path) -> Path:
    """A copy, to be extended."""
    return Path(shutil.copytree(toy, tmp_path / "checkpoint"))


@pytest.mark.slow
def test_the_checkpoints_own_files_decide(checkpoint: Path, tmp_path: Path) -> None:
    dense = nn.Linear(24, 10)
    config = {
        "in_features": 24,
        "out_features": 10,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    save_sentence_layers(
        checkpoint, ("Pooling", {"pooling_mode_cls_token": True}), ("Dense", config), ("Normalize", None), limit=20
    )
    save_dense(checkpoint / "2_Dense", dense)
    tower = TransformerTower(load(checkpoint), ExportOptions())
    folder = export_towers(SPEC, [tower], tmp_path / "out", options=ExportOptions())
    record = read_manifest(folder).towers["text"]
    assert (record.pooling.method, record.normalized, record.decided_by) == ("cls", True, "checkpoint")
    assert (record.projections[0].out_features, record.projections[0].activation) == (10, "tanh")
    assert record.preprocessing.kind == "text"
    assert record.preprocessing.max_length == 20
    model = load(checkpoint).model
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    with torch.inference_mode():
        encoded = tokenizer(TEXTS[0], truncation=True, max_length=20, return_tensors="pt")
        features = model(encoded["input_ids"], encoded["attention_mask"]).last_hidden_state[:, 0]
        expected = nn.functional.normalize(torch.tanh(dense(features)), dim=-1).numpy()
    np.testing.assert_allclose(runtime.load(folder).embed([TEXTS[0]]), expected, atol=1e-6)


def test_the_user_overrides_the_checkpoint(checkpoint: Path) -> None:
    save_sentence_layers(checkpoint, ("Pooling", {"pooling_mode_mean_tokens": True}), ("Normalize", None))
    text = load(checkpoint)
    theirs = TransformerTower(text, ExportOptions()).record
    ours = TransformerTower(text, ExportOptions(pooling=Pooling(method="max"), normalize=False)).record
    assert (theirs.pooling.method, theirs.normalized, theirs.decided_by) == ("mean", True, "checkpoint")
    assert (ours.pooling.method, ours.normalized, ours.decided_by) == ("max", False, "user")


def test_without_such_files_the_default_is_named(toy: Path) -> None:
    record = TransformerTower(load(toy), ExportOptions()).record
    assert (record.pooling.method, record.normalized, record.decided_by) == ("mean", False, "default")


@pytest.mark.parametrize(
    ("family", "stated", "limit"),
    [("bert", None, 64), ("bert", 20, 20), ("bert", 1000, 512), ("xlm-roberta", 500, 64), ("t5", None, 64)],
)
def test_the_smallest_stated_limit_holds(family: str, stated: int | None, limit: int, tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy", family)
    save_sentence_layers(folder, ("Pooling", {"pooling_mode": "mean"}), limit=stated)
    assert load(folder).max_length == limit


def test_without_any_stated_limit_there_still_is_one(tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy", "t5")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_max_length": int(1e30)}))
    assert load(folder).max_length == 512


@pytest.mark.parametrize(
    "pooling", [{"method": "mean"}, {"method": "cls"}, {"method": "max"}, {"method": "gem", "p": 3.0, "eps": 1e-3}]
)
def test_padding_has_no_part_in_the_pooling(pooling: dict[str, Any]) -> None:
    pool = TokenPool(Pooling(**pooling))
    features = torch.randn(1, 4, 6)
    padded = torch.cat([features, torch.full((1, 3, 6), 1e4)], dim=1)
    alone = pool(features, torch.ones(1, 4, dtype=torch.int64))
    torch.testing.assert_close(pool(padded, torch.tensor([[1, 1, 1, 1, 0, 0, 0]])), alone)
    expected = {
        "mean": features.mean(1),
        "cls": features[:, 0],
        "max": features.amax(1),
        "gem": features.clamp(min=1e-3).pow(3).mean(1).pow(1 / 3),
    }
    torch.testing.assert_close(alone, expected[pooling["method"]])


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: save_sentence_layers(f, ("Pooling", {"pooling_mode_lasttoken": True})), "expected mean, cls or max"),
        (lambda f: save_sentence_layers(f, ("Pooling", None)), "cannot be read"),
        (lambda f: save_sentence_layers(f, ("WordWeights", {})), "has the modules Transformer, WordWeights, expected"),
        (lambda f: (f / "modules.json").write_text("{"), "cannot be read"),
        (
            lambda f: save_sentence_layers(f, ("Dense", {"in_features": 2, "out_features": 3, "bias": True})),
            "holds no weights; copy",
        ),
        (_remove("config.json"), "holds no model in the layout of transformers"),
        (_remove("model.safetensors"), "cannot be loaded by transformers"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "cannot be loaded by transformers"),
    ],
    ids=["pooling", "no-pooling", "module", "json", "dense", "no-config", "no-weights", "weights"],
)
def test_a_folder_that_cannot_be_honoured_is_refused(
    damage: Callable[[Path], None], message: str, checkpoint: Path
) -> None:
    damage(checkpoint)
    with pytest.raises(WeightsError, match=message):
        load(checkpoint)


def test_weights_that_are_missing_are_not_made_up(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    state = load_file(path)
    save_file({name: value for name, value in state.items() if "pooler" not in name}, path, {"format": "pt"})
    load(checkpoint)
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(WeightsMismatchError, match=r"lacks 1 weights .*layer\.1\.output\.dense\.weight"):
        load(checkpoint)


def test_a_pooling_of_images_is_wrong_usage(toy: Path) -> None:
    with pytest.raises(UsageError, match="pooling avg is not for texts"):
        TransformerTower(load(toy), ExportOptions(pooling=Pooling(method="avg")))


SOURCE = HuggingFaceSource(model_id="someone/toy", model_type="bert", config={}, licence="MIT")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, in offline mode."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_pretrained_weights_come_through_the_hubs_cache(hub: Path, toy: Path) -> None:
    repository, revision = hub / "models--someone--toy", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(toy, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    text = load_transformer(SOURCE, Pretrained())
    assert (text.weights.origin, text.weights.revision, text.weights.licence) == ("pretrained", revision, "MIT")
    expected = BertModel.from_pretrained(toy).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in text.model.state_dict().items())


def test_an_unreachable_hub_names_the_ways_out(hub: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"someone/toy .*--weights FOLDER.*--weights random"):
        load_transformer(SOURCE, Pretrained())


def test_a_missing_folder_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"`pretrained`, `random\[:SEED\]`, or the path"):
        ExportOptions(weights=str(tmp_path / "none"))


@pytest.mark.parametrize(
    "name", [name for name, spec in BACKBONES.items() if isinstance(spec.source, HuggingFaceSource)]
)
def test_the_catalogues_dimensions_are_those_of_the_configuration(name: str) -> None:
    source = BACKBONES[name].source
    assert isinstance(source, HuggingFaceSource)
    from transformers import CONFIG_MAPPING

    config: Any = CONFIG_MAPPING[source.model_type]
    width = config(**source.config).hidden_size
    if source.projection is not None:
        assert source.projection.in_features == width
        width = source.projection.out_features
    assert BACKBONES[name].output_dim == width


@pytest.mark.slow
def test_truncation_is_counted_and_reported(toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = export_towers(
        SPEC, [TransformerTower(load(toy), ExportOptions())], tmp_path / "out", options=ExportOptions()
    )
    model = runtime.load(folder)
    texts = ["short", "long " * 100, "short again"]
    with caplog.at_level(logging.WARNING, "runtime"):
        model.embed(texts)
    assert "1 of 3 texts were cut" in caplog.text
    assert model.embed(texts, on_error="skip").truncated.tolist() == [1]
    with pytest.raises(runtime.ItemError, match=r"item 1 .*more tokens than the model takes"):
        model.embed(texts, truncate="error")
    kept = model.embed(texts, truncate="error", on_error="skip")
    assert (kept.kept.tolist(), [failure.index for failure in kept.failures]) == ([0, 2], [1])


TOY = replace(SOURCE, config={"vocab_size": 400, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "0.auto_model.", "0.model."])
def test_a_state_dict_takes_its_tokenizer_from_a_folder(prefix: str, suffix: str, toy: Path, tmp_path: Path) -> None:
    theirs = load_transformer(TOY, RandomInit(7)).model.state_dict()
    state_dict = {prefix + name: value for name, value in theirs.items() if "pooler" not in name}
    state_dict[f"{prefix}embeddings.position_ids"] = torch.arange(512)[None]  # as older versions have
    path = tmp_path / f"tuned{suffix}"
    save_file(state_dict, path) if suffix == ".safetensors" else torch.save(state_dict, path)
    text = load_transformer(TOY, StateDict(path), tokenizer=toy)
    assert torch.equal(text.model.state_dict()["embeddings.word_embeddings.weight"], theirs[_WORDS])
    assert (text.weights.origin, text.weights.file, text.max_length) == ("file", path.name, 64)


_WORDS = "embeddings.word_embeddings.weight"


def test_a_state_dict_of_a_whole_sentence_transformer(checkpoint: Path, tmp_path: Path) -> None:
    config = {"in_features": 24, "out_features": 10, "bias": True}
    save_sentence_layers(checkpoint, ("Pooling", {"pooling_mode": "max"}), ("Dense", config), limit=30)
    dense = nn.Linear(24, 10)
    theirs = load_transformer(TOY, RandomInit(7)).model.state_dict()
    encoder = {f"0.auto_model.{name}": value for name, value in theirs.items()}
    torch.save(encoder | {f"2.linear.{name}": value for name, value in dense.state_dict().items()}, tmp_path / "all.pt")
    text = load_transformer(TOY, StateDict(tmp_path / "all.pt"), tokenizer=checkpoint)
    assert torch.equal(text.layers.projections[0][1].weight, dense.weight)
    assert (text.layers.pooling, text.max_length) == (Pooling(method="max"), 30)
    torch.save(encoder, tmp_path / "encoder.pt")
    with pytest.raises(WeightsMismatchError, match=r"0 linear layers after the pooling, expected 1"):
        load_transformer(TOY, StateDict(tmp_path / "encoder.pt"), tokenizer=checkpoint)


def test_a_state_dict_without_a_tokenizer_names_the_way_out(hub: Path, tmp_path: Path) -> None:
    torch.save(load_transformer(TOY, RandomInit()).model.state_dict(), tmp_path / "tuned.pt")
    with pytest.raises(WeightsUnavailableError, match=r"comes without a tokenizer.*--tokenizer"):
        load_transformer(TOY, StateDict(tmp_path / "tuned.pt"))


def test_of_two_names_of_one_tensor_one_is_enough(tmp_path: Path) -> None:
    config = {"vocab_size": 400, "d_model": 24, "num_layers": 1, "num_heads": 4, "d_kv": 6, "d_ff": 32}
    source = replace(SOURCE, model_type="t5", config=config)
    theirs = load_transformer(source, RandomInit(7))
    theirs.tokenizer.save_pretrained(tmp_path)
    state_dict = {name: value for name, value in theirs.model.state_dict().items() if name != "shared.weight"}
    torch.save(state_dict, tmp_path / "tuned.pt")
    text = load_transformer(source, StateDict(tmp_path / "tuned.pt"), tokenizer=tmp_path)
    assert torch.equal(text.model.state_dict()["shared.weight"], state_dict["encoder.embed_tokens.weight"])


def test_another_family_needs_a_name_of_its_own(tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy", "mpnet")
    with pytest.raises(WeightsMismatchError, match=r"is a mpnet, expected a bert; .*--name"):
        load_transformer(SOURCE, ModelFolder(folder))
    assert load_transformer(SOURCE, ModelFolder(folder), any_architecture=True).model.config.model_type == "mpnet"


def test_what_is_no_text_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="is a clip, expected a text encoder"):
        load_transformer(SOURCE, ModelFolder(save_clip(tmp_path / "clip")), any_architecture=True)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": {}}))
    (tmp_path / "timm" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsMismatchError, match="is a model of timm, expected transformers"):
        load_transformer(SOURCE, ModelFolder(tmp_path / "timm"))


def test_pickled_weights_are_read_where_there_are_no_others(hub: Path, checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    torch.save(state, checkpoint / "pytorch_model.bin")
    text = load_transformer(SOURCE, ModelFolder(checkpoint))
    assert torch.equal(text.model.state_dict()[_WORDS], state[_WORDS])
    assert text.weights.file == "pytorch_model.bin"
    repository, revision = hub / "models--someone--toy", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(checkpoint, repository / "snapshots" / revision)
    pinned = replace(SOURCE, revision=revision)
    assert load_transformer(pinned, Pretrained()).weights.sha256 == text.weights.sha256


def test_shards_are_hashed_together(checkpoint: Path) -> None:
    model = BertModel.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="20KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 1
    text = load_transformer(SOURCE, ModelFolder(checkpoint))
    assert torch.equal(text.model.state_dict()[_WORDS], model.state_dict()[_WORDS])
    shard = max(checkpoint.glob("model-*.safetensors"))
    save_file({name: value + 1 for name, value in load_file(shard).items()}, shard, {"format": "pt"})
    assert load_transformer(SOURCE, ModelFolder(checkpoint)).weights.sha256 != text.weights.sha256


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(checkpoint: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    tokenizer.add_tokens([f"new{index}" for index in range(5)])
    tokenizer.save_pretrained(checkpoint)
    with pytest.raises(WeightsMismatchError, match=r"tokens, and the model has embeddings for"):
        load(checkpoint)


def test_a_folder_without_a_tokenizer_says_what_to_save(checkpoint: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    with pytest.raises(WeightsError, match=r"tokenizer\.save_pretrained"):
        load(checkpoint)


DENSE = {"in_features": 24, "out_features": 24, "bias": True}


WIDTH = {"word_embedding_dimension": 24}


@pytest.mark.parametrize(
    "modules",
    [
        [("Pooling", {**WIDTH, "pooling_mode": "cls"}), ("Normalize", None)],
        [("Pooling", {**WIDTH, "pooling_mode_max_tokens": True})],
        [("Pooling", {**WIDTH, "pooling_mode": "cls", "pooling_mode_mean_tokens": True})],
        [
            ("Pooling", {**WIDTH, "pooling_mode": "mean"}),
            ("Dense", DENSE),
            ("Dense", DENSE),
            ("Normalize", None),
        ],
    ],
    ids=["cls", "max", "both", "dense"],
)
def test_a_folder_means_what_sentence_transformers_makes_of_it(
    modules: list[tuple[str, dict[str, Any] | None]], checkpoint: Path
) -> None:
    """The gate compares with our own reading of the folder; this compares that reading with theirs."""
    save_sentence_layers(checkpoint, *modules, limit=20)
    for path in checkpoint.glob("*_Dense"):
        torch.manual_seed(int(path.name[0]))
        save_dense(path, nn.Linear(24, 24))
    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(list(TEXTS))
    np.testing.assert_allclose(TransformerTower(load(checkpoint), ExportOptions()).reference(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: save_sentence_layers(f, ("Normalize", None), ("Dense", DENSE)),
            "has the modules Transformer, Normalize",
        ),
        (lambda f: save_sentence_layers(f, ("Dense", DENSE), ("Pooling", {"pooling_mode": "cls"})), "has the modules"),
        (lambda f: save_sentence_layers(f, ("Dense", DENSE | {"use_residual": True})), "use_residual True"),
        (lambda f: save_sentence_layers(f, ("Dense", DENSE | {"module_input_name": "token_embeddings"})), "token_emb"),
        (lambda f: save_sentence_layers(f, ("Dense", {})), "does not have the expected form"),
        (lambda f: save_sentence_layers(f, ("Dense", DENSE | {"in_features": -1})), "does not have the expected form"),
        (lambda f: save_sentence_layers(f, limit=0), "max_seq_length of 0"),
        (lambda f: save_sentence_layers(f, limit=[1]), "does not have the expected form"),
        (lambda f: (f / "modules.json").write_text("3"), "does not have the expected form"),
        (
            lambda f: (f / "modules.json").write_text('[{"type": "Transformer", "path": "../.."}]'),
            "not a folder beside",
        ),
        (lambda f: _lowercase(f), "do_lower_case"),
        (lambda f: _prompt(f), "the prompt 'query'"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "merge it first"),
        (lambda f: _index(f, "[1]"), "does not have the expected form"),
        (lambda f: _index(f, '{"weight_map": {"a": "../x.safetensors"}}'), "names files outside"),
    ],
)
def test_what_a_graph_would_quietly_get_wrong_is_refused(
    damage: Callable[[Path], None], message: str, checkpoint: Path
) -> None:
    damage(checkpoint)
    with pytest.raises(WeightsError, match=message):
        load_transformer(SOURCE, ModelFolder(checkpoint))


def _lowercase(folder: Path) -> None:
    save_sentence_layers(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9, "do_lower_case": True}))


def _prompt(folder: Path) -> None:
    save_sentence_layers(folder)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"default_prompt_name": "query"}))


def _index(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)


def test_code_beside_a_model_is_not_run(checkpoint: Path) -> None:
    (checkpoint / "evil.py").write_text("import pathlib; pathlib.Path(__file__).with_name('was_run').touch()")
    config = json.loads((checkpoint / "config.json").read_text())
    strange = config | {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(strange))
    with pytest.raises(WeightsError, match="cannot be loaded by transformers"):
        load_transformer(SOURCE, ModelFolder(checkpoint))
    assert not (checkpoint / "was_run").exists()


def test_weights_without_a_place_are_not_dropped(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(WeightsMismatchError, match=r"weights that its bert has no place for \(encoder\.layer\.1"):
        load_transformer(SOURCE, ModelFolder(checkpoint))


def test_a_head_on_the_encoder_is_left_alone(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    state = {f"bert.{name}": value for name, value in load_file(path).items()}
    save_file(state | {"classifier.weight": torch.zeros(2, 24)}, path, {"format": "pt"})
    assert torch.equal(load(checkpoint).model.state_dict()[_WORDS], state[f"bert.{_WORDS}"])


def test_weights_of_half_precision_are_computed_in_full(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, {"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    assert load(checkpoint).model.dtype == torch.float32


def test_an_empty_folder_holds_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        load_transformer(SOURCE, ModelFolder(tmp_path))


def test_the_tokenizers_commit_is_pinned_too(hub: Path, toy: Path, tmp_path: Path) -> None:
    torch.save(load_transformer(TOY, RandomInit()).model.state_dict(), tmp_path / "tuned.pt")
    repository, revision = hub / "models--someone--toy", "1" * 40
    shutil.copytree(toy, repository / "snapshots" / revision)
    assert load_transformer(replace(TOY, revision=revision), StateDict(tmp_path / "tuned.pt")).max_length == 64
    with pytest.raises(WeightsUnavailableError):
        load_transformer(replace(TOY, revision="2" * 40), StateDict(tmp_path / "tuned.pt"))


def test_a_tokenizer_that_is_not_needed_is_wrong_usage(toy: Path) -> None:
    for weights in (RandomInit(), Pretrained(), ModelFolder(toy)):
        with pytest.raises(UsageError, match="these weights have one"):
            load_transformer(TOY, weights, tokenizer=toy)


def test_the_tokenizer_travels_with_its_limit(toy: Path, tmp_path: Path) -> None:
    TransformerTower(load(toy), ExportOptions()).write_files(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (tokenizer["truncation"]["max_length"], tokenizer["padding"]) == (64, None)
