"""Text backbones of the catalogue: random weights, state dicts, and folders that are named as their weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import HuggingFaceSource
from exporters.catalogue.weights_ref import ModelFolder, ModelWeights, Pretrained, RandomInit, StateDict
from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.families.family import LoadRequest
from exporters.families.sentence.catalogue import load
from exporters.families.sentence.tower import SentenceTower
from exporters.modules.pooling import TokenPool
from exporters.weights.stand_in_tokenizer import build_stand_in_tokenizer
from runtime.artifact.manifest import MAX_TEXT_LENGTH, Pooling, Projection
from runtime.errors import UsageError
from tests.exporters.hub_cache import REVISION, add_to_cache
from tests.exporters.toys import make_bert, save_clip, save_layers, save_toy


def load_catalogue(source: HuggingFaceSource, weights: ModelWeights, **options: Any) -> SentenceTower:
    (tower,) = load(LoadRequest(source=source, output_dim=24, options=ExportOptions(**options)), weights)
    assert isinstance(tower, SentenceTower)
    return tower


@pytest.mark.parametrize(
    "pooling", [{"method": "mean"}, {"method": "cls"}, {"method": "max"}, {"method": "gem", "p": 3.0, "eps": 0.5}]
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
        "gem": features.clamp(min=0.5).pow(3).mean(1).pow(1 / 3),
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
T5 = replace(
    SOURCE,
    model_type="t5",
    config={"vocab_size": 400, "d_model": 24, "num_layers": 1, "num_heads": 4, "d_kv": 6, "d_ff": 32},
)
_WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Write the state dict of an encoder."""
    torch.save(make_bert(TOY).state_dict(), tmp_path / "tuned.pt")
    return tmp_path / "tuned.pt"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "0.auto_model.", "0.model."])
def test_a_state_dict_takes_its_tokenizer_from_a_folder(prefix: str, suffix: str, toy: Path, tmp_path: Path) -> None:
    theirs = make_bert(TOY).state_dict()
    state_dict = {prefix + name: value for name, value in theirs.items() if "pooler" not in name}
    state_dict[f"{prefix}embeddings.position_ids"] = torch.arange(512)[None]  # as older versions have
    path = tmp_path / f"tuned{suffix}"
    save_file(state_dict, path) if suffix == ".safetensors" else torch.save(state_dict, path)
    tower = load_catalogue(TOY, StateDict(path), tokenizer=toy)
    assert torch.equal(tower.sentences.state_dict()[f"0.model.{_WORDS}"], theirs[_WORDS])
    assert (tower.weights.origin, tower.weights.file, tower.preprocessing.max_length) == ("file", path.name, 64)
    assert tower.record.decided_by == "default"


def test_a_state_dict_of_a_whole_sentence_transformer(checkpoint: Path, tmp_path: Path) -> None:
    config = {"in_features": 48, "out_features": 10, "bias": True}
    save_layers(checkpoint, ("Pooling", {"pooling_mode": ["cls", "lasttoken"]}), ("Dense", config))
    settings = {"prompts": {"query": "find: "}, "default_prompt_name": "query", "truncate_dim": 8}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(settings))
    dense, theirs = nn.Linear(48, 10), make_bert(TOY)
    encoder = {f"0.auto_model.{name}": value for name, value in theirs.state_dict().items()}
    torch.save(encoder | {f"2.linear.{name}": value for name, value in dense.state_dict().items()}, tmp_path / "all.pt")
    tower = load_catalogue(TOY, StateDict(tmp_path / "all.pt"), tokenizer=checkpoint)
    assert tower.record.layers == ("Pooling: cls + lasttoken", "Dense: 48 to 10, Tanh")
    assert (tower.preprocessing.default_prompt, tower.record.decided_by) == ("query", "checkpoint")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    with torch.inference_mode():
        tokens = theirs(**tokenizer("find: a cat", return_tensors="pt")).last_hidden_state[0]
        expected = dense(torch.cat([tokens[0], tokens[-1]])).tanh()[:8]
    torch.testing.assert_close(tower.embed("a cat"), expected)
    torch.save(encoder, tmp_path / "encoder.pt")
    with pytest.raises(WeightsMismatchError, match=r"2 missing \(2\.linear\.weight, 2\.linear\.bias\).*modules\.json"):
        load_catalogue(TOY, StateDict(tmp_path / "encoder.pt"), tokenizer=checkpoint)


@pytest.mark.parametrize("weights", ["state dict", "folder"])
def test_a_longest_text_of_the_user_replaces_a_stated_one(weights: str, tuned: Path, checkpoint: Path) -> None:
    save_layers(checkpoint, ("Pooling", {"pooling_mode": "mean"}), limit=30)

    def limit(max_length: int | None) -> int:
        if weights == "folder":
            return load_catalogue(SOURCE, ModelFolder(checkpoint), max_length=max_length).preprocessing.max_length
        chosen = load_catalogue(TOY, StateDict(tuned), tokenizer=checkpoint, max_length=max_length)
        return chosen.preprocessing.max_length

    assert (limit(None), limit(20), limit(512)) == (30, 20, 512)
    with pytest.raises(UsageError, match="--max-length 513 is more than the 512 positions of the model"):
        limit(513)


def test_random_weights_take_every_pooling_and_the_layers_of_the_catalogue() -> None:
    layer = Projection(in_features=24, out_features=10, bias=True, activation="tanh")
    last = Pooling(method="lasttoken")
    tower = load_catalogue(replace(TOY, projection=layer, max_length=40), RandomInit(7), pooling=last)
    assert tower.record.layers == ("Pooling: lasttoken", "Dense: 24 to 10, Tanh")
    assert (tower.output_dim, tower.preprocessing.max_length, tower.weights.seed) == (10, 40, 7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        matrix = nn.Linear(24, 10).weight
    words = make_bert(TOY, seed=7).state_dict()[_WORDS]
    assert torch.equal(tower.sentences.state_dict()[f"0.model.{_WORDS}"], words)
    assert torch.equal(tower.sentences.state_dict()["2.linear.weight"], matrix)
    assert load_catalogue(TOY, RandomInit()).record.decided_by == "default"


def test_a_state_dict_without_a_tokenizer_names_the_way_out(hub: Path, tuned: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"someone/toy .*--tokenizer, because a state dict has none"):
        load_catalogue(TOY, StateDict(tuned))


def test_of_two_names_of_one_tensor_one_is_enough_and_no_limit_is_made_up(tmp_path: Path) -> None:
    build_stand_in_tokenizer("t5", int(1e30)).save_pretrained(tmp_path)
    config: Any = T5.config
    theirs = T5EncoderModel(T5Config(**config)).state_dict()
    state_dict = {name: value for name, value in theirs.items() if name != "shared.weight"}
    torch.save(state_dict | {"decoder.x": torch.zeros(1), "lm_head.weight": torch.zeros(1)}, tmp_path / "tuned.pt")
    tower = load_catalogue(T5, StateDict(tmp_path / "tuned.pt"), tokenizer=tmp_path)
    assert torch.equal(tower.sentences.state_dict()["0.model.shared.weight"], theirs["shared.weight"])
    assert tower.preprocessing.max_length == MAX_TEXT_LENGTH


def test_the_tokenizers_commit_is_pinned_too(hub: Path, toy: Path, tuned: Path) -> None:
    add_to_cache(hub, "someone/toy", toy, as_main=False)
    assert load_catalogue(replace(TOY, revision=REVISION), StateDict(tuned)).preprocessing.max_length == 64
    with pytest.raises(WeightsUnavailableError):
        load_catalogue(replace(TOY, revision="2" * 40), StateDict(tuned))


def test_a_tokenizer_that_is_not_needed_is_wrong_usage(toy: Path) -> None:
    for weights in (RandomInit(), Pretrained(), ModelFolder(toy)):
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


def test_what_is_no_text_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="is a model of kind text-image, expected a text encoder"):
        load_catalogue(SOURCE, ModelFolder(save_clip(tmp_path / "clip")))
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
    torch.save({}, checkpoint / "colbert_linear.pt")  # lies beside the weights of bge-m3
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
