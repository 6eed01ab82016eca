"""Tiny checkpoints with every setting that libraries write, and every layout of a folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    WeightedLayerPooling,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch import nn
from transformers import AutoModel

from tests.exporters.families.checkpoints.build import (
    DIM,
    LIMIT,
    MEAN,
    SIZES,
    TWO_LAYERS,
    Chain,
    Checkpoint,
    Words,
    build_model,
    chain_checkpoint,
    edit,
    make_words,
    plain_checkpoint,
    pool,
    save_encoder,
    save_modules,
)
from tests.exporters.families.checkpoints.changes import (
    Change,
    changed,
    edit_modules,
    edit_weights,
    move_into,
    remove,
    set_keys,
    set_module,
    to_bin,
    use_old_names,
    write_file,
    write_legacy_settings,
)
from tests.exporters.families.checkpoints.families import BERT, DECODER, QWEN, ROBERTA, ROBERTA_SIZES
from tests.exporters.families.vocabularies import word_piece

_LEGACY_POOLING = {
    "word_embedding_dimension": DIM,
    "pooling_mode_cls_token": True,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_max_tokens": True,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
_MODEL_CODE = """
from transformers import BertConfig, BertModel


class NewConfig(BertConfig):
    model_type = "new"


class NewModel(BertModel):
    config_class = NewConfig

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.last_hidden_state = 2 * outputs.last_hidden_state + 1
        return outputs
"""
_POOLING_CODE = """
from sentence_transformers.base.modules.module import Module


class FirstTokens(Module):
    def forward(self, features, **kwargs):
        features["sentence_embedding"] = features["token_embeddings"][:, :2].sum(dim=1)
        return features

    def save(self, output_path, *args, **kwargs):
        pass
"""
_CHAT_TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
_AUTO_MAP = {"AutoConfig": "modeling_new.NewConfig", "AutoModel": "modeling_new.NewModel"}


def _bert(
    *changes: Change,
    chain: Chain = MEAN,
    words: Words = BERT,
    config: Mapping[str, Any] | None = None,
    **more: Any,
) -> Checkpoint:
    """Return a checkpoint of a BERT of one layer, whose files are changed after they are written."""
    return changed(chain_checkpoint("BertModel", words, config, chain, **more), *changes)


def _write_static(folder: Path) -> None:
    tokenizer = BERT()
    weights = torch.randn((len(tokenizer), DIM), generator=torch.Generator().manual_seed(0))
    save_modules(folder, StaticEmbedding(tokenizer, embedding_weights=weights), truncate_dim=24)


def _write_model2vec(folder: Path) -> None:
    """Write the files of model2vec's ``save_pretrained``, with a vocabulary in clusters and weights of tokens."""
    tokenizer = BERT()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "embeddings": torch.randn((50, DIM), generator=generator),
        "mapping": torch.randint(50, (len(tokenizer),), generator=generator),
        "weights": torch.rand(len(tokenizer), generator=generator),
    }
    save_file(tensors, folder / "model.safetensors")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    edit(folder / "config.json", model_type="model2vec", architectures=["StaticModel"], normalize=True, hidden_dim=DIM)
    kinds = {".": "StaticEmbedding", "1_Normalize": "Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "1_Normalize").mkdir()


def _write_word_embeddings(folder: Path) -> None:
    words = ["apple", "banana", "cherry"]
    table = torch.randn((3, DIM), generator=torch.Generator().manual_seed(0)).numpy()
    save_modules(folder, WordEmbeddings(WhitespaceTokenizer(words), table), Pooling(DIM, "mean"))


def _write_adapter(folder: Path) -> None:
    """Write a LoRA of PEFT, beside the base model that it names."""
    base = folder / "base"
    tokenizer = BERT()
    model = build_model("BertModel", tokenizer, **SIZES, max_position_embeddings=LIMIT)
    save_encoder(base, model, tokenizer)
    torch.manual_seed(0)
    lora = peft.LoraConfig(target_modules=["query", "value"], r=4, init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is to be removed
        adapted = peft.get_peft_model(AutoModel.from_pretrained(base), lora)
    adapted.save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)


def _activations() -> tuple[nn.Module, ...]:
    kinds = (nn.Tanh(), nn.GELU(), nn.ReLU(), nn.SiLU(), nn.LeakyReLU(), nn.Identity())
    return (Pooling(DIM, "mean"), *(Dense(DIM, DIM, activation_function=kind) for kind in kinds))


def _residuals() -> tuple[nn.Module, ...]:
    same, other = Dense(DIM, DIM, use_residual=True), Dense(DIM, 24, use_residual=True)
    return (Pooling(DIM, "mean"), same, other)


def _on_tokens() -> tuple[nn.Module, ...]:
    tokens = "token_embeddings"
    return (Dense(DIM, 24, module_input_name=tokens), Normalize(module_input_name=tokens), Pooling(24, "mean"))


def _between() -> tuple[nn.Module, ...]:
    return (Pooling(DIM, "mean"), Normalize(), LayerNorm(DIM), Dropout(0.5), Dense(DIM, 24), Normalize(), Dense(24, 16))


def _weighted() -> tuple[nn.Module, ...]:
    layers = WeightedLayerPooling(DIM, num_hidden_layers=2, layer_start=1)
    layers.layer_weights = nn.Parameter(torch.tensor([0.3, 1.7]))
    return (layers, Pooling(DIM, "mean"))


def _router() -> tuple[nn.Module, ...]:
    return (Pooling(DIM, "mean"), Router.for_query_document([Dense(DIM, DIM)], [Dense(DIM, DIM)]))


def _longrope(**more: Any) -> Checkpoint:
    """Return a checkpoint of a Gemma whose layers of one kind have other frequencies in a batch above 64 tokens."""
    return chain_checkpoint("Gemma3TextModel", BERT, DECODER | TWO_LAYERS | _LONGROPE, **more)


def _enlarged(tokenizer: Any) -> Any:
    tokenizer.add_tokens(["<one>", "<two>"])
    return tokenizer


def _padded(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    return tokenizer


def _plain_gte(**more: Any) -> Checkpoint:
    """Return a checkpoint whose model is Python code in the folder, as of gte-base-en-v1.5."""
    change = set_keys("config.json", model_type="new", architectures=["NewModel"], auto_map=_AUTO_MAP)
    return changed(
        plain_checkpoint("BertModel", BERT, SIZES), change, write_file("modeling_new.py", _MODEL_CODE), **more
    )


_DYNAMIC: dict[str, Any] = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
_FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 64}
_LONGROPE: dict[str, Any] = {
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "longrope", "rope_theta": 1e4, **_FACTORS},
    },
}
_PROMPTS = {"query": "query: ", "passage": "passage: "}
_POOLER = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
_QUERY = "encoder.layer.0.attention.self.query.weight"
_SHORT = make_words(word_piece, model_max_length=24, truncation_side="left")
_CASED = make_words(word_piece, do_lower_case=False)
_LEFT = make_words(word_piece, padding_side="left")

SETTINGS: dict[str, Checkpoint] = {
    "pooling: every mode": _bert(chain=pool("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")),
    "pooling: legacy booleans": _bert(
        edit_modules(use_old_names),
        lambda folder: (folder / "1_Pooling/config.json").unlink(),
        set_keys("1_Pooling/config.json", **_LEGACY_POOLING),
    ),
    "pooling: without prompt": _bert(
        chain=pool("mean", include_prompt=False), prompts=_PROMPTS, default_prompt_name="query"
    ),
    "dense: activations": _bert(chain=_activations),
    "dense: residual": _bert(chain=_residuals),
    "dense: on tokens": _bert(chain=_on_tokens),
    "dense: unknown activation": _bert(
        set_keys("2_Dense/config.json", activation_function="my_package.Squared"),
        chain=lambda: (Pooling(DIM, "mean"), Dense(DIM, DIM)),
        refused="an activation that the library replaces by Tanh",
        says=("does not honour", "my_package.Squared"),
    ),
    "normalize, layer norm, dropout": _bert(chain=_between),
    "weighted layer pooling": _bert(
        set_keys("config.json", output_hidden_states=True), chain=_weighted, config=TWO_LAYERS
    ),
    "static embedding": Checkpoint(write=_write_static, fast=True),
    "model2vec": Checkpoint(write=_write_model2vec),
    "layout: 0_Transformer": _bert(
        edit_modules(use_old_names), move_into("0_Transformer"), set_module(0, path="0_Transformer")
    ),
    "layout: dot": _bert(set_module(0, path=".")),
    "settings: sentence_roberta_config.json": changed(
        chain_checkpoint("RobertaModel", ROBERTA, ROBERTA_SIZES),
        write_legacy_settings("sentence_roberta_config.json", max_seq_length=24),
        edit_modules(use_old_names),
    ),
    "settings: model, tokenizer and config arguments": _bert(
        write_legacy_settings(
            max_seq_length=...,
            model_args={"attn_implementation": "eager"},
            tokenizer_args={"model_max_length": 20, "truncation_side": "left"},
            config_args={"layer_norm_eps": 0.5},
        )
    ),
    "settings: processing_kwargs": _bert(
        set_keys("sentence_bert_config.json", processing_kwargs={"text": {"max_length": 16}}),
        refused="texts are tokenized in a way that the runtime has not",
        says=("processing_kwargs",),
    ),
    "settings: do_lower_case": _bert(write_legacy_settings(do_lower_case=True), words=_CASED),
    "settings: module_output_name": _bert(
        set_keys("sentence_bert_config.json", modality_config=_POOLER, module_output_name="sentence_embedding"),
        edit_modules(lambda modules: modules.pop(1)),
        chain=lambda: (Pooling(DIM, "mean"), Normalize()),
    ),
    "settings: query_length": _bert(
        set_keys("sentence_bert_config.json", query_length=8, document_length=16),
        refused="queries and documents have different limits",
        says=("query_length",),
    ),
    "truncate_dim": _bert(truncate_dim=20),
    "truncation side: left": _bert(words=_SHORT),
    "padding side: left, absolute positions": _bert(words=_LEFT),
    "limit: null": _bert(write_legacy_settings(max_seq_length=None)),
    "limit: above the positions": _bert(write_legacy_settings(max_seq_length=512), limit=LIMIT),
    "limit: lowered": _bert(options={"max_length": 12}),
    "positions: dynamic NTK": chain_checkpoint(
        "LlamaModel", BERT, DECODER | {"max_position_embeddings": LIMIT} | _DYNAMIC
    ),
    "positions: LongRoPE": _longrope(
        refused="the positions depend on the length of the batch", says=("longrope", "--max-length 64")
    ),
    "positions: LongRoPE, limited": _longrope(options={"max_length": 64}),
    "prompts: default": _bert(prompts=_PROMPTS, default_prompt_name="passage"),
    "weights: float16": plain_checkpoint("BertModel", BERT, SIZES, dtype=torch.float16),
    "weights: bfloat16 in shards": plain_checkpoint(
        "BertModel", BERT, SIZES | TWO_LAYERS, dtype=torch.bfloat16, max_shard_size="20KB"
    ),
    "weights: pytorch_model.bin": _bert(to_bin),
    "weights: missing": _bert(
        edit_weights(lambda state: state.pop(_QUERY)), refused="a weight is missing", says=("lacks 1 weights", _QUERY)
    ),
    "weights: pooler missing and used": _bert(
        set_keys("sentence_bert_config.json", modality_config=_POOLER, module_output_name="sentence_embedding"),
        edit_modules(lambda modules: modules.pop(1)),
        edit_weights(lambda state: [state.pop(name) for name in list(state) if "pooler" in name]),
        refused="the pooler that it uses has no weights",
        says=("pooler",),
    ),
    "weights: of a further layer": _bert(
        edit_weights(lambda state: state.update({_QUERY.replace("0", "1"): state[_QUERY].clone()})),
        refused="a weight belongs to no layer",
        says=("no place for", "layer.1"),
    ),
    "weights: missing of a module": _bert(
        remove("2_Dense/model.safetensors"),
        chain=lambda: (Pooling(DIM, "mean"), Dense(DIM, DIM)),
        refused="a module has no weights",
        says=("model.safetensors",),
    ),
    "plain: for masked language modelling": plain_checkpoint("BertForMaskedLM", BERT, SIZES),
    "plain: for classification": plain_checkpoint("BertForSequenceClassification", BERT, SIZES),
    "plain: for causal language modelling": plain_checkpoint("Qwen2ForCausalLM", QWEN, DECODER),
    "plain: with chat template": changed(
        plain_checkpoint("Qwen2ForCausalLM", QWEN, DECODER),
        write_file("chat_template.jinja", _CHAT_TEMPLATE),
        refused="texts go through a chat template",
        says=("chat template",),
    ),
    "tokenizer: none": _bert(
        remove("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        refused="it has no tokenizer",
        says=("tokenizer.save_pretrained",),
    ),
    "tokenizer: padding without an embedding": _bert(
        words=lambda: _padded(BERT()), config={"vocab_size": 905, "pad_token_id": 0}
    ),
    "tokenizer: larger than the model": _bert(
        words=lambda: _enlarged(BERT()),
        config={"vocab_size": 905},
        refused="the tokenizer has more tokens than the model",
        says=("tokens, and the model has embeddings for 905",),
    ),
    "code: of the model": _plain_gte(refused="code in the folder is not run unasked", says=("--trust-remote-code",)),
    "code: of the model, trusted": _plain_gte(options={"trust_remote_code": True}),
    "code: for a known architecture": _bert(
        write_file("modeling_new.py", _MODEL_CODE),
        set_keys("config.json", auto_map=_AUTO_MAP),
        refused="code in the folder is not run unasked",
        says=("--trust-remote-code",),
    ),
    "code: of a module": _bert(
        write_file("first_tokens.py", _POOLING_CODE),
        remove("1_Pooling/config.json"),
        set_module(1, type="first_tokens.FirstTokens"),
        refused="code in the folder is not run unasked",
        says=("first_tokens.FirstTokens",),
    ),
    "code: of a module, trusted": _bert(
        write_file("first_tokens.py", _POOLING_CODE),
        remove("1_Pooling/config.json"),
        set_module(1, type="first_tokens.FirstTokens"),
        options={"trust_remote_code": True},
    ),
    "module: of an unknown package": _bert(
        set_module(1, type="other_package.models.Pooling"),
        refused="a module is of another package",
        says=("other_package.models.Pooling",),
    ),
    "module: Router": _bert(
        chain=_router,
        options={"trust_remote_code": True},
        refused="queries and documents take different modules",
        says=("Router", "of one task"),
    ),
    "module: with a task": _bert(
        set_module(1, kwargs=["task"]), refused="a module takes a task", says=("take the task out of the kwargs",)
    ),
    "module: WordEmbeddings": Checkpoint(
        write=_write_word_embeddings, refused="its tokenizer is not one of the runtime's", says=("WordEmbeddings",)
    ),
    "folder of a cross encoder": _bert(
        set_keys("config_sentence_transformers.json", model_type="CrossEncoder"),
        refused="it is no encoder of single texts",
        says=("is a CrossEncoder of sentence-transformers",),
    ),
    "folder of a sparse encoder": _bert(
        set_keys("config_sentence_transformers.json", model_type="SparseEncoder"),
        refused="its vectors are sparse",
        says=("is a SparseEncoder of sentence-transformers",),
    ),
    "adapter of PEFT": Checkpoint(write=_write_adapter),
}
