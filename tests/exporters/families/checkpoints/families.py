"""A tiny checkpoint of every family of text encoders."""

from __future__ import annotations

from typing import Any

from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
)
from torch import nn

from tests.exporters.families.checkpoints.build import (
    DIM,
    LIMIT,
    SIZES,
    TWO_LAYERS,
    Checkpoint,
    chain_checkpoint,
    make_words,
    plain_checkpoint,
    pool,
)
from tests.exporters.families.vocabularies import (
    NAMES,
    PIECES,
    byte_fallback,
    byte_level,
    fast_byte_level,
    unigram,
    word_piece,
)

ROBERTA_SIZES: dict[str, Any] = {
    "max_position_embeddings": LIMIT + 2,
    "type_vocab_size": 1,
}  # positions begin behind the padding index
_T5: dict[str, Any] = {"d_model": DIM, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48}
_GATED: dict[str, Any] = _T5 | {"feed_forward_proj": "gated-gelu"}
DECODER: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096}
_GEMMA: dict[str, Any] = DECODER | TWO_LAYERS | {"query_pre_attn_scalar": 8, "sliding_window": 16}
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


def _pad(token: str) -> dict[str, str]:
    return {"pad_token": token}


BERT = make_words(word_piece)
ROBERTA = make_words(byte_level)
XLM_ROBERTA = make_words(unigram)
EUROBERT = make_words(
    fast_byte_level,
    NAMES["eurobert"].values(),
    around="<|begin_of_text|> $A <|end_of_text|>",
    **NAMES["eurobert"],
)
T5 = make_words(unigram, "T5Tokenizer", ("<pad>", "</s>", "<unk>"), extra_ids=0)
GEMMA = make_words(
    byte_fallback, "GemmaTokenizer", ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), around="<bos> $A <eos>"
)
ALBERT = make_words(unigram, "AlbertTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))
QWEN = make_words(
    byte_level,
    "Qwen2Tokenizer",
    ("<|endoftext|>",),
    around="$A <|endoftext|>",
    padding_side="left",
    model_max_length=512,
)

FAMILIES: dict[str, Checkpoint] = {
    "bert": chain_checkpoint("BertModel", BERT, fast=True),
    "roberta": chain_checkpoint("RobertaModel", ROBERTA, ROBERTA_SIZES),
    "xlm-roberta": chain_checkpoint("XLMRobertaModel", XLM_ROBERTA, ROBERTA_SIZES, pool("cls", normalize=True)),
    "xlm-roberta-xl": chain_checkpoint("XLMRobertaXLModel", XLM_ROBERTA, ROBERTA_SIZES),
    "camembert": chain_checkpoint("CamembertModel", make_words(unigram, "CamembertTokenizer"), ROBERTA_SIZES),
    "data2vec-text": chain_checkpoint("Data2VecTextModel", ROBERTA, ROBERTA_SIZES),
    "distilbert": chain_checkpoint(
        "DistilBertModel",
        make_words(word_piece, "DistilBertTokenizer"),
        {"dim": DIM, "n_layers": 1, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": LIMIT},
    ),
    "mpnet": chain_checkpoint(
        "MPNetModel",
        make_words(word_piece, "MPNetTokenizer", ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")),
        ROBERTA_SIZES,
    ),
    "albert": chain_checkpoint("AlbertModel", ALBERT, TWO_LAYERS | {"embedding_size": 16}),
    "electra": chain_checkpoint(
        "ElectraModel", make_words(word_piece, "ElectraTokenizer"), {"embedding_size": 16}, pool("cls")
    ),
    "deberta": chain_checkpoint(
        "DebertaModel",
        make_words(byte_level, "DebertaTokenizer", ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")),
        _DISENTANGLED,
    ),
    "deberta-v2": chain_checkpoint(
        "DebertaV2Model",
        make_words(unigram, "DebertaV2Tokenizer", ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), unk_id=3),
        _DEBERTA_V2 | {"conv_kernel_size": 3, "conv_act": "gelu"},
    ),
    "deberta-v3": chain_checkpoint(
        "DebertaV2Model",
        make_words(unigram, "DebertaV2Tokenizer", ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), unk_id=3),
        _DEBERTA_V2,
    ),
    "modernbert": chain_checkpoint(
        "ModernBertModel",
        make_words(fast_byte_level, PIECES["bert"], around="[CLS] $A [SEP]", model_max_length=8192, **NAMES["bert"]),
        TWO_LAYERS
        | {
            "local_attention": 16,
            "global_attn_every_n_layers": 2,
            "max_position_embeddings": 8192,
            **{f"{kind}_token_id": index for kind, index in (("cls", 2), ("bos", 2), ("sep", 3), ("eos", 3))},
        },
        pool("cls"),
    ),
    "nomic-bert": chain_checkpoint("NomicBertModel", BERT, {"max_position_embeddings": 2048}),
    "eurobert": chain_checkpoint("EuroBertModel", EUROBERT, DECODER | {"mask_token_id": 2}),
    "jina-embeddings-v3": chain_checkpoint("JinaEmbeddingsV3Model", XLM_ROBERTA, ROBERTA_SIZES),
    "mobilebert": chain_checkpoint("MobileBertModel", make_words(word_piece, "MobileBertTokenizer"), _MOBILE, **_BATCH),
    "convbert": chain_checkpoint(
        "ConvBertModel", make_words(word_piece, "ConvBertTokenizer"), {"embedding_size": DIM}, **_BATCH
    ),
    "nystromformer": chain_checkpoint(
        "NystromformerModel", ALBERT, {"num_landmarks": 8, "segment_means_seq_len": 8}, **_BATCH
    ),
    "fnet": chain_checkpoint(
        "FNetModel",
        make_words(unigram, "FNetTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
        {"type_vocab_size": 4},
        **_BATCH,
    ),
    "funnel": chain_checkpoint(
        "FunnelModel",
        make_words(word_piece, "FunnelTokenizer", ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>")),
        {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": DIM, "n_head": 4, "d_head": 8, "d_inner": 48},
        refused="torch can trace it for one length of texts only",
        says=("'sequence'",),
        traced=True,
    ),
    "longformer": chain_checkpoint(
        "LongformerModel",
        make_words(byte_level, "LongformerTokenizer"),
        ROBERTA_SIZES | {"attention_window": 16},
        refused="torch cannot trace its windows of attention",
        says=("torch cannot export",),
        traced=True,
    ),
    "big-bird": chain_checkpoint(
        "BigBirdModel",
        make_words(unigram, "BigBirdTokenizer", ("<pad>", "</s>", "<s>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
        {"attention_type": "original_full"},
    ),
    "t5": chain_checkpoint(
        "T5EncoderModel",
        T5,
        _T5,
        lambda: (Pooling(DIM, "mean"), Dense(DIM, 24, bias=False, activation_function=nn.Identity()), Normalize()),
        fast=True,
    ),
    "mt5": plain_checkpoint("MT5Model", T5, _GATED),
    "umt5": plain_checkpoint("UMT5Model", T5, _GATED),
    "qwen2": chain_checkpoint("Qwen2Model", QWEN, DECODER, pool("lasttoken", normalize=True)),
    "qwen3": chain_checkpoint(
        "Qwen3Model", QWEN, DECODER | TWO_LAYERS, pool("lasttoken", normalize=True), prompts=_QWEN_PROMPTS, fast=True
    ),
    "gemma2": chain_checkpoint(
        "Gemma2Model",
        make_words(
            byte_fallback, "GemmaTokenizer", ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), around="<bos> $A <eos>"
        ),
        _GEMMA,
        pool("lasttoken", normalize=True),
    ),
    "gemma3": chain_checkpoint(
        "Gemma3TextModel",
        make_words(
            byte_fallback, "GemmaTokenizer", ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), around="<bos> $A <eos>"
        ),
        _GEMMA,
        pool("lasttoken", normalize=True),
    ),
    "embedding-gemma": chain_checkpoint(
        "Gemma3TextModel",
        make_words(
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
    "llama": chain_checkpoint(
        "LlamaModel",
        make_words(byte_fallback, "LlamaTokenizer", ("<unk>", "<s>", "</s>"), around="<s> $A </s>", **_pad("</s>")),
        DECODER,
        pool("lasttoken"),
    ),
    "mistral": chain_checkpoint(
        "MistralModel",
        make_words(byte_fallback, "LlamaTokenizer", ("<unk>", "<s>", "</s>"), around="<s> $A </s>", **_pad("<unk>")),
        DECODER | {"sliding_window": 16},
        pool("lasttoken", normalize=True),
    ),
    "qwen3-moe": chain_checkpoint(
        "Qwen3MoeModel",
        QWEN,
        DECODER | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        refused="torch cannot export a mixture of experts",
        says=("is a mixture of experts",),
    ),
    "gpt2": chain_checkpoint(
        "GPT2Model",
        make_words(byte_level, "GPT2Tokenizer", ("<|endoftext|>",), **_pad("<|endoftext|>")),
        {"n_embd": DIM, "n_layer": 1, "n_head": 4, "n_positions": LIMIT},
        pool("weightedmean"),
        empty=False,
    ),
}
