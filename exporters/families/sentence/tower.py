"""The text tower of a SentenceTransformer: its own modules are traced, and its own ``encode`` is the reference."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from exporters.catalogue.options import ExportOptions
from exporters.errors import WeightsError, WeightsMismatchError
from exporters.families.sentence.adapter import merge_adapters
from exporters.families.sentence.chain import (
    Chain,
    GeMPooling,
    check_modules,
    describe_modules,
    read_pooling,
    refuse_processing,
    skips_prompt,
)
from exporters.families.sentence.reader import read_prompts
from exporters.families.text_tower import TextTower, count_positions, find_limit
from exporters.samples.texts import TEXTS
from exporters.weights.parsing import summarize_error
from runtime.artifact.manifest import (
    MAX_TEXT_LENGTH,
    Pooling,
    TextInput,
    TextPreprocessing,
    Weights,
)
from runtime.artifact.similarity import SimilarityFunction
from runtime.errors import UsageError

_LOG = logging.getLogger("exporters")
# Architectures whose fused attention torch cannot trace: it ends in a strided view with symbolic sizes.
_EAGER = ("t5", "mt5", "umt5")
_VECTOR = "sentence_embedding"
_SAMPLE = "The quick brown fox."


class SentenceTower(TextTower):
    """The text tower of a SentenceTransformer."""

    def __init__(
        self,
        model: SentenceTransformer,
        weights: Weights,
        options: ExportOptions,
        *,
        source: str,
        stated: bool,
        adapter: bool = False,
    ) -> None:
        """Apply the user's options to the model, and build the tower's record from the model.

        Args:
            model: The model as its library loaded it, in float32.
            weights: Origin of the weights.
            options: Options of the export.
            source: Name of the model's settings in error messages.
            stated: Whether the checkpoint states its pooling.
            adapter: Whether the weights are an adapter and the model that it adapts.

        Raises:
            WeightsError: A graph or the runtime cannot do the same as the library.
            UsageError: An option does not fit the model.
        """
        check_modules(model, source, trusted=options.trust_remote_code)
        _warn_of_others(model, source)
        self._model, self._source = apply_options(model, options), source
        modules = list(self._model)
        self._first: Any = modules[0]
        # the wrapper of all towers scales to unit length, unless fewer dimensions are kept after it
        unit_length = _scales_vector(modules[-1]) and self._model.truncate_dim is None
        self._modules = modules[:-1] if unit_length else modules
        self.similarity_function = cast(SimilarityFunction, str(model.similarity_fn_name))
        self.architecture, self.merged = _architecture(modules[0]), adapter
        self._features = self._preprocess([_SAMPLE])
        output_dim = len(self._encode(_SAMPLE))
        super().__init__(
            self._read_preprocessing(options),
            output_dim,
            weights,
            options,
            pooling=read_pooling(modules),
            projections=(),
            normalized=unit_length,
            stated=stated,
            layers=describe_modules(modules[1:]),
            library="sentence-transformers",
        )
        self._check_vocabulary()
        self._check_tokens()

    @property
    def sentences(self) -> SentenceTransformer:
        """The library's model, with the user's options."""
        return self._model

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer of the ``tokenizers`` library that the model has."""
        tokenizer: Any = self._first.tokenizer
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            tokenizer = tokenizer.backend_tokenizer
        if not isinstance(tokenizer, Tokenizer):
            raise WeightsError(
                f"the {type(tokenizer).__name__} of {self._source} is written in Python, and the runtime needs a "
                "tokenizer.json of the `tokenizers` library; such a model cannot be exported"
            )
        return tokenizer

    def tokenizer_json(self) -> str:
        """Return the tokenizer for the artifact.

        It lacks special tokens without an embedding, such as Gemma's for images: the library fails on a text that has
        one, and the runtime reads it as plain text. Where the pooling leaves out the prompt, the special tokens are
        those of the library. It does not count one at the end of the prompt.
        """
        document, size = json.loads(super().tokenizer_json()), self._table_size()
        document["added_tokens"] = [token for token in document["added_tokens"] if token["id"] < size]
        words = document["model"]["vocab"]
        listed = isinstance(words, list)  # of Unigram, in the order of the ids
        document["model"]["vocab"] = words[:size] if listed else {word: at for word, at in words.items() if at < size}
        if skips_prompt(self._modules):
            special = {*self._first.tokenizer.all_special_ids}
            for token in document["added_tokens"]:
                token["special"] = token["id"] in special
        return json.dumps(document)

    def encoder(self) -> nn.Module:
        """Return the chain of the model's modules."""
        return self._chain("eager" if self.architecture in _EAGER else None)

    def eager_module(self) -> nn.Module | None:
        """Return the module with plain attention."""
        if not isinstance(self._first, Transformer) or self.architecture in _EAGER:
            return None
        self._chain("eager")
        return self.module()

    def items(self) -> Sequence[str]:
        """Return the texts that ship with the exporters, without those that the model has no token for.

        StaticEmbedding embeds them as zeros, and the cosine similarity of zeros is undefined.
        """
        refused = self.preprocessing.empty_text == "refuse"
        return [text for text in TEXTS if self._library_ids(text) and (text or not refused)]

    def embed(self, item: str) -> Tensor:
        """Return the library's vector of one text."""
        return self._encode(item)

    def _chain(self, attention: str | None) -> Chain:
        if isinstance(self._first, Transformer):
            if attention is not None:
                self._first.model.set_attn_implementation(attention)
            if self.merged:
                merge_adapters(self._first.model)
        names = [spec.name for spec in self.record.inputs]
        return Chain(self._modules, names, self.output_dim, zero_types=self._needs_zero_types())

    def _encode(self, text: str) -> Tensor:
        try:
            vector = torch.from_numpy(self._model.encode([text], show_progress_bar=False)[0])
        except Exception as exc:
            raise WeightsError(
                f"sentence-transformers itself cannot embed a text with {self._source} ({summarize_error(exc)})"
            ) from exc
        if vector.dim() != 1 or not len(vector):
            raise WeightsError(
                f"{self._source} gives a text an array of shape {[*vector.shape]}, expected one vector; correct its "
                "modules.json, or the truncate_dim in its config_sentence_transformers.json"
            )
        return vector

    def _preprocess(self, texts: list[str], prompt: str | None = None) -> dict[str, Any]:
        try:
            features: dict[str, Any] = self._model.preprocess(texts, prompt)
        except Exception as exc:
            raise WeightsError(
                f"sentence-transformers itself cannot tokenize a text with {self._source} ({summarize_error(exc)})"
            ) from exc
        return features

    def _read_preprocessing(self, options: ExportOptions) -> TextPreprocessing:
        first = self._first
        if isinstance(first, StaticEmbedding):
            cut = self.backend.truncation or {}  # of the tokenizer.json, or the user's
            return self._with_prompts(
                TextPreprocessing(
                    add_special_tokens=False,
                    max_length=cut.get("max_length", MAX_TEXT_LENGTH),
                    truncation_side="left" if cut.get("direction") == "left" else "right",
                    pad_token_id=0,
                )
            )
        self._check_processing(first)
        if "attention_mask" not in self._features:
            raise WeightsError(
                f"the tokenizer of {self._source} gives no attention mask, so a vector would depend on the padding of "
                "its batch; such a model cannot be exported"
            )
        tokenizer = first.tokenizer
        inputs: tuple[TextInput, ...] = ("input_ids", "attention_mask")
        types = self._features.get("token_type_ids")
        if types is not None and (types * self._features["attention_mask"]).any():
            inputs += ("token_type_ids",)
        if skips_prompt(self._modules):
            inputs += ("pooling_mask",)
        limit = self._max_length(first, options)
        self._settle_rope(first.model, limit)
        pad = tokenizer.pad_token_id or 0
        return self._with_prompts(
            TextPreprocessing(
                max_length=limit,
                truncation_side=tokenizer.truncation_side,
                pad_token_id=pad if pad < self._table_size() else 0,  # the mask hides it, but it needs an embedding
                inputs=inputs,
                empty_text="embed" if self._embeds_empty_text() else "refuse",
            )
        )

    def _embeds_empty_text(self) -> bool:
        """Tell whether an empty text has a token, and whether the library can embed it. Funnel's cannot."""
        if not self._preprocess([""])["input_ids"].numel():
            return False
        try:
            self._encode("")
        except WeightsError:
            return False
        return True

    def _with_prompts(self, preprocessing: TextPreprocessing) -> TextPreprocessing:
        prompts, default = read_prompts(self._model), self._model.default_prompt_name
        if not any(prompts.values()):
            return preprocessing
        return replace(preprocessing, prompts=prompts, default_prompt=default)

    def _max_length(self, first: Transformer, options: ExportOptions) -> int:
        stated, positions = first.max_seq_length, count_positions(first.model)
        if options.max_length is not None and positions is not None and options.max_length > positions:
            raise UsageError(f"--max-length {options.max_length} is more than the {positions} positions of the model")
        limit = find_limit(stated, positions)
        if positions == limit:  # the library would cut at its own limit, and then fail for lack of positions
            first.max_seq_length = limit
        return limit

    def _settle_rope(self, encoder: nn.Module, limit: int) -> None:
        """Give rotary positions of a batch of any length up to ``limit`` the frequencies of a short one.

        transformers chooses the frequencies of dynamic NTK and LongRoPE by the length of the padded batch.

        Raises:
            WeightsError: The frequencies differ within the limit, so a vector would depend on its batch.
        """
        rotary: list[Any] = [module for module in encoder.modules() if hasattr(module, "rope_type")]
        for module in rotary:
            kinds = module.rope_type
            layers: dict[str | None, str] = kinds if isinstance(kinds, dict) else {None: kinds}
            for layer, kind in layers.items():
                if kind == "longrope":
                    rope = module.config.rope_parameters
                    unscaled = (rope if layer is None else rope[layer])["original_max_position_embeddings"]
                elif "dynamic" in kind:
                    unscaled = module.original_max_seq_len
                else:
                    continue
                if limit > unscaled:
                    raise WeightsError(
                        f"{self._source} changes its rotary positions in a batch of more than {unscaled} tokens (rope "
                        f"type {kind}), so a vector would depend on its batch; use --max-length {unscaled}"
                    )
                module.rope_type = "default" if layer is None else {**module.rope_type, layer: "default"}

    def _check_processing(self, first: Transformer) -> None:
        """Check that texts are tokenized in the one way that the runtime has.

        Raises:
            WeightsError: Texts go through a chat template, or queries and documents are tokenized differently.
        """
        if "text" not in first.modality_config or "message" in first.modality_config:
            raise WeightsError(
                f"{self._source} takes {', '.join(map(str, first.modality_config))}: texts go through a chat template, "
                "which the runtime has not; save the model with sentence-transformers as a model of plain texts"
            )
        refuse_processing(first, self._source)

    def _needs_zero_types(self) -> bool:
        """Tell whether the encoder computes something else without token type ids than with zeros."""
        types = self._features.get("token_type_ids")
        if types is None or "token_type_ids" in self.preprocessing.inputs:
            return False
        without = {name: value for name, value in self._features.items() if name != "token_type_ids"}
        with torch.inference_mode():
            vectors = [self._model(dict(features))["sentence_embedding"] for features in (self._features, without)]
        return not torch.equal(*vectors)

    def _library_ids(self, text: str) -> list[int]:
        default = self._model.default_prompt_name
        features = self._preprocess([text], None if default is None else self._model.prompts[default])
        ids: list[int] = features["input_ids"].flatten().long().tolist()
        return ids

    def _check_tokens(self) -> None:
        """Check that the runtime gives the tokens of the library.

        Raises:
            WeightsError: It gives others.
        """
        for text in self.items():
            expected, found = self._library_ids(text), self.preprocessor.prepare(text).ids
            if expected != found:
                raise WeightsError(
                    f"{self._source}: its tokenizer does more than its tokenizer.json says ({len(expected)} tokens by "
                    f"the library, {len(found)} by the runtime, for {text[:30]!r}); save the tokenizer again"
                )

    def _check_vocabulary(self) -> None:
        """Check that every ordinary token has an embedding. Special ones may lack it: Gemma has one for images.

        Raises:
            WeightsMismatchError: Some have none.
        """
        size, vocabulary = self._table_size(), self.backend.get_vocab(with_added_tokens=True)
        special = {index for index, token in self.backend.get_added_tokens_decoder().items() if token.special}
        largest = max((index for index in vocabulary.values() if index not in special), default=0)
        if largest >= size:
            raise WeightsMismatchError(
                f"the tokenizer in {self._source} has {largest + 1} tokens, and the model has embeddings for {size}; "
                "use the tokenizer of that model"
            )

    def _table_size(self) -> int:
        first = self._first
        try:
            table = first.embedding if isinstance(first, StaticEmbedding) else first.model.get_input_embeddings()
        except NotImplementedError as exc:
            raise WeightsError(
                f"{self._source} holds a {type(first.model).__name__}, which has no table of token embeddings that "
                "transformers names, so it cannot be exported; of a model of texts and images, export the folder that "
                "its own library saves"
            ) from exc
        return int(getattr(table, "num_embeddings", MAX_TEXT_LENGTH))


def _warn_of_others(model: SentenceTransformer, source: str) -> None:
    others = [kind for kind in getattr(model, "modalities", ()) if kind in ("image", "audio", "video")]
    if others:
        _LOG.warning("%s also embeds %s; only its texts are exported", source, " and ".join(others))


def _scales_vector(module: nn.Module) -> bool:
    """Return whether a module scales the vector of a text to unit length. A Normalize may scale something else."""
    names = {getattr(module, name, _VECTOR) for name in ("module_input_name", "module_output_name")}
    return isinstance(module, Normalize) and names == {_VECTOR}


def apply_options(model: SentenceTransformer, options: ExportOptions) -> SentenceTransformer:
    """Change pooling, normalisation and limit of a model as the user asks, for the graph and the reference alike.

    Raises:
        UsageError: The model has no pooling to replace, or scales its vectors before its last layer.
    """
    modules = list(model)
    if options.max_length is not None:
        _limit_length(modules[0], options.max_length)
    if options.pooling is not None:
        modules = [replace_pooling(module, options.pooling) for module in modules]
        if not any(isinstance(module, PoolingModule | GeMPooling) for module in modules):
            raise UsageError(f"--pooling {options.pooling.method}: the model has no pooling of tokens; leave it out")
    if options.normalize is False:
        modules = _without_last_normalize(modules)
    changed = SentenceTransformer(
        modules=modules,
        device="cpu",
        prompts=read_prompts(model),
        default_prompt_name=model.default_prompt_name,
        truncate_dim=model.truncate_dim,
        similarity_fn_name=model.similarity_fn_name,
    )
    changed.eval()
    return changed


def _limit_length(first: Any, max_length: int) -> None:
    if isinstance(first, StaticEmbedding):
        side = (first.tokenizer.truncation or {}).get("direction", "right")
        first.tokenizer.enable_truncation(max_length, direction=side)
    else:
        first.max_seq_length = max_length


def _without_last_normalize(modules: list[nn.Module]) -> list[nn.Module]:
    if _scales_vector(modules[-1]):
        return modules[:-1]
    if any(map(_scales_vector, modules)):
        raise UsageError(
            "--no-normalize: the model scales its vectors to unit length before its last layer, a "
            f"{type(modules[-1]).__name__}; leave the option out, or take the Normalize out of its modules.json"
        )
    return modules


def replace_pooling(module: nn.Module, pooling: Pooling) -> nn.Module:
    """Return the pooling that takes the place of a module. A module that does not pool tokens is returned as it is.

    Raises:
        UsageError: The pooling is not one for texts.
    """
    if not isinstance(module, PoolingModule | GeMPooling):
        return module
    width, include_prompt = module.embedding_dimension, module.include_prompt
    if pooling.p is not None and pooling.eps is not None:  # Pooling requires both for gem, and allows none for others
        return GeMPooling(width, pooling.p, pooling.eps, include_prompt=include_prompt)
    if pooling.method not in PoolingModule.POOLING_MODES:
        raise UsageError(
            f"pooling {pooling.method} is not for texts, expected gem, {', '.join(PoolingModule.POOLING_MODES)}"
        )
    pooled: nn.Module = PoolingModule(width, (pooling.method, *pooling.others), include_prompt=include_prompt)
    return pooled


def _architecture(first: nn.Module) -> str:
    return str(first.config.model_type) if isinstance(first, Transformer) else "static-embedding"
