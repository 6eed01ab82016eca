"""Read a model folder through sentence-transformers, which decides what every setting in it means.

Code in the folder runs only if the user trusts it. A setting or weight that the library would pass over with a warning
is an error here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Transformer
from transformers import PreTrainedModel

from exporters.catalogue.weights_ref import RandomInit
from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.families.family import FolderRequest
from exporters.families.sentence.adapter import is_adapter
from exporters.families.sentence.chain import GeMPooling
from exporters.weights.load_watch import replaced_method, watch_loading
from exporters.weights.model_folder import SAVE_TOKENIZER, has_vocabulary, load_tokenizer
from exporters.weights.parsing import parsing, read_json, summarize_error
from exporters.weights.remote_code import refuse_code
from exporters.weights.state_dict import seeded
from runtime.errors import MissingDependencyError

# Models whose prompts are not pooled; the library knows them by their name on the hub, not by a setting.
_INSTRUCTORS = tuple(f"hkunlp/instructor-{size}" for size in ("base", "large", "xl"))
# Parts that no chain of modules uses, and counters that older versions saved.
_UNUSED = ("pooler", "embeddings.position_ids")


def read_model(
    request: FolderRequest, *, ignored: tuple[str, ...] | None = None, **processor: str
) -> SentenceTransformer:
    """Load a folder in float32 on the CPU, with all of its settings.

    Args:
        request: The folder.
        ignored: Parts that may be missing; ``None`` for those that no chain of modules uses.
        processor: Further arguments of the processor.

    Raises:
        WeightsError: The library cannot load it, ignores one of its settings, or would run code that is not trusted.
        WeightsMismatchError: Weights are missing, or have no place.
        MissingDependencyError: The folder is an adapter, and peft is not installed; or its tokenizer is a model of
            SentencePiece, and sentencepiece is not installed.
    """
    folder, options = request.path, request.options
    adapter = is_adapter(folder)
    check_kind(folder)
    if not options.trust_remote_code:
        refuse_code(folder, "read it, and allow it by --trust-remote-code")
    if not options.trust_remote_code and not has_vocabulary(folder, *folder.iterdir()):
        merge = ", or merge an adapter of a model of images with merge_and_unload" * adapter
        raise WeightsError(  # transformers would make an empty one
            f"{folder} holds no tokenizer; {SAVE_TOKENIZER}{merge}"
        )
    seed = options.weights_ref.seed if isinstance(options.weights_ref, RandomInit) else None
    try:
        with random_weights(seed), watch_loading() as watch:
            # the library has no public way to load a class of ours without trusting code in the folder
            model = SentenceTransformer._load_with_module_classes(  # noqa: SLF001
                str(folder),
                {f"{GeMPooling.__module__}.{GeMPooling.__name__}": GeMPooling},
                device="cpu",
                # the base of an adapter, or code in another repository, may have to be downloaded
                local_files_only=not (adapter or options.trust_remote_code),
                trust_remote_code=options.trust_remote_code,
                model_kwargs={"dtype": "float32"},
                processor_kwargs=dict(processor),
            )
    except Exception as exc:  # the libraries raise many types for a damaged or unknown folder
        raise _describe_failure(exc, folder, trusted=options.trust_remote_code) from exc
    watch.check(str(folder), unused_parts(model) if ignored is None else ignored)
    _check_prompts(model, folder)
    if request.model_id in _INSTRUCTORS:
        model.set_pooling_include_prompt(False)
    return model.float().eval()


def _describe_failure(exc: Exception, folder: Path, *, trusted: bool) -> Exception:
    """Return the error for a folder that the library cannot load because of ``exc``."""
    adapter = is_adapter(folder)
    if adapter and isinstance(exc, ImportError) and "peft" in str(exc):
        return MissingDependencyError(
            f"{folder} is an adapter, and peft is not installed; install it with "
            "`pip install 'embedding-backbones[lora]'`, or merge the adapter with merge_and_unload"
        )
    if adapter and isinstance(exc, OSError):
        return WeightsUnavailableError(
            f"the model that {folder} adapts cannot be loaded ({summarize_error(exc)}); correct "
            "base_model_name_or_path in its adapter_config.json"
        )
    if "can require gradients" in str(exc):  # StaticEmbedding reads the table as model2vec saved it
        return WeightsError(
            f"{folder} holds weights in whole numbers, which sentence-transformers cannot load; save a folder of "
            "model2vec again from StaticModel.from_pretrained(FOLDER, quantize_to='float32')"
        )
    if "processing class" in str(exc):  # transformers hides why it cannot load the tokenizer
        for place in filter(has_vocabulary, (folder, *folder.iterdir())):
            load_tokenizer(place, trusted=trusted)
    return WeightsError(f"{folder} cannot be loaded by sentence-transformers ({summarize_error(exc)})")


def _check_prompts(model: SentenceTransformer, folder: Path) -> None:
    for name, prompt in model.prompts.items():
        if not isinstance(prompt, str | None):
            raise WeightsError(
                f"the prompt {name!r} of {folder} is {prompt!r:.80}, it must be a text; correct it in "
                "config_sentence_transformers.json"
            )


def read_prompts(model: SentenceTransformer) -> dict[str, str]:
    """Return the prompts of a model by name. An empty one stands for a default prompt that is not to be used."""
    return {name: prompt or "" for name, prompt in model.prompts.items()}


def read_default_prompt(model: SentenceTransformer) -> str:
    """Return the prompt that the library puts before a text by default; empty if there is none."""
    name = model.default_prompt_name
    return "" if name is None else read_prompts(model)[name]


def check_kind(folder: Path) -> None:
    """Check that a folder of sentence-transformers holds an encoder of dense vectors.

    Raises:
        WeightsError: It holds a reranker, a sparse encoder or another kind of model.
    """
    path = folder / "config_sentence_transformers.json"
    if path.is_file():
        with parsing(path):
            kind = read_json(path).get("model_type", "SentenceTransformer")
        if kind != "SentenceTransformer":
            raise WeightsError(f"{folder} is a {kind} of sentence-transformers, expected a SentenceTransformer")


@contextmanager
def random_weights(seed: int | None) -> Iterator[None]:
    """Let the libraries build models with random weights from ``seed`` in the block, instead of reading files."""
    if seed is None:
        yield
        return

    def from_pretrained(cls: Any, /, *_: Any, config: Any, output_loading_info: bool = False, **__: Any) -> Any:
        model = cls(config).float().eval()
        report: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": []}
        return (model, report) if output_loading_info else model

    def load_torch_weights(cls: Any, /, *_: Any, model: Any = None, **__: Any) -> Any:
        if model is None:
            raise WeightsError(f"{cls.__name__} has no random weights: its files decide its size")
        return model

    with (
        replaced_method(PreTrainedModel, "from_pretrained", from_pretrained),
        replaced_method(Module, "load_torch_weights", load_torch_weights),
        seeded(seed),
    ):
        yield


def unused_parts(model: SentenceTransformer) -> tuple[str, ...]:
    """Return the names of the parts of an encoder that a checkpoint may lack, because no vector depends on them."""
    first = model[0]
    outputs = first.modality_config.get("text", {}).values() if isinstance(first, Transformer) else ()
    pooled = any("pooler_output" in (output if isinstance(output, list | tuple) else [output]) for output in outputs)
    return () if pooled else _UNUSED
