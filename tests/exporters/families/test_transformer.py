"""Text backbones of the catalogue: random weights, state dicts, and folders that are named as their weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertModel

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import HuggingFaceSource
from exporters.catalogue.weights_ref import ModelFolder, Pretrained, RandomInit, StateDict
from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.families.family import LoadRequest
from exporters.families.tower import ExportableTower
from exporters.families.transformer.huggingface import load, load_transformer
from exporters.families.transformer.sentence_layers import SentenceLayers, read_sentence_layers
from exporters.modules.pooling import TokenPool
from runtime.artifact.manifest import Pooling
from runtime.errors import UsageError
from tests.exporters.hub_cache import REVISION, add_to_cache
from tests.exporters.toys import save_clip, save_layers, save_toy


def load_catalogue(
    source: HuggingFaceSource, weights: Pretrained | ModelFolder, *, any_architecture: bool = False, **options: Any
) -> ExportableTower:
    chosen = ExportOptions(**options)
    request = LoadRequest(source=source, output_dim=24, options=chosen, any_architecture=any_architecture)
    (tower,) = load(request, weights)
    return tower


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture
def checkpoint(toy: Path, tmp_path: Path) -> Path:
    """A copy, to be extended."""
    return Path(shutil.copytree(toy, tmp_path / "checkpoint"))


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


SOURCE = HuggingFaceSource(model_id="someone/toy", model_type="bert", config={}, licence="MIT")


def test_an_unreachable_hub_names_the_ways_out(hub: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"someone/toy .*--weights FOLDER.*--weights random"):
        load_catalogue(SOURCE, Pretrained())


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
    save_layers(checkpoint, ("Pooling", {"pooling_mode": "max"}), ("Dense", config), limit=30)
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
    with pytest.raises(WeightsUnavailableError, match=r"someone/toy .*--tokenizer, because a state dict has none"):
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


def test_the_tokenizers_commit_is_pinned_too(hub: Path, toy: Path, tmp_path: Path) -> None:
    torch.save(load_transformer(TOY, RandomInit()).model.state_dict(), tmp_path / "tuned.pt")
    add_to_cache(hub, "someone/toy", toy, as_main=False)
    assert load_transformer(replace(TOY, revision=REVISION), StateDict(tmp_path / "tuned.pt")).max_length == 64
    with pytest.raises(WeightsUnavailableError):
        load_transformer(replace(TOY, revision="2" * 40), StateDict(tmp_path / "tuned.pt"))


def test_a_tokenizer_that_is_not_needed_is_wrong_usage(toy: Path) -> None:
    with pytest.raises(UsageError, match="these weights have one"):
        load_transformer(TOY, RandomInit(), tokenizer=toy)
    for weights in (Pretrained(), ModelFolder(toy)):
        with pytest.raises(UsageError, match="these weights have one"):
            load_catalogue(TOY, weights, tokenizer=toy)


def test_pretrained_weights_come_through_the_hubs_cache(hub: Path, toy: Path) -> None:
    add_to_cache(hub, "someone/toy", toy)
    tower = load_catalogue(SOURCE, Pretrained())
    assert (tower.weights.origin, tower.weights.revision, tower.weights.licence) == ("pretrained", REVISION, "MIT")
    np.testing.assert_array_equal(tower.reference(), load_catalogue(SOURCE, ModelFolder(toy)).reference())


def test_another_family_needs_a_name_of_its_own(tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy", "mpnet")
    with pytest.raises(WeightsMismatchError, match=r"is a mpnet, expected a bert; export it by its own name"):
        load_catalogue(SOURCE, ModelFolder(folder))
    assert load_catalogue(SOURCE, ModelFolder(folder), any_architecture=True).architecture == "mpnet"


def test_what_is_no_text_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="is a model of kind text-image, expected a text encoder"):
        load_catalogue(SOURCE, ModelFolder(save_clip(tmp_path / "clip")), any_architecture=True)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": {}}))
    (tmp_path / "timm" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsMismatchError, match="is a model of kind timm, expected a text encoder"):
        load_catalogue(SOURCE, ModelFolder(tmp_path / "timm"))


def test_pickled_weights_are_read_where_there_are_no_others(hub: Path, checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    expected = load_catalogue(SOURCE, ModelFolder(checkpoint)).reference()
    (checkpoint / "model.safetensors").unlink()
    torch.save(state, checkpoint / "pytorch_model.bin")
    tower = load_catalogue(SOURCE, ModelFolder(checkpoint))
    np.testing.assert_array_equal(tower.reference(), expected)
    assert tower.weights.file == "pytorch_model.bin"
    add_to_cache(hub, "someone/toy", checkpoint, as_main=False)
    pinned = replace(SOURCE, revision=REVISION)
    assert load_catalogue(pinned, Pretrained()).weights.sha256 == tower.weights.sha256


def test_shards_are_hashed_together(checkpoint: Path) -> None:
    model, expected = BertModel.from_pretrained(checkpoint), load_catalogue(SOURCE, ModelFolder(checkpoint)).reference()
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="20KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 1
    tower = load_catalogue(SOURCE, ModelFolder(checkpoint))
    np.testing.assert_array_equal(tower.reference(), expected)
    shard = max(checkpoint.glob("model-*.safetensors"))
    save_file({name: value + 1 for name, value in load_file(shard).items()}, shard, {"format": "pt"})
    assert load_catalogue(SOURCE, ModelFolder(checkpoint)).weights.sha256 != tower.weights.sha256


def test_an_empty_folder_holds_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        load_catalogue(SOURCE, ModelFolder(tmp_path))


STATED: tuple[str, dict[str, Any]] = ("Pooling", {"pooling_mode": "cls"})


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_the_limit_of_a_tokenizers_folder_is_read_by_each_of_its_names(kind: str, checkpoint: Path) -> None:
    save_layers(checkpoint, STATED)
    settings = {"max_seq_length": 20, "do_lower_case": True}
    (checkpoint / f"sentence_{kind}_config.json").write_text(json.dumps(settings))
    layers = read_sentence_layers(checkpoint)
    assert (layers.max_length, layers.lowercase) == (20, True)


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_the_limit_is_read_beside_the_encoder(place: str, checkpoint: Path) -> None:
    save_layers(checkpoint, STATED)
    modules = json.loads((checkpoint / "modules.json").read_text())
    (checkpoint / "modules.json").write_text(json.dumps([modules[0] | {"path": place}, *modules[1:]]))
    (checkpoint / place).mkdir(exist_ok=True)
    (checkpoint / place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    assert read_sentence_layers(checkpoint).max_length == 20


def test_the_settings_beside_a_tokenizer_alone_are_read(checkpoint: Path) -> None:
    assert read_sentence_layers(checkpoint) == SentenceLayers()
    settings = {"max_seq_length": 20, "do_lower_case": True}
    (checkpoint / "sentence_bert_config.json").write_text(json.dumps(settings))
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "dot"}))
    expected = SentenceLayers(max_length=20, lowercase=True, similarity_function="dot")
    assert read_sentence_layers(checkpoint) == expected


def test_a_pooling_without_the_prompt_is_not_read_for_a_state_dict(checkpoint: Path) -> None:
    save_layers(checkpoint, ("Pooling", {"pooling_mode": "mean", "include_prompt": False}))
    with pytest.raises(WeightsError, match=r"1_Pooling.*include_prompt.*export the folder itself"):
        read_sentence_layers(checkpoint)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sentence_bert_config.json", {"tokenizer_args": {"model_max_length": 20}}, "states tokenizer_args, which is"),
        ("sentence_bert_config.json", {"query_length": 8}, "states query_length, which is not read for a state dict"),
        ("config_sentence_transformers.json", {"truncate_dim": 8}, "keeps 8 dimensions; remove truncate_dim"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "puts the prompt 'query' before"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "tanimoto"}, "'tanimoto', which is not one of"),
    ],
)
def test_settings_of_a_tokenizers_folder_that_are_not_read_are_refused(
    name: str, settings: dict[str, Any], message: str, checkpoint: Path
) -> None:
    save_layers(checkpoint, STATED)
    (checkpoint / name).write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match=message):
        read_sentence_layers(checkpoint)


def test_a_tokenizers_folder_states_how_vectors_are_compared(checkpoint: Path) -> None:
    save_layers(checkpoint, STATED)
    assert read_sentence_layers(checkpoint).similarity_function == "cosine"
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "dot"}))
    assert read_sentence_layers(checkpoint).similarity_function == "dot"


def test_prompts_of_a_tokenizers_folder_are_not_left_out_in_silence(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_layers(checkpoint, STATED)
    prompts = {"query": "query: ", "passage": "passage: ", "document": ""}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    read_sentence_layers(checkpoint)
    assert "its prompts passage, query are left out; put them before your texts" in caplog.text
