"""Embed items with a loaded artifact, in the order of the items."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from operator import length_hint
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, TypedDict, Unpack, overload

import numpy as np

from runtime.array_types import Array
from runtime.artifact.manifest import Manifest, TextPreprocessing, Tower, TowerName, check_tower
from runtime.artifact.similarity import similarities
from runtime.artifact.space import space_of
from runtime.console import progress_bar
from runtime.errors import ItemError, SpaceError, UsageError
from runtime.inference.item_sequence import check_items
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import BackendInfo, OnProgress, PartialEmbeddings, Pipeline, concatenate
from runtime.inference.prompts import Role, resolve_prompt
from runtime.inference.truncation import warn_of_truncation
from runtime.postprocess import Dtype, check_dtype, quantize
from runtime.preprocess.item import UnusableItemError
from runtime.session.provider_options import device_of
from runtime.session.providers import PROVIDERS

if TYPE_CHECKING:
    from runtime.preprocess.image import ImageItem
    from runtime.preprocess.point_cloud import PointCloudItem

Item: TypeAlias = "ImageItem | PointCloudItem"  # a string is a text to a text tower and a path to the others


class _ImageKeywords(TypedDict, total=False):
    """The keywords of :meth:`Embedder.embed` for any item that do not change the type of its result."""

    batch_size: int | None
    progress: bool
    normalize: bool
    truncate_dim: int | None
    dtype: Dtype
    ranges: Array | None


class _TextKeywords(_ImageKeywords, total=False):
    """The same for texts."""

    truncate: Literal["count", "error"]
    prompt_name: str | None
    prompt: str | None


class _EmbedKeywords(_TextKeywords, total=False):
    """The keywords of :meth:`Embedder.embed` that do not change the type of its result."""

    tower: TowerName | None


class Backend(Protocol):
    """The engine of an :class:`Embedder`: a pipeline in this process, or worker processes."""

    @property
    def info(self) -> BackendInfo:
        """The active provider, threads and graphs."""

    def stream(
        self, items: Iterable[Any], options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Iterator[PartialEmbeddings]:
        """Yield the vectors and errors of ``items``; see :meth:`runtime.inference.pipeline.Pipeline.stream`."""

    def close(self) -> None:
        """End all processes of the backend."""


class Embedder:
    """A loaded artifact. Several threads may use it at once.

    Attributes:
        manifest: Manifest of the artifact.
        backend: The pipeline or the worker processes.
        output_dim: Length of a vector.
        provider: Active execution provider, with its ``provider_options`` and the ``provider_reason`` of the choice.
        variants: Name of the graph that runs, for each tower.
        variant: The same as one string, with one name if all towers share it, and the ``variant_reason`` of the choice.
        threads: Threads of a batch that runs alone.
        concurrent_batches: Number of batches that run side by side, if a call has that many.
        towers: Kinds of item that can be embedded: ``text``, ``image`` or ``mesh``.
    """

    def __init__(self, manifest: Manifest, backend: Backend, load_again: Callable[[], Embedder] | None = None) -> None:
        """Make an embedder for the artifact of ``manifest``; :func:`runtime.load` is the usual way.

        A pickle of the embedder holds only its space and ``load_again``, which loads the same artifact with the same
        options.
        """
        info = backend.info
        self._load_again, self._closed = load_again, False
        self.manifest, self.backend, self.output_dim = manifest, backend, manifest.output_dim
        self.provider = info.provider
        self.provider_options = info.provider_options
        self.provider_reason = info.provider_reason
        self.variants = {name: choice.name for name, choice in info.choices.items()}
        self.variant = _join_towers(self.variants)
        self.variant_reason = _join_towers({name: choice.reason for name, choice in info.choices.items()})
        self.threads, self.concurrent_batches, self.towers = info.threads, info.concurrent_batches, info.towers

    def __repr__(self) -> str:
        kinds = " and ".join(self.towers)
        return f"<Embedder {self.manifest.name}: {kinds} to {self.output_dim} dimensions by {self.provider}>"

    def __reduce__(self) -> tuple[Callable[..., Embedder], tuple[Any, ...]]:
        if self._load_again is None:
            raise UsageError("only a model of runtime.load can be pickled or copied; load it where it is needed")
        # Hugging Face's datasets hash the pickle, to know whether a column was already embedded by this model.
        return _load_same, (self._load_again, self.space)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def space(self) -> str:
        """Name of the vector space."""
        return space_of(self.manifest, self.variants)

    def loaded_towers(self) -> dict[TowerName, Tower]:
        """Return the manifest's records of the towers that are loaded."""
        return {name: self.manifest.towers[name] for name in self.towers}

    def close(self) -> None:
        """End the worker processes, if there are any. A closed model embeds no more."""
        self._closed = True
        self.backend.close()

    def embed_text(self, texts: Iterable[str], **options: Unpack[_TextKeywords]) -> Array:
        """Embed strings with the text tower: :meth:`embed` with ``tower="text"``, whose ``options`` they are."""
        return self.embed(texts, tower="text", **options)

    def embed_query(self, texts: Iterable[str], **options: Unpack[_TextKeywords]) -> Array:
        """Embed the queries of a search, as ``encode_query`` of sentence-transformers does.

        This is :meth:`embed` with the prompt ``query``. If the artifact has no such prompt, no prompt applies, not even
        the default one. A ``prompt_name`` or ``prompt`` replaces it; ``options`` are those of :meth:`embed`.
        """
        return self._embed_as("query", texts, options)

    def embed_document(self, texts: Iterable[str], **options: Unpack[_TextKeywords]) -> Array:
        """Embed the documents of a search, as ``encode_document`` of sentence-transformers does.

        This is :meth:`embed` with the first prompt that the artifact has of ``document``, ``passage`` and ``corpus``.
        Without one, no prompt applies, not even the default one. A ``prompt_name`` or ``prompt`` replaces it;
        ``options`` are those of :meth:`embed`.
        """
        return self._embed_as("document", texts, options)

    def _embed_as(self, role: Role, texts: Iterable[str], options: _TextKeywords) -> Array:
        if options.get("prompt_name") is None and options.get("prompt") is None:
            options = {**options, "prompt_name": role, "prompt": None}
        return self.embed(texts, tower="text", **options)

    def embed_image(self, images: Iterable[ImageItem], **options: Unpack[_ImageKeywords]) -> Array:
        """Embed images with the image tower, where a string is a path: :meth:`embed` with ``tower="image"``.

        ``options`` are those of :meth:`embed` that are not for texts.
        """
        return self.embed(images, tower="image", **options)

    @property
    def max_seq_length(self) -> int:
        """The number of tokens to which texts are cut, special ones included, as in sentence-transformers.

        Raises:
            UsageError: There is no text tower.
        """
        check_tower("text", self.towers)
        recipe = self.manifest.towers["text"].preprocessing
        return recipe.max_length if isinstance(recipe, TextPreprocessing) else 0

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
        *,
        output_value: Literal["sentence_embedding"] = "sentence_embedding",
        precision: Dtype = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Array:
        """Embed texts: :meth:`embed` with the names of sentence-transformers, and its order of positional arguments.

        A single string gives ``[output_dim]``. Other libraries pass ``convert_to_numpy=True`` and the ``device`` of a
        model. These change nothing here.

        Raises:
            UsageError: The call asks for tensors, for another ``output_value`` or for another ``device``. This package
                has no torch; use ``torch.from_numpy``.
            EmbeddingBackbonesError: As for :meth:`embed`.
        """
        if convert_to_tensor or not convert_to_numpy:
            raise UsageError(
                "encode gives numpy arrays; leave out convert_to_tensor and convert_to_numpy, and use "
                "torch.from_numpy(vectors)"
            )
        if output_value != "sentence_embedding":
            raise UsageError(f"output_value is {output_value!r}, and encode gives a vector of each text; leave it out")
        own = PROVIDERS[self.provider].device
        if device is not None and str(device) not in (own, f"{own}:{device_of(self.provider_options)}"):
            raise UsageError(f"the model runs with {self.provider}, not on {device!r}; choose it in runtime.load")
        vectors = self.embed(
            [sentences] if isinstance(sentences, str) else sentences,
            tower="text",
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            progress=bool(show_progress_bar),
            normalize=normalize_embeddings,
            truncate_dim=truncate_dim,
            dtype=precision,
        )
        return vectors[0] if isinstance(sentences, str) else vectors

    def tokenize(self, texts: Iterable[str]) -> dict[str, Array]:
        """Return the inputs of the text graph for a batch of ``texts``, as ``tokenize`` of sentence-transformers does.

        No prompt is put before the texts. Each array, such as ``input_ids``, is ``[len(texts), tokens]`` int64.

        Raises:
            UsageError: There is no text tower, no text, or the tokenizer is in worker processes; or ``texts`` is one
                text, or a collection that has no order or several columns.
            ItemError: An item is not a text.
        """
        check_tower("text", self.towers)
        if not isinstance(self.backend, Pipeline):
            raise UsageError("tokenize works in this process only; load the model without workers")
        items = list(check_items(texts, "text"))
        if not items:
            raise UsageError("tokenize takes at least one text, and there is none")
        tower = self.backend.towers["text"]
        rows = tower.prepare(items, prompt="")
        for index, row in enumerate(rows):
            if isinstance(row, UnusableItemError):
                raise ItemError(index, type(items[index]).__name__, str(row))
        return tower.collate(rows)

    def similarity(self, one: Array, other: Array) -> Array:
        """Return the similarity of each row of ``one`` to each row of ``other``: ``[rows, rows]`` float64.

        The function is the model's, :attr:`Manifest.similarity_function`: the cosine, for most. A single vector is one
        row.

        Raises:
            UsageError: The rows have different lengths, or are no numbers.
        """
        return similarities(one, other, self.manifest.similarity_function)

    @overload
    def embed(
        self, items: Iterable[Item], *, on_error: Literal["raise"] = ..., **options: Unpack[_EmbedKeywords]
    ) -> Array: ...

    @overload
    def embed(
        self, items: Iterable[Item], *, on_error: Literal["skip"], **options: Unpack[_EmbedKeywords]
    ) -> PartialEmbeddings: ...

    def embed(
        self,
        items: Iterable[Item],
        *,
        tower: TowerName | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        truncate: Literal["count", "error"] = "count",
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool = False,
        truncate_dim: int | None = None,
        dtype: Dtype = "float32",
        ranges: Array | None = None,
    ) -> Array | PartialEmbeddings:
        """Embed items.

        Args:
            items: A list, iterator, Series or Arrow array of items of the artifact's kinds, in any mixture. A text is a
                string. An image is a path, the bytes of an image file, a PIL image, or a ``[height, width, 3]`` uint8
                RGB array. A mesh is the path of a mesh file, an object with vertices and faces, or a ``[points, 3]``
                array.
            tower: Tower that embeds the items. By default, the only tower of the artifact. If the artifact has a text
                and an image tower, strings are texts and all other items are images.
            batch_size: Maximum items per batch. By default, a batch is limited by a budget of tokens, images or
                points; stored tuning replaces the budget for images and meshes. Batches group texts of similar length.
            progress: Whether to draw a progress bar on standard error.
            on_error: ``raise`` stops at the first unusable item; ``skip`` leaves it out and reports it.
            truncate: Treatment of texts that exceed the model's token limit. ``count`` embeds the beginning of the
                text and logs the number of such texts; ``skip`` also returns their indices. ``error`` treats them as
                unusable.
            prompt_name: Name of the artifact's prompt that is put before each text. ``query`` and ``document`` are
                those of :meth:`embed_query` and :meth:`embed_document`. By default, the default prompt of the artifact,
                if it has one. Images and meshes have no prompts.
            prompt: The prompt itself, in place of a name. An empty prompt switches the default one off.
            normalize: Whether to scale vectors to unit length, after ``truncate_dim``.
            truncate_dim: Number of leading dimensions to keep; by default all.
            dtype: Type of the vectors: ``float32``, ``float16``, ``int8`` or ``binary``. For existing vectors, use
                :func:`runtime.postprocess.quantize`.
            ranges: ``[2, dim]`` ranges for ``int8``, from :func:`runtime.postprocess.int8_ranges` over similar
                vectors; by default from these vectors. Vectors are comparable only if they share the same ranges.

        Returns:
            ``[len(items), output_dim]`` float32 in the order of ``items``, unless ``dtype`` or ``truncate_dim`` change
            it. With ``skip``, the rows of the usable items with their indices, and the errors of the others.

        Raises:
            ItemError: An item is unusable and ``on_error`` is ``raise``; the error has the item's index and path.
            InferenceError: ONNX Runtime cannot run a batch, for example for lack of memory.
            NonFiniteError: The graph returned NaN or infinity.
            UsageError: An argument is invalid.
        """
        options = EmbedOptions(
            tower=tower,
            batch_size=batch_size,
            on_error=on_error,
            truncate=truncate,
            prompt_name=prompt_name,
            prompt=prompt,
            normalize=normalize,
            truncate_dim=truncate_dim,
        )
        dim = truncate_dim or self.output_dim
        check_dtype(dtype, ranges, dim)
        items = check_items(items, tower or self.towers[0])
        hint = length_hint(items, -1)
        total = hint if hint >= 0 else None
        with progress_bar(total=total, unit="item", label="embed") if progress else nullcontext() as bar:
            embedded = _collect(self.stream(items, options, None if bar is None else bar.update), total, dim)
        vectors = embedded.vectors if dtype == "float32" else quantize(embedded.vectors, dtype, ranges)
        return vectors if on_error == "raise" else embedded._replace(vectors=vectors)

    def embed_stream(
        self,
        items: Iterable[Item],
        *,
        tower: TowerName | None = None,
        batch_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        truncate: Literal["count", "error"] = "count",
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool = False,
        truncate_dim: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Generator[PartialEmbeddings, None, None]:
        """Embed items as they arrive, in bounded memory, for example a million items from a generator.

        The stream yields its first part when it has read three windows or all items; with workers, two windows per
        worker and one more. A window has 1,024 texts, or 32 images or meshes, and four times as many on a GPU. A
        ``batch_size`` makes it larger: it has a batch for each thread, and at least two. To cancel the work in
        progress, close the generator. ``on_progress`` receives the number of items of each finished batch, from another
        thread. All other arguments are those of :meth:`embed`.

        Yields:
            The vectors of the next items in the order of ``items``, with their indices. Each part continues after the
            previous one and covers ``len(kept) + len(failures)`` items.

        Raises:
            EmbeddingBackbonesError: As for :meth:`embed`, when the stream reaches the item.
        """
        options = EmbedOptions(
            tower=tower,
            batch_size=batch_size,
            on_error=on_error,
            truncate=truncate,
            prompt_name=prompt_name,
            prompt=prompt,
            normalize=normalize,
            truncate_dim=truncate_dim,
        )
        return self.stream(items, options, on_progress)

    def stream(
        self, items: Iterable[Item], options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Generator[PartialEmbeddings, None, None]:
        """Embed items as :meth:`embed_stream` does, with its keywords in one :class:`EmbedOptions`.

        Raises:
            UsageError: The model is closed, or has no such tower, no such prompt, or not that many dimensions; or
                ``items`` is one item, or a collection that has no order or several columns.
            EmbeddingBackbonesError: As for :meth:`embed`, when the stream reaches the item.
        """
        if self._closed:
            raise UsageError("the model is closed; load it again")
        if options.tower is not None:
            check_tower(options.tower, self.towers)
        dim = options.truncate_dim
        if dim is not None and dim > self.output_dim:
            raise UsageError(f"truncate_dim is {dim}, and the vectors have {self.output_dim} dimensions")
        options = resolve_prompt(options, self.loaded_towers())
        items = check_items(items, options.tower or self.towers[0])
        return warn_of_truncation(self.backend.stream(items, options, on_progress))


def _load_same(load_again: Callable[[], Embedder], space: str) -> Embedder:
    """Load the model of a pickle, which embedded in ``space``.

    Raises:
        SpaceError: The folder holds another artifact by now, or ``auto`` chose a graph of another space here.
        EmbeddingBackbonesError: As for :func:`runtime.load`.
    """
    model = load_again()
    if model.space == space:
        return model
    model.close()
    raise SpaceError(
        f"{model.manifest.name} embeds in {model.space} here ({model.variant}), and the pickled model in {space}: "
        "its folder holds another artifact by now, or `auto` chose another graph; load the model again, or name the "
        "variant"
    )


def _collect(parts: Iterator[PartialEmbeddings], total: int | None, dim: int) -> PartialEmbeddings:
    """Concatenate ``parts``. If ``total`` is right, the vectors are never in memory twice."""
    first, second = next(parts, None), next(parts, None)
    if first is None or second is None:
        return first or concatenate((), dim)
    parts = chain((first, second), parts)
    if total is None:
        return concatenate(parts, dim)
    vectors, rows, others = np.empty((total, dim), dtype=np.float32), 0, []
    for part in parts:
        if rows + len(part.vectors) > len(vectors):  # the length of a progress bar, for example, is only a guess
            more = max(rows, len(part.vectors))
            vectors = np.concatenate([vectors[:rows], np.empty((more, dim), dtype=np.float32)])
        vectors[rows : rows + len(part.vectors)] = part.vectors
        rows += len(part.vectors)
        others.append(part._replace(vectors=vectors[:0]))
    return concatenate(others, dim)._replace(vectors=vectors[:rows])


def _join_towers(values: Mapping[TowerName, str]) -> str:
    """Return the value that all towers share, or the value of each tower."""
    first, *others = dict.fromkeys(values.values())
    return first if not others else ", ".join(f"{name}: {value}" for name, value in values.items())
