"""Tiny text checkpoints of every family and setting, in the layouts that the libraries write."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch import nn
from transformers import AutoModel, PreTrainedModel

from tests.exporters.families.vocabularies import (
    NAMES,
    PIECES,
    byte_fallback,
    byte_level,
    fast_byte_level,
    surround,
    unigram,
    word_piece,
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
    _save_modules(folder, encoder, *modules, **options)


def _save_modules(folder: Path, *modules: nn.Module, **options: Any) -> None:
    torch.manual_seed(1)
    SentenceTransformer(modules=list(modules), device="cpu", **options).save(str(folder), create_model_card=False)


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; ``...`` removes a key."""
    document = json.loads(path.read_text("utf-8")) if path.exists() else {}
    document = {key: value for key, value in (document | changes).items() if value is not ...}
    path.write_text(json.dumps(document, indent=2), "utf-8")


Words = Callable[[], Any]
Chain = Callable[[], tuple[nn.Module, ...]]
_TWO_LAYERS: dict[str, Any] = {"num_hidden_layers": 2}
_ROBERTA: dict[str, Any] = {
    "max_position_embeddings": LIMIT + 2,
    "type_vocab_size": 1,
}  # positions begin behind the padding index
_T5: dict[str, Any] = {"d_model": DIM, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48}
_GATED: dict[str, Any] = _T5 | {"feed_forward_proj": "gated-gelu"}
_DECODER: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096}
_GEMMA: dict[str, Any] = _DECODER | _TWO_LAYERS | {"query_pre_attn_scalar": 8, "sliding_window": 16}
_DISENTANGLED: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_DEBERTA_V2: dict[str, Any] = _DISENTANGLED | {
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
_MOBILE: dict[str, Any] = {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2}
_QWEN_PROMPTS: dict[str, Any] = {
    "query": "Instruct: Given a web search query, retrieve passages\nQuery:",
    "document": "",
}
_GEMMA_PROMPTS: dict[str, Any] = {"query": "task: search result | query: ", "document": "title: none | text: "}
_BATCH: dict[str, Any] = {
    "refused": "its vectors depend on the padding of the batch",
    "says": ("batch",),
    "traced": True,
}


def pool(*modes: str, dim: int = DIM, normalize: bool = False, **options: Any) -> Chain:
    """Return a function that makes a pooling, and a normalisation if asked for."""
    return lambda: (Pooling(dim, modes, **options), *([Normalize()] if normalize else []))


MEAN = pool("mean")


def _pad(token: str) -> dict[str, str]:
    return {"pad_token": token}


def _words(make: Callable[..., Any], *arguments: Any, around: str = "", **options: Any) -> Words:
    """Return a function that makes a tokenizer with a limit, and with special tokens around a text."""

    def build() -> Any:
        tokenizer = make(*arguments, **({"model_max_length": LIMIT} | options))
        return surround(tokenizer, around) if around else tokenizer

    return build


def _family(
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


def _plain(
    model: str, words: Words, config: Mapping[str, Any], dtype: torch.dtype = torch.float32, **saving: Any
) -> Checkpoint:
    """Return a checkpoint that transformers saves, with no file of sentence-transformers."""

    def write(folder: Path) -> None:
        tokenizer = words()
        encoder = build_model(model, tokenizer, **config)
        nn.Module.to(encoder, dtype)
        save_encoder(folder, encoder, tokenizer, **saving)

    return Checkpoint(write=write)


BERT = _words(word_piece)
ROBERTA = _words(byte_level)
XLM_ROBERTA = _words(unigram)
EUROBERT = _words(
    fast_byte_level,
    NAMES["eurobert"].values(),
    around="<|begin_of_text|> $A <|end_of_text|>",
    **NAMES["eurobert"],
)
T5 = _words(unigram, "T5Tokenizer", ("<pad>", "</s>", "<unk>"), extra_ids=0)
GEMMA = _words(byte_fallback, "GemmaTokenizer", ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), around="<bos> $A <eos>")
ALBERT = _words(unigram, "AlbertTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))
QWEN = _words(
    byte_level,
    "Qwen2Tokenizer",
    ("<|endoftext|>",),
    around="$A <|endoftext|>",
    padding_side="left",
    model_max_length=512,
)

FAMILIES: dict[str, Checkpoint] = {
    "bert": _family("BertModel", BERT, fast=True),
    "roberta": _family("RobertaModel", ROBERTA, _ROBERTA),
    "xlm-roberta": _family("XLMRobertaModel", XLM_ROBERTA, _ROBERTA, pool("cls", normalize=True)),
    "xlm-roberta-xl": _family("XLMRobertaXLModel", XLM_ROBERTA, _ROBERTA),
    "camembert": _family("CamembertModel", _words(unigram, "CamembertTokenizer"), _ROBERTA),
    "data2vec-text": _family("Data2VecTextModel", ROBERTA, _ROBERTA),
    "distilbert": _family(
        "DistilBertModel",
        _words(word_piece, "DistilBertTokenizer"),
        {"dim": DIM, "n_layers": 1, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": LIMIT},
    ),
    "mpnet": _family(
        "MPNetModel", _words(word_piece, "MPNetTokenizer", ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")), _ROBERTA
    ),
    "albert": _family("AlbertModel", ALBERT, _TWO_LAYERS | {"embedding_size": 16}),
    "electra": _family("ElectraModel", _words(word_piece, "ElectraTokenizer"), {"embedding_size": 16}, pool("cls")),
    "deberta": _family(
        "DebertaModel",
        _words(byte_level, "DebertaTokenizer", ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")),
        _DISENTANGLED,
    ),
    "deberta-v2": _family(
        "DebertaV2Model",
        _words(unigram, "DebertaV2Tokenizer", ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), unk_id=3),
        _DEBERTA_V2 | {"conv_kernel_size": 3, "conv_act": "gelu"},
    ),
    "deberta-v3": _family(
        "DebertaV2Model",
        _words(unigram, "DebertaV2Tokenizer", ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), unk_id=3),
        _DEBERTA_V2,
    ),
    "modernbert": _family(
        "ModernBertModel",
        _words(fast_byte_level, PIECES["bert"], around="[CLS] $A [SEP]", model_max_length=8192, **NAMES["bert"]),
        _TWO_LAYERS
        | {
            "local_attention": 16,
            "global_attn_every_n_layers": 2,
            "max_position_embeddings": 8192,
            **{f"{kind}_token_id": index for kind, index in (("cls", 2), ("bos", 2), ("sep", 3), ("eos", 3))},
        },
        pool("cls"),
    ),
    "nomic-bert": _family("NomicBertModel", BERT, {"max_position_embeddings": 2048}),
    "eurobert": _family("EuroBertModel", EUROBERT, _DECODER | {"mask_token_id": 2}),
    "jina-embeddings-v3": _family("JinaEmbeddingsV3Model", XLM_ROBERTA, _ROBERTA),
    "mobilebert": _family("MobileBertModel", _words(word_piece, "MobileBertTokenizer"), _MOBILE, **_BATCH),
    "convbert": _family("ConvBertModel", _words(word_piece, "ConvBertTokenizer"), {"embedding_size": DIM}, **_BATCH),
    "nystromformer": _family("NystromformerModel", ALBERT, {"num_landmarks": 8, "segment_means_seq_len": 8}, **_BATCH),
    "fnet": _family(
        "FNetModel",
        _words(unigram, "FNetTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
        {"type_vocab_size": 4},
        **_BATCH,
    ),
    "funnel": _family(
        "FunnelModel",
        _words(word_piece, "FunnelTokenizer", ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>")),
        {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": DIM, "n_head": 4, "d_head": 8, "d_inner": 48},
        refused="torch can trace it for one length of texts only",
        says=("'sequence'",),
        traced=True,
    ),
    "longformer": _family(
        "LongformerModel",
        _words(byte_level, "LongformerTokenizer"),
        _ROBERTA | {"attention_window": 16},
        refused="torch cannot trace its windows of attention",
        says=("torch cannot export",),
        traced=True,
    ),
    "big-bird": _family(
        "BigBirdModel",
        _words(unigram, "BigBirdTokenizer", ("<pad>", "</s>", "<s>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
        {"attention_type": "original_full"},
    ),
    "t5": _family(
        "T5EncoderModel",
        T5,
        _T5,
        lambda: (Pooling(DIM, "mean"), Dense(DIM, 24, bias=False, activation_function=nn.Identity()), Normalize()),
        fast=True,
    ),
    "mt5": _plain("MT5Model", T5, _GATED),
    "umt5": _plain("UMT5Model", T5, _GATED),
    "qwen2": _family("Qwen2Model", QWEN, _DECODER, pool("lasttoken", normalize=True)),
    "qwen3": _family(
        "Qwen3Model", QWEN, _DECODER | _TWO_LAYERS, pool("lasttoken", normalize=True), prompts=_QWEN_PROMPTS, fast=True
    ),
    "gemma2": _family(
        "Gemma2Model",
        _words(
            byte_fallback, "GemmaTokenizer", ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), around="<bos> $A <eos>"
        ),
        _GEMMA,
        pool("lasttoken", normalize=True),
    ),
    "gemma3": _family(
        "Gemma3TextModel",
        _words(
            byte_fallback, "GemmaTokenizer", ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), around="<bos> $A <eos>"
        ),
        _GEMMA,
        pool("lasttoken", normalize=True),
    ),
    "embedding-gemma": _family(
        "Gemma3TextModel",
        _words(
            byte_fallback, "GemmaTokenizer", ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), around="<bos> $A <eos>"
        ),
        _GEMMA | {"use_bidirectional_attention": True},
        lambda: (
            Pooling(DIM, "mean"),
            Dense(DIM, 64, bias=False, activation_function=nn.Identity()),
            Dense(64, DIM, bias=False, activation_function=nn.Identity()),
            Normalize(),
        ),
        prompts=_GEMMA_PROMPTS,
    ),
    "llama": _family(
        "LlamaModel",
        _words(byte_fallback, "LlamaTokenizer", ("<unk>", "<s>", "</s>"), around="<s> $A </s>", **_pad("</s>")),
        _DECODER,
        pool("lasttoken"),
    ),
    "mistral": _family(
        "MistralModel",
        _words(byte_fallback, "LlamaTokenizer", ("<unk>", "<s>", "</s>"), around="<s> $A </s>", **_pad("<unk>")),
        _DECODER | {"sliding_window": 16},
        pool("lasttoken", normalize=True),
    ),
    "gpt2": _family(
        "GPT2Model",
        _words(byte_level, "GPT2Tokenizer", ("<|endoftext|>",), **_pad("<|endoftext|>")),
        {"n_embd": DIM, "n_layer": 1, "n_head": 4, "n_positions": LIMIT},
        pool("weightedmean"),
        empty=False,
    ),
}


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
Change = Callable[[Path], None]


def _bert(
    *changes: Change,
    chain: Chain = MEAN,
    words: Words = BERT,
    config: Mapping[str, Any] | None = None,
    **more: Any,
) -> Checkpoint:
    """Return a checkpoint of a BERT of one layer, whose files are changed after they are written."""
    return _changed(_family("BertModel", words, config, chain, **more), *changes)


def _changed(checkpoint: Checkpoint, *changes: Change, **more: Any) -> Checkpoint:
    def write(folder: Path) -> None:
        checkpoint.write(folder)
        for change in changes:
            change(folder)

    return replace(checkpoint, write=write, **more)


def _edit(name: str, **keys: Any) -> Change:
    """Return a function that changes keys of a JSON file of the folder."""
    return lambda folder: edit(folder / name, **keys)


def _legacy(name: str = "sentence_bert_config.json", **keys: Any) -> Change:
    """Return a function that writes the encoder's settings as versions before 6 did."""

    def change(folder: Path) -> None:
        (folder / "sentence_bert_config.json").unlink()
        settings = {"max_seq_length": LIMIT, "do_lower_case": False} | keys
        settings = {key: value for key, value in settings.items() if value is not ...}
        (folder / name).write_text(json.dumps(settings), "utf-8")

    return change


def _modules(edited: Callable[[list[dict[str, Any]]], object]) -> Change:
    """Return a function that changes modules.json."""

    def change(folder: Path) -> None:
        path = folder / "modules.json"
        modules = json.loads(path.read_text("utf-8"))
        edited(modules)
        path.write_text(json.dumps(modules), "utf-8")

    return change


def _set_module(index: int, **keys: Any) -> Change:
    return _modules(lambda modules: modules[index].update(keys))


def _old_names(modules: list[dict[str, Any]]) -> None:
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]


def _into(subfolder: str) -> Change:
    """Return a function that moves the encoder's files into a folder of their own."""

    def change(folder: Path) -> None:
        kept = ("modules.json", "config_sentence_transformers.json")
        files = [path for path in folder.iterdir() if path.is_file() and path.name not in kept]
        (folder / subfolder).mkdir()
        for path in files:
            path.rename(folder / subfolder / path.name)

    return change


def _file(name: str, content: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text(content, "utf-8")

    return change


def _without(*names: str) -> Change:
    """Return a function that removes files."""

    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return change


def _weights(edited: Callable[[dict[str, torch.Tensor]], object], name: str = "model.safetensors") -> Change:
    """Return a function that changes the weights."""

    def change(folder: Path) -> None:
        state = load_file(folder / name)
        edited(state)
        save_file(state, folder / name, {"format": "pt"})

    return change


def _to_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _write_static(folder: Path) -> None:
    tokenizer = BERT()
    weights = torch.randn((len(tokenizer), DIM), generator=torch.Generator().manual_seed(0))
    _save_modules(folder, StaticEmbedding(tokenizer, embedding_weights=weights), truncate_dim=24)


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


def _write_router(folder: Path) -> None:
    tokenizer = BERT()
    save_encoder(folder, build_model("BertModel", tokenizer, **SIZES, max_position_embeddings=LIMIT), tokenizer)
    encoder = Transformer(str(folder))
    shutil.rmtree(folder)
    routes = ([encoder, Pooling(DIM, "mean")], [encoder, Pooling(DIM, "cls")])
    _save_modules(folder, Router.for_query_document(query_modules=routes[0], document_modules=routes[1]))


def _write_word_embeddings(folder: Path) -> None:
    words = ["apple", "banana", "cherry"]
    table = torch.randn((3, DIM), generator=torch.Generator().manual_seed(0)).numpy()
    _save_modules(folder, WordEmbeddings(WhitespaceTokenizer(words), table), Pooling(DIM, "mean"))


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


def _enlarged(tokenizer: Any) -> Any:
    tokenizer.add_tokens(["<one>", "<two>"])
    return tokenizer


def _plain_gte(**more: Any) -> Checkpoint:
    """Return a checkpoint whose model is Python code in the folder, as of gte-base-en-v1.5."""
    change = _edit("config.json", model_type="new", architectures=["NewModel"], auto_map=_AUTO_MAP)
    return _changed(_plain("BertModel", BERT, SIZES), change, _file("modeling_new.py", _MODEL_CODE), **more)


_PROMPTS = {"query": "query: ", "passage": "passage: "}
_POOLER = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
_QUERY = "encoder.layer.0.attention.self.query.weight"
_SHORT = _words(word_piece, model_max_length=24, truncation_side="left")
_CASED = _words(word_piece, do_lower_case=False)
_LEFT = _words(word_piece, padding_side="left")

SETTINGS: dict[str, Checkpoint] = {
    "pooling: every mode": _bert(chain=pool("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")),
    "pooling: legacy booleans": _bert(
        _modules(_old_names),
        lambda folder: (folder / "1_Pooling/config.json").unlink(),
        _edit("1_Pooling/config.json", **_LEGACY_POOLING),
    ),
    "pooling: without prompt": _bert(
        chain=pool("mean", include_prompt=False), prompts=_PROMPTS, default_prompt_name="query"
    ),
    "dense: activations": _bert(chain=_activations),
    "dense: residual": _bert(chain=_residuals),
    "dense: on tokens": _bert(chain=_on_tokens),
    "dense: unknown activation": _bert(
        _edit("2_Dense/config.json", activation_function="my_package.Squared"),
        chain=lambda: (Pooling(DIM, "mean"), Dense(DIM, DIM)),
        refused="an activation that the library replaces by Tanh",
        says=("my_package.Squared",),
    ),
    "normalize, layer norm, dropout": _bert(chain=_between),
    "weighted layer pooling": _bert(
        _edit("config.json", output_hidden_states=True), chain=_weighted, config=_TWO_LAYERS
    ),
    "static embedding": Checkpoint(write=_write_static, fast=True),
    "model2vec": Checkpoint(write=_write_model2vec),
    "layout: 0_Transformer": _bert(_modules(_old_names), _into("0_Transformer"), _set_module(0, path="0_Transformer")),
    "layout: dot": _bert(_set_module(0, path=".")),
    "settings: sentence_roberta_config.json": _changed(
        _family("RobertaModel", ROBERTA, _ROBERTA),
        _legacy("sentence_roberta_config.json", max_seq_length=24),
        _modules(_old_names),
    ),
    "settings: model, tokenizer and config arguments": _bert(
        _legacy(
            max_seq_length=...,
            model_args={"attn_implementation": "eager"},
            tokenizer_args={"model_max_length": 20, "truncation_side": "left"},
            config_args={"layer_norm_eps": 0.5},
        )
    ),
    "settings: processing_kwargs": _bert(
        _edit("sentence_bert_config.json", processing_kwargs={"text": {"max_length": 16}}),
        refused="texts are tokenized in a way that the runtime has not",
        says=("processing_kwargs",),
    ),
    "settings: do_lower_case": _bert(_legacy(do_lower_case=True), words=_CASED),
    "settings: module_output_name": _bert(
        _edit("sentence_bert_config.json", modality_config=_POOLER, module_output_name="sentence_embedding"),
        _modules(lambda modules: modules.pop(1)),
        chain=lambda: (Pooling(DIM, "mean"), Normalize()),
    ),
    "settings: query_length": _bert(
        _edit("sentence_bert_config.json", query_length=8, document_length=16),
        refused="queries and documents have different limits",
        says=("query_length",),
    ),
    "truncate_dim": _bert(truncate_dim=20),
    "truncation side: left": _bert(words=_SHORT),
    "padding side: left, absolute positions": _bert(words=_LEFT),
    "limit: null": _bert(_legacy(max_seq_length=None)),
    "limit: above the positions": _bert(_legacy(max_seq_length=512), limit=LIMIT),
    "limit: lowered": _bert(options={"max_length": 12}),
    "prompts: default": _bert(prompts=_PROMPTS, default_prompt_name="passage"),
    "weights: float16": _plain("BertModel", BERT, SIZES, dtype=torch.float16),
    "weights: bfloat16 in shards": _plain(
        "BertModel", BERT, SIZES | _TWO_LAYERS, dtype=torch.bfloat16, max_shard_size="20KB"
    ),
    "weights: pytorch_model.bin": _bert(_to_bin),
    "weights: missing": _bert(_weights(lambda state: state.pop(_QUERY)), refused="a weight is missing", says=(_QUERY,)),
    "weights: pooler missing and used": _bert(
        _edit("sentence_bert_config.json", modality_config=_POOLER, module_output_name="sentence_embedding"),
        _modules(lambda modules: modules.pop(1)),
        _weights(lambda state: [state.pop(name) for name in list(state) if "pooler" in name]),
        refused="the pooler that it uses has no weights",
        says=("pooler",),
    ),
    "weights: of a further layer": _bert(
        _weights(lambda state: state.update({_QUERY.replace("0", "1"): state[_QUERY].clone()})),
        refused="a weight belongs to no layer",
        says=("layer.1",),
    ),
    "weights: missing of a module": _bert(
        _without("2_Dense/model.safetensors"),
        chain=lambda: (Pooling(DIM, "mean"), Dense(DIM, DIM)),
        refused="a module has no weights",
        says=("model.safetensors",),
    ),
    "plain: for masked language modelling": _plain("BertForMaskedLM", BERT, SIZES),
    "plain: for classification": _plain("BertForSequenceClassification", BERT, SIZES),
    "plain: for causal language modelling": _plain("Qwen2ForCausalLM", QWEN, _DECODER),
    "plain: with chat template": _changed(
        _plain("Qwen2ForCausalLM", QWEN, _DECODER),
        _file("chat_template.jinja", _CHAT_TEMPLATE),
        refused="texts go through a chat template",
        says=("chat template",),
    ),
    "tokenizer: none": _bert(
        _without("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        refused="it has no tokenizer",
        says=("tokenizer",),
    ),
    "tokenizer: larger than the model": _bert(
        words=lambda: _enlarged(BERT()),
        config={"vocab_size": 905},
        refused="the tokenizer has more tokens than the model",
        says=("tokenizer",),
    ),
    "code: of the model": _plain_gte(refused="code in the folder is not run unasked", says=("--trust-remote-code",)),
    "code: of the model, trusted": _plain_gte(options={"trust_remote_code": True}),
    "code: for a known architecture": _bert(
        _file("modeling_new.py", _MODEL_CODE),
        _edit("config.json", auto_map=_AUTO_MAP),
        refused="code in the folder is not run unasked",
        says=("--trust-remote-code",),
    ),
    "code: of a module": _bert(
        _file("first_tokens.py", _POOLING_CODE),
        _without("1_Pooling/config.json"),
        _set_module(1, type="first_tokens.FirstTokens"),
        refused="code in the folder is not run unasked",
        says=("first_tokens.FirstTokens",),
    ),
    "code: of a module, trusted": _bert(
        _file("first_tokens.py", _POOLING_CODE),
        _without("1_Pooling/config.json"),
        _set_module(1, type="first_tokens.FirstTokens"),
        options={"trust_remote_code": True},
    ),
    "module: of an unknown package": _bert(
        _set_module(1, type="other_package.models.Pooling"),
        refused="a module is of another package",
        says=("other_package.models.Pooling",),
    ),
    "module: Router": Checkpoint(
        write=_write_router, refused="queries and documents take different modules", says=("Router",)
    ),
    "module: WordEmbeddings": Checkpoint(
        write=_write_word_embeddings, refused="its tokenizer is not one of the runtime's", says=("WordEmbeddings",)
    ),
    "folder of a cross encoder": _bert(
        _edit("config_sentence_transformers.json", model_type="CrossEncoder"),
        refused="it is no encoder of single texts",
        says=("CrossEncoder",),
    ),
    "folder of a sparse encoder": _bert(
        _edit("config_sentence_transformers.json", model_type="SparseEncoder"),
        refused="its vectors are sparse",
        says=("SparseEncoder",),
    ),
    "adapter of PEFT": Checkpoint(write=_write_adapter),
}
