"""CLIPs of sentence-transformers: its ``CLIPModel``, or a ``Transformer`` with features of texts and images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sentence_transformers import SentenceTransformer
from torch import Tensor

from exporters.catalogue.options import ExportOptions
from exporters.errors import WeightsError
from exporters.families.clip.text import TextModel
from exporters.families.clip.tower import build_towers
from exporters.families.clip.transformers_folder import FIXED_LENGTH, IGNORED, image_model, text_model
from exporters.families.family import FolderRequest
from exporters.families.sentence.chain import refuse_processing
from exporters.families.sentence.reader import read_default_prompt, read_model, read_prompts
from exporters.families.tower import ExportableTower
from exporters.families.vision.processor import read_processor
from exporters.families.vision.stated import choose_preprocessing
from exporters.families.vision.tower import ImageModel
from exporters.weights.parsing import parsing, read_json
from exporters.weights.remote_code import refuse_code
from runtime.artifact.similarity import SimilarityFunction
from runtime.errors import UsageError


def load_folder(request: FolderRequest) -> list[ExportableTower]:
    """Load a CLIP of sentence-transformers, and return its towers.

    Raises:
        WeightsError: sentence-transformers cannot load the folder, or it has other modules than CLIP and Normalize.
        UsageError: An option contradicts the modules.
    """
    folder, options, weights = request.path, request.options, request.weights
    if weights.seed is not None:
        raise UsageError("--weights random is not for folders of sentence-transformers; name the folder of its CLIP")
    refuse_code(folder)
    # Pillow resizes the images, as for the runtime and in training.
    sentences = read_model(request, ignored=IGNORED, backend="pil")
    inner = folder / _path(folder)
    normalized = _is_normalized(sentences, options)
    module: Any = sentences[0]
    architecture = str(module.model.config.model_type)
    refuse_processing(module, str(folder))
    prompts, prompt = read_prompts(sentences), read_default_prompt(sentences)

    def encode(item: Any) -> Tensor:
        vector: Tensor = sentences.encode([item], convert_to_tensor=True, show_progress_bar=False)[0]
        return vector

    def text() -> TextModel:
        if architecture in FIXED_LENGTH:
            raise WeightsError(
                f"sentence-transformers pads a text of {architecture} to the longest of its batch, which changes its "
                "vector; export the image tower alone by --tower image, or a model of open_clip"
            )
        half = text_model(module.model, module.tokenizer, encode)
        return replace(
            half,
            tokenize=lambda item: half.tokenize(prompt + item),
            preprocessing=replace(half.preprocessing, prompts=prompts, default_prompt=sentences.default_prompt_name),
            normalized=normalized,
            library="sentence-transformers",
        )

    def image() -> ImageModel:
        prepared = choose_preprocessing(options, lambda: read_processor(inner, options.arithmetic))
        return replace(
            image_model(module.model, *prepared),
            embed_image=None if options.stated_preprocessing else encode,
            normalized=normalized,
            library="sentence-transformers",
        )

    towers = build_towers(options, text=text, image=image, weights=lambda: weights, architecture=architecture)
    for tower in towers:
        tower.similarity_function = cast(SimilarityFunction, str(sentences.similarity_fn_name))
    return towers


def _path(folder: Path) -> str:
    with parsing(folder / "modules.json"):
        return str(read_json(folder / "modules.json")[0]["path"])


def _is_normalized(sentences: SentenceTransformer, options: ExportOptions) -> bool:
    """Tell whether the model ends with Normalize, and refuse everything else after its CLIP."""
    others = [type(module).__name__ for module in list(sentences)[1:]]
    if set(others) - {"Normalize"} or sentences.truncate_dim is not None:
        cut = f"truncate_dim {sentences.truncate_dim}"
        raise WeightsError(
            f"a CLIP of sentence-transformers with {', '.join(others) or cut} is not supported; export its CLIP folder "
            "without them"
        )
    if others and options.normalize is False:
        raise UsageError("--no-normalize contradicts the Normalize module of the model; leave it out")
    return bool(others)
