"""Text folders that sentence-transformers reads: settings in the files, options of the user, damage, and code."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from torch import nn
from transformers import BertModel, PreTrainedTokenizerFast, dynamic_module_utils
from transformers.utils.hub import cached_file

import runtime
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import BackboneSpec
from exporters.errors import WeightsError
from exporters.export_towers import export_towers
from exporters.families.family import FolderRequest
from exporters.families.sentence.chain import check_modules
from exporters.families.sentence.load import load_folder
from exporters.families.sentence.tower import SentenceTower
from exporters.publish.publish import publish
from exporters.samples.texts import TEXTS
from exporters.weights import model_folder
from runtime.artifact.describe import describe_manifest
from runtime.artifact.manifest import MAX_TEXT_LENGTH, Pooling, Weights
from runtime.artifact.reader import read_manifest
from runtime.errors import UsageError
from tests.exporters.families.checkpoints.build import edit
from tests.exporters.families.checkpoints.settings import SETTINGS
from tests.exporters.hub_cache import add_to_cache
from tests.exporters.toys import save_layers, save_toy

RECORD = Weights(origin="file", description="toy", sha256="0" * 64)
SPEC = BackboneSpec(name="toy")
MEAN: tuple[str, dict[str, Any]] = ("Pooling", {"pooling_mode": "mean"})
_TOKENS = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def save_dense(folder: Path, dense: nn.Linear) -> None:
    save_file({f"linear.{name}": value for name, value in dense.state_dict().items()}, folder / "model.safetensors")


def load(folder: Path, **options: Any) -> SentenceTower:
    (tower,) = load_folder(FolderRequest(path=folder, weights=RECORD, options=ExportOptions(**options)))
    assert isinstance(tower, SentenceTower)
    return tower


@pytest.mark.slow
def test_the_checkpoints_own_files_decide(checkpoint: Path, tmp_path: Path) -> None:
    dense = nn.Linear(24, 10)
    config = {
        "in_features": 24,
        "out_features": 10,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    save_layers(
        checkpoint, ("Pooling", {"pooling_mode_cls_token": True}), ("Dense", config), ("Normalize", None), limit=20
    )
    save_dense(checkpoint / "2_Dense", dense)
    tower = load(checkpoint)
    folder = export_towers(SPEC, [tower], tmp_path / "out", options=ExportOptions())
    record = read_manifest(folder).towers["text"]
    assert (record.pooling.method, record.normalized, record.decided_by) == ("cls", True, "checkpoint")
    assert record.layers == ("Pooling: cls", "Dense: 24 to 10, Tanh", "Normalize")
    assert record.preprocessing.kind == "text"
    assert record.preprocessing.max_length == 20
    model = BertModel.from_pretrained(checkpoint)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    with torch.inference_mode():
        encoded = tokenizer(TEXTS[0], truncation=True, max_length=20, return_tensors="pt")
        features = model(encoded["input_ids"], encoded["attention_mask"]).last_hidden_state[:, 0]
        expected = nn.functional.normalize(torch.tanh(dense(features)), dim=-1).numpy()
    np.testing.assert_allclose(runtime.load(folder).embed([TEXTS[0]]), expected, atol=1e-6)


def test_the_user_overrides_the_checkpoint(checkpoint: Path) -> None:
    save_layers(checkpoint, ("Pooling", {"pooling_mode_mean_tokens": True}), ("Normalize", None))
    theirs = load(checkpoint).record
    ours = load(checkpoint, pooling=Pooling(method="max"), normalize=False).record
    assert (theirs.pooling.method, theirs.normalized, theirs.decided_by) == ("mean", True, "checkpoint")
    assert (ours.pooling.method, ours.normalized, ours.decided_by) == ("max", False, "user")


def test_without_such_files_the_default_is_named(toy: Path) -> None:
    record = load(toy).record
    assert (record.pooling.method, record.normalized, record.decided_by) == ("mean", False, "default")


@pytest.mark.parametrize(
    ("family", "stated", "limit"),
    [("bert", None, 64), ("bert", 20, 20), ("bert", 1000, 512), ("xlm-roberta", 500, 64), ("t5", None, 64)],
)
def test_the_smallest_stated_limit_holds(family: str, stated: int | None, limit: int, tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy", family)
    save_layers(folder, ("Pooling", {"pooling_mode": "mean"}), limit=stated)
    assert load(folder).preprocessing.max_length == limit


def test_no_limit_is_made_up(tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy", "t5")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_max_length": int(1e30)}))
    assert load(folder).preprocessing.max_length == MAX_TEXT_LENGTH
    assert load(folder, max_length=100).preprocessing.max_length == 100


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: save_layers(f, ("Pooling", {"pooling_mode": "best"})), "Invalid pooling mode: 'best'"),
        (lambda f: save_layers(f, ("Pooling", None)), "cannot be loaded by sentence-transformers"),
        (lambda f: save_layers(f, ("WordWeights", {"vocab": [], "word_weights": {}})), "has a module WordWeights"),
        (lambda f: (f / "modules.json").write_text("{"), "cannot be read"),
        (
            lambda f: save_layers(f, ("Dense", {"in_features": 2, "out_features": 3, "bias": True})),
            "cannot be loaded by sentence-transformers",
        ),
        (_remove("config.json"), "cannot be loaded by sentence-transformers"),
        (_remove("model.safetensors"), "cannot be loaded by sentence-transformers"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "cannot be loaded by sentence-transformers"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "holds no tokenizer that transformers loads"),
    ],
    ids=["pooling", "no-pooling", "module", "json", "dense", "no-config", "no-weights", "weights", "tokenizer"],
)
def test_a_folder_that_cannot_be_honoured_is_refused(
    damage: Callable[[Path], None], message: str, checkpoint: Path
) -> None:
    damage(checkpoint)
    with pytest.raises(WeightsError, match=message):
        load(checkpoint)


def test_a_pooling_of_images_is_wrong_usage(toy: Path) -> None:
    with pytest.raises(UsageError, match="pooling avg is not for texts"):
        load(toy, pooling=Pooling(method="avg"))


@pytest.mark.slow
def test_truncation_is_counted_and_reported(toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = export_towers(SPEC, [load(toy)], tmp_path / "out", options=ExportOptions())
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


DENSE = {"in_features": 24, "out_features": 24, "bias": True}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: save_layers(f, ("Normalize", None)), "sentence-transformers itself cannot embed"),
        (
            lambda f: _dense(f, {"shape": 3}),
            r"does not honour: Ignoring unrecognized Dense config key\(s\) \['shape'\]",
        ),
        (lambda f: _dense(f, {"in_features": -1}), "cannot be loaded by sentence-transformers"),
        (lambda f: save_layers(f, MEAN, limit=0), "limit of 0 tokens"),
        (lambda f: save_layers(f, MEAN, limit=[1]), "itself cannot tokenize a text"),
        (lambda f: (f / "modules.json").write_text("3"), "does not have the expected form"),
        (
            lambda f: (f / "modules.json").write_text('[{"type": "Transformer", "path": "../.."}]'),
            "brings code of its own",
        ),
        (lambda f: _prompt(f), "Default prompt name 'passage' not found"),
        (
            lambda f: edit(save_layers(f, MEAN) / "config_sentence_transformers.json", truncate_dim=0),
            r"shape \[0\], expected one vector",
        ),
        (
            lambda f: edit(save_layers(f, MEAN) / "config_sentence_transformers.json", prompts={"query": ["a", "b"]}),
            r"the prompt 'query' of .* is \['a', 'b'\], it must be a text",
        ),
        (lambda f: _leave_tokens(f), r"shape \[\d+, 24\], expected one vector; correct its modules.json"),
        (lambda f: _save_phobert(f), "the PhobertTokenizer of .* is written in Python"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter"),
        (lambda f: _save_model2vec_in_int8(f), "weights in whole numbers.*quantize_to='float32'"),
    ],
)
def test_what_a_graph_would_quietly_get_wrong_is_refused(
    damage: Callable[[Path], None], message: str, checkpoint: Path
) -> None:
    damage(checkpoint)
    with pytest.raises(WeightsError, match=message):
        load(checkpoint)


def _dense(folder: Path, changes: dict[str, Any]) -> None:
    save_layers(folder, ("Pooling", {"pooling_mode": "mean"}), ("Dense", DENSE | changes))
    save_dense(folder / "2_Dense", nn.Linear(24, 24))


def _save_model2vec_in_int8(folder: Path) -> None:
    SETTINGS["model2vec"].write(folder)
    table = load_file(folder / "model.safetensors")["embeddings"]
    save_file({"embeddings": table.to(torch.int8)}, folder / "model.safetensors")


def _prompt(folder: Path) -> None:
    save_layers(folder, MEAN)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"default_prompt_name": "passage"}))


def _leave_tokens(folder: Path) -> None:
    save_layers(folder)
    edit(folder / "sentence_bert_config.json", module_output_name="sentence_embedding", modality_config=_TOKENS)


def _save_phobert(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PhobertTokenizer"}')
    (folder / "vocab.txt").write_text("the 1\n")
    (folder / "bpe.codes").write_text("t h 5\n")


def test_a_tokenizer_of_sentencepiece_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_toy(tmp_path / "toy", "xlm-roberta")
    (folder / "tokenizer.json").rename(folder / "sentencepiece.bpe.model")
    monkeypatch.setattr(model_folder, "_has_sentencepiece", lambda: False)
    with pytest.raises(runtime.MissingDependencyError, match="`pip install sentencepiece`"):
        load(folder)


def _add_token(folder: Path, index: int, content: str) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document["added_tokens"].append({"id": index, "content": content, "special": True, **flags})
    path.write_text(json.dumps(document))


def test_a_special_token_without_an_embedding_is_plain_text(checkpoint: Path) -> None:
    text, rows = "an <image> here", json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    expected = load(checkpoint).preprocessor.prepare(text)
    _add_token(checkpoint, rows, "<image>")
    assert load(checkpoint).preprocessor.prepare(text) == expected


def test_a_prompt_is_as_long_as_for_the_library(checkpoint: Path) -> None:
    word = "a"
    edit(checkpoint / "tokenizer.json", post_processor=None)
    _add_token(checkpoint, PreTrainedTokenizerFast.from_pretrained(checkpoint).vocab[word], word)  # special here alone
    save_layers(checkpoint, ("Pooling", {"pooling_mode": "mean", "include_prompt": False}))
    tower = load(checkpoint)
    for prompt in ("query a", "query [MASK]", "query "):
        theirs = SentenceTransformer(str(checkpoint), device="cpu").preprocess(["a cat"], prompt)
        ours = tower.preprocessor.prepare("a cat", prompt)
        assert (ours.ids, ours.prompt_length) == (theirs["input_ids"][0].tolist(), theirs["prompt_length"]), prompt


def test_a_prompt_may_have_an_empty_name(checkpoint: Path) -> None:
    edit(save_layers(checkpoint, MEAN) / "config_sentence_transformers.json", prompts={"": "title: "})
    assert load(checkpoint).preprocessing.prompts[""] == "title: "


def test_code_beside_a_model_is_not_run(checkpoint: Path) -> None:
    (checkpoint / "evil.py").write_text("import pathlib; pathlib.Path(__file__).with_name('was_run').touch()")
    config = json.loads((checkpoint / "config.json").read_text())
    strange = config | {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(strange))
    with pytest.raises(WeightsError, match=r"auto_map in config.json.*--trust-remote-code"):
        load(checkpoint)
    assert not (checkpoint / "was_run").exists()


def test_the_tokenizer_travels_with_its_limit(toy: Path, tmp_path: Path) -> None:
    load(toy).write_files(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (tokenizer["truncation"]["max_length"], tokenizer["padding"]) == (64, None)


def test_trusted_code_in_another_repository_is_downloaded(
    checkpoint: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from transformers import BertModel\n\n\nclass OtherModel(BertModel):\n    pass\n"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "modeling.py").write_text(code)
    add_to_cache(hub, "someone/code", tmp_path / "code")  # to which the download below goes

    def download(place: str, *names: str, local_files_only: bool = False, **options: Any) -> Any:
        if place == "someone/code" and local_files_only:
            raise OSError("it is not on this machine")
        return cached_file(place, *names, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(dynamic_module_utils, "cached_file", download)
    edit(checkpoint / "config.json", auto_map={"AutoModel": "someone/code--modeling.OtherModel"})
    with pytest.raises(WeightsError, match=r"auto_map in config\.json: someone/code\), which is not run unasked"):
        load(checkpoint)
    tower = load(checkpoint, trust_remote_code=True)
    assert tower.weights.remote_code
    assert type(tower.sentences[0].model).__name__ == "OtherModel"


def save_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """Let sentence-transformers and peft write an adapter whose weights change the vectors."""
    save_layers(base, MEAN, ("Normalize", None))
    model = SentenceTransformer(str(base), device="cpu")
    plain: dict[str, Any] = {"task_type": "FEATURE_EXTRACTION", "target_modules": ["query", "value"]}
    model.add_adapter(LoraConfig(**plain | {"r": 4, "lora_alpha": 16} | settings))
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if "lora" in name:
            nn.init.normal_(value, std=0.3)
    model.save(str(folder))
    return folder


def test_an_adapter_is_merged(checkpoint: Path, tmp_path: Path) -> None:
    plain, tower = load(checkpoint), load(save_adapter(checkpoint, tmp_path / "adapter"))
    expected = tower.reference()
    assert not np.allclose(expected, plain.reference(), atol=0.01)
    vectors = tower.module()(*(graph_input.example for graph_input in tower.inputs()))
    np.testing.assert_allclose(vectors.detach().numpy(), expected[:2], atol=1e-5)
    assert not any("lora" in name for name, _ in tower.encoder().named_parameters())
    assert tower.weights.description == "toy, an adapter of checkpoint"
    state = load_file(checkpoint / "model.safetensors")
    save_file({name: value * 2 for name, value in state.items()}, checkpoint / "model.safetensors", {"format": "pt"})
    assert load(tmp_path / "adapter").weights.sha256 != tower.weights.sha256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"task_type": "CAUSAL_LM", "alora_invocation_tokens": [5]},
            r"peft cannot merge the adapter of encoder\.layer\.0.*aLoRA",
        ),
        ({"use_dora": True}, r"lora_magnitude_vector.*; merge_and_unload the adapter in peft"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(
    settings: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = save_adapter(checkpoint, tmp_path / "adapter", **settings)
    with pytest.raises(WeightsError, match=message):
        load(folder).module()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_layers_that_peft_wraps_are_to_be_merged(checkpoint: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(checkpoint), device="cpu")
    encoder: Any = model[0]
    encoder.auto_model = get_peft_model(encoder.auto_model, LoraConfig(target_modules=["query"]))
    model.save_pretrained(str(tmp_path / "wrapped"))
    with pytest.raises(WeightsError, match=r"and has 8 others \(.*base_layer.*; merge_and_unload the adapter"):
        load(tmp_path / "wrapped")


def test_an_adapter_of_another_kind_of_model_names_the_way_out(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(toy)}))
    with pytest.raises(WeightsError, match=r"holds no tokenizer; .*, or merge an adapter of a model of images"):
        load(tmp_path)


def test_quantized_weights_are_refused(toy: Path) -> None:
    class Int8Params(nn.Parameter): ...  # as bitsandbytes has them

    model: Any = load(toy).sentences
    model[0].auto_model.pooler.dense.weight = Int8Params(torch.ones(24, 24))
    with pytest.raises(WeightsError, match=r"toy has quantized weights \(Int8Params\), .* by --precision int8"):
        check_modules(model, "toy", trusted=True)


def test_without_peft_an_adapter_names_the_way_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_adapter(checkpoint, tmp_path / "adapter")
    monkeypatch.setattr("sentence_transformers.base.modules.transformer.is_peft_available", lambda: False)
    with pytest.raises(runtime.MissingDependencyError, match=r"\[lora\].*merge_and_unload"):
        load(folder)


def test_an_adapter_without_its_base_says_what_to_correct(checkpoint: Path, tmp_path: Path) -> None:
    folder = save_adapter(checkpoint, tmp_path / "adapter")
    shutil.rmtree(checkpoint)
    with pytest.raises(WeightsError, match="base_model_name_or_path"):
        load(folder)


def test_random_weights_take_the_settings_of_the_folder(checkpoint: Path) -> None:
    _dense(checkpoint, {"activation_function": "torch.nn.modules.activation.SiLU"})
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "2_Dense" / "model.safetensors").unlink()
    record = Weights(origin="random", description="random", seed=5, sha256="")
    request = FolderRequest(path=checkpoint, weights=record, options=ExportOptions(weights="random:5"))
    (first,), (second,) = load_folder(request), load_folder(request)
    np.testing.assert_array_equal(first.reference(), second.reference())
    assert first.weights.sha256 == second.weights.sha256 != ""
    assert first.record.layers[1] == "Dense: 24 to 24, SiLU"


def test_trusted_code_runs_and_is_recorded(checkpoint: Path) -> None:
    (checkpoint / "custom.py").write_text(
        "from torch import nn\n"
        "class Double(nn.Module):\n"
        "    def forward(self, features):\n"
        "        features['sentence_embedding'] = 2 * features['sentence_embedding']\n"
        "        return features\n"
        "    @classmethod\n"
        "    def load(cls, path):\n"
        "        return cls()\n"
    )
    save_layers(checkpoint, MEAN, ("Double", None))
    modules = (checkpoint / "modules.json").read_text().replace("sentence_transformers.models.Double", "custom.Double")
    (checkpoint / "modules.json").write_text(modules)
    with pytest.raises(WeightsError, match=r"modules\.json: custom\.Double.*--trust-remote-code"):
        load(checkpoint)
    tower = load(checkpoint, trust_remote_code=True)
    assert tower.weights.remote_code
    save_layers_again = json.loads((checkpoint / "modules.json").read_text())[:2]
    (checkpoint / "modules.json").write_text(json.dumps(save_layers_again))
    plain = load(checkpoint)
    assert not plain.weights.remote_code
    np.testing.assert_allclose(tower.reference(), 2 * plain.reference(), rtol=1e-5)


def test_a_last_normalize_of_tokens_does_not_scale_the_vector(checkpoint: Path) -> None:
    save_layers(checkpoint, MEAN, ("Normalize", {"module_input_name": "token_embeddings"}))
    tower = load(checkpoint)
    assert not tower.record.normalized
    assert tower.record.layers[-1] == "Normalize"
    lengths = np.linalg.norm(SentenceTransformer(str(checkpoint), device="cpu").encode(list(TEXTS)), axis=1)
    assert np.abs(lengths - 1).max() > 0.1, "the library scales only the tokens"


@pytest.fixture
def static(toy: Path, tmp_path: Path) -> Callable[..., Path]:
    def save(limit: int | None = None, side: Literal["left", "right"] = "right") -> Path:
        tokenizer = Tokenizer.from_file(str(toy / "tokenizer.json"))
        tokenizer.no_truncation()
        if limit is not None:
            tokenizer.enable_truncation(limit, direction=side)
        module = StaticEmbedding(tokenizer, embedding_weights=np.random.default_rng(0).normal(size=(400, 24)))
        SentenceTransformer(modules=[module], device="cpu").save(str(tmp_path / "static"))
        return tmp_path / "static"

    return save


@pytest.mark.parametrize(("limit", "side"), [(4, "left"), (2048, "right")])
def test_the_limit_of_a_static_embedding_is_that_of_its_tokenizer(
    limit: int, side: str, static: Callable[..., Path]
) -> None:
    recipe = load(static(limit, side)).preprocessing
    assert (recipe.max_length, recipe.truncation_side) == (limit, side)


@pytest.mark.parametrize("own", [None, 4, 2048])
def test_the_user_limits_a_static_embedding(own: int | None, static: Callable[..., Path]) -> None:
    tower = load(static(own, "left"), max_length=8)
    assert tower.preprocessing.max_length == 8
    long = max(TEXTS, key=len)
    last = tower.preprocessor.prepare(long).ids
    assert (len(last), tower.preprocessing.truncation_side) == (8, "right" if own is None else "left")
    table = tower.sentences[0].state_dict()["embedding.weight"]
    np.testing.assert_allclose(tower.embed(long), table[last].mean(dim=0), rtol=1e-5)


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean", "manhattan"])
def test_vectors_are_compared_as_the_model_does(function: str, checkpoint: Path) -> None:
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": function}))
    assert load(save_layers(checkpoint, MEAN)).similarity_function == function


def test_the_comparison_of_vectors_travels_with_the_artifact(checkpoint: Path, tmp_path: Path) -> None:
    save_layers(checkpoint, MEAN)
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "euclidean"}))
    folder = export_towers(SPEC, [load(checkpoint)], tmp_path / "toy", options=ExportOptions())
    model, library = runtime.load(folder), SentenceTransformer(str(checkpoint), device="cpu")
    vectors = model.embed(["a cat", "the dog", "a much longer text"])
    expected = library.similarity(vectors[:1], vectors).numpy()
    np.testing.assert_allclose(model.similarity(vectors[0], vectors), expected, rtol=1e-5, atol=1e-5)
    assert "compare by    euclidean" in describe_manifest(model.manifest)
    (hub,) = publish(folder, ["huggingface"], tmp_path / "out")
    assert json.loads((hub / "config_sentence_transformers.json").read_text())["similarity_fn_name"] == "euclidean"
