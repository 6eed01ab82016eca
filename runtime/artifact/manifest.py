"""The manifest of an artifact: all that is needed to use, check and trace an exported backbone.

These dataclasses are the schema. ``exporters`` writes them, and ``runtime`` reads them. To change a field after a
release, increase :data:`SCHEMA_VERSION`. A new field needs a default that describes older artifacts; for any other
change, increase :data:`OLDEST_READABLE`, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal, get_args

from runtime.artifact.parity import Parity, SimilarityParity
from runtime.artifact.similarity import SimilarityFunction
from runtime.artifact.variants import VARIANT_NAMES, Variant, VariantName
from runtime.errors import ManifestError, UsageError

SCHEMA_VERSION = 6
OLDEST_READABLE = 4
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.npz"
GOLDEN_ITEMS = 4  # of each tower; fewer if the export compared fewer
MIN_TEXT_LENGTH = 3
MIN_POINTS = 2  # a single point cannot be scaled to unit distance
MAX_SEED = 2**32 - 1  # limit of numpy.random.RandomState
MAX_SIDE = 8192  # its square is within PIL.Image.MAX_IMAGE_PIXELS, the limit for opened images
MAX_TEXT_LENGTH = 2**20
MAX_POINTS = 2**20
MAX_TOKEN_ID = 2**31 - 1
MAX_PIXEL_SCALE = 1e6  # limit of mean and std, in float32; for pixels from 0 to 1 they are about 1
SEAL = "sha256"
_SPACE_ID = re.compile(r"vs1-[0-9a-f]{16}")

Task = Literal["text-to-text", "image-to-image", "text-to-image", "mesh-to-mesh"]
TASKS: tuple[Task, ...] = get_args(Task)
Arithmetic = Literal["graph", "caller"]
TowerName = Literal["text", "image", "mesh"]
TextInput = Literal["input_ids", "attention_mask", "token_type_ids", "pooling_mask"]
Alpha = Literal["drop", "white"]
Cleaning = Literal["none", "ftfy", "ftfy_canonicalize"]
Interpolation = Literal["bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph."""

    name: str
    dtype: str  # numpy's name of the element type
    shape: tuple[int | str, ...]  # sizes of the axes; a string is the name of a dynamic axis


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """The steps from a decoded image to the input of the graph, in the order of the fields."""

    kind: Literal["image"] = "image"
    exif_orientation: Literal["apply"] = "apply"  # rotates an image by its EXIF tag, as viewers do
    colour_order: Literal["RGB"] = "RGB"  # every image is converted to it
    # ``drop`` keeps the colour of transparent pixels, as torchvision, timm and open_clip do. ``white`` puts the image
    # on white, as transformers does.
    alpha: Alpha = "drop"
    # ``short_side`` and ``long_side`` keep the aspect ratio. ``squash`` makes both sides equally long, as Finetuner
    # does with CNNs.
    resize: Literal["short_side", "long_side", "squash"] = "short_side"
    resize_size: int  # length of that side after resizing, in pixels
    interpolation: Interpolation
    # Whether the filter widens with the downscaling factor, as Pillow's filters do. Without, some pixels are skipped,
    # as by torch's ``interpolate``; ``resize_dtype`` is then ``float32``.
    antialias: bool = True
    # ``uint8``: Pillow resizes, and rounds to 8 bits. ``float32``: resized values are not rounded, as those of torch's
    # ``interpolate`` with floats; ``interpolation`` is then ``bilinear`` or ``bicubic``, and ``arithmetic`` ``caller``.
    resize_dtype: Literal["uint8", "float32"] = "uint8"
    crop_size: int  # side of the centre crop, in pixels: the height and width of the graph's input
    fill: tuple[int, int, int] = (0, 0, 0)  # colour around an image that is smaller than the crop
    # How half a pixel of crop offset is rounded: ``half_even`` as in torchvision, ``floor`` as in transformers with
    # Pillow. If the image is smaller than the crop, the border on the left and top is rounded down with ``half_even``,
    # and up with ``floor``.
    crop_rounding: Literal["half_even", "floor"] = "half_even"
    rescale: Literal["1/255"] = "1/255"  # factor of the pixel values
    mean: tuple[float, float, float]  # subtracted from the rescaled values, per channel
    std: tuple[float, float, float]  # divisor of the difference, per channel
    # ``graph``: the graph rescales and applies ``mean`` and ``std``, and its input is ``uint8``.
    # ``caller``: the caller does both, and the input is ``float32``.
    arithmetic: Arithmetic

    def __post_init__(self) -> None:
        for name, side in (("resize_size", self.resize_size), ("crop_size", self.crop_size)):
            if not 0 < side <= MAX_SIDE:
                raise UsageError(f"{name} {side} is not from 1 to {MAX_SIDE}")
        if not all(0 <= value <= 255 for value in self.fill):
            raise UsageError(f"fill {self.fill} is not a colour of values from 0 to 255")
        if not self.antialias and self.resize_dtype == "uint8":
            raise UsageError("resizing without antialias needs resize_dtype float32: Pillow always widens its filters")
        if self.resize_dtype == "float32" and self.interpolation not in ("bilinear", "bicubic"):
            raise UsageError(f"resize_dtype float32 goes with bilinear and bicubic, not with {self.interpolation}")
        if self.resize_dtype == "float32" and self.arithmetic == "graph":
            raise UsageError("resize_dtype float32 goes with arithmetic caller: uint8 pixels would be rounded")
        if not all(self.std):
            raise UsageError(f"std {self.std} contains a zero")
        scales = (*self.mean, *self.std, *(1 / each for each in self.std))
        if not all(abs(value) <= MAX_PIXEL_SCALE for value in scales):
            raise UsageError(
                f"mean {self.mean} or std {self.std} is out of range: values and 1 / std must be at most "
                f"{MAX_PIXEL_SCALE:g}"
            )

    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs of a graph with this preprocessing."""
        side = self.crop_size
        if self.arithmetic == "graph":
            return (TensorSpec(name="pixels", dtype="uint8", shape=("batch", side, side, 3)),)
        return (TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, side, side)),)


@dataclass(frozen=True, kw_only=True)
class TextPreprocessing:
    """The steps from a string to the inputs of the graph."""

    kind: Literal["text"] = "text"
    # How a text is cleaned before it is tokenized. ``ftfy`` cleans as open_clip does: it applies ``ftfy.fix_text``,
    # resolves HTML entities twice, and replaces each run of white space by a space. ``ftfy_canonicalize`` also replaces
    # ``_`` by a space, removes ASCII punctuation and lowercases, as open_clip does for SigLIP.
    cleaning: Cleaning = "none"
    # File name of the tokenizer, in the format of the ``tokenizers`` library. The fields below replace its settings
    # for truncation and padding.
    tokenizer: str = "tokenizer.json"
    add_special_tokens: bool = True  # whether the tokenizer adds its special tokens
    max_length: int  # number of tokens, special ones included, to which longer texts are truncated
    truncation_side: Literal["right", "left"] = "right"  # end of a long text that is cut off
    pad_token_id: int  # fills the shorter texts of a batch, on the right; its ``attention_mask`` is 0
    # ``longest``: texts are padded to the longest text of their batch. ``max_length``: always to ``max_length``.
    padding: Literal["longest", "max_length"] = "longest"
    # Inputs of the graph, in order. ``token_type_ids`` come from the tokenizer, and are 0 for padding.
    # ``pooling_mask`` is ``attention_mask`` with 0 for the tokens of the prompt.
    inputs: tuple[TextInput, ...] = ("input_ids", "attention_mask")
    # A text without any token: ``embed`` gives it to the graph as padding, ``refuse`` treats it as unusable.
    empty_text: Literal["embed", "refuse"] = "embed"
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)  # by name; put before a text
    default_prompt: str | None = None  # name of the prompt for calls that name none

    def __post_init__(self) -> None:
        """Check the values. The shortest text has one token between two special ones."""
        if self.max_length < MIN_TEXT_LENGTH:
            raise UsageError(f"max_length {self.max_length} is below {MIN_TEXT_LENGTH}")
        if self.max_length > MAX_TEXT_LENGTH:
            raise UsageError(f"max_length {self.max_length} is above {MAX_TEXT_LENGTH}")
        if not 0 <= self.pad_token_id <= MAX_TOKEN_ID:
            raise UsageError(f"pad_token_id {self.pad_token_id} is not from 0 to {MAX_TOKEN_ID}")
        if self.inputs[:1] != ("input_ids",) or len(set(self.inputs)) != len(self.inputs):
            raise UsageError(f"inputs {list(self.inputs)} must begin with input_ids and name each input once")
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            raise UsageError(f"default_prompt {self.default_prompt!r} is not one of {sorted(self.prompts)}")

    @property
    def default_prompt_text(self) -> str:
        """The prompt for calls that name none; empty if there is no default."""
        return "" if self.default_prompt is None else self.prompts[self.default_prompt]

    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs of a graph with this preprocessing."""
        sequence = self.max_length if self.padding == "max_length" else "sequence"
        return tuple(TensorSpec(name=name, dtype="int64", shape=("batch", sequence)) for name in self.inputs)


@dataclass(frozen=True, kw_only=True)
class PointCloudPreprocessing:
    """The steps from a mesh or a point cloud to the input of the graph, in the order of the fields."""

    kind: Literal["mesh"] = "mesh"
    # How points are sampled from a mesh. ``surface_area`` chooses a triangle with a probability proportional to its
    # area, and a uniform point in it.
    sampling: Literal["surface_area"] = "surface_area"
    num_points: int  # number of points to sample from a mesh; a point cloud keeps all its points
    seed: int  # seed of the random numbers, for each mesh
    generator: Literal["numpy.random.RandomState"] = "numpy.random.RandomState"  # numpy never changes its stream
    min_points: int  # smallest number of points of a point cloud, which is the graph's number of centroids
    centring: Literal["mean"] = "mean"  # the mean of the points is moved to the origin
    scaling: Literal["farthest_point"] = "farthest_point"  # the farthest point gets distance 1 from the origin

    def __post_init__(self) -> None:
        if not MIN_POINTS <= self.min_points <= self.num_points:
            raise UsageError(f"min_points {self.min_points} is not from {MIN_POINTS} to num_points {self.num_points}")
        if self.num_points > MAX_POINTS:
            raise UsageError(f"num_points {self.num_points} is above {MAX_POINTS}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed {self.seed} is not from 0 to {MAX_SEED}")

    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs of a graph with this preprocessing."""
        return (TensorSpec(name="points", dtype="float32", shape=("batch", "num_points", 3)),)


Preprocessing = ImagePreprocessing | TextPreprocessing | PointCloudPreprocessing
PoolingMethod = Literal[
    "avg", "mean", "cls", "max", "gem", "eos", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "model"
]


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How the backbone's features are pooled into a vector."""

    # For CNNs, ``avg`` is the mean over height and width. For transformers, ``mean`` and ``max`` are over the tokens
    # that are not padding. ``cls`` is the first token, and ``eos`` is the last token of a text. ``gem`` is the
    # generalised mean, for CNNs and transformers. For point clouds, ``max`` is over the points. ``lasttoken``,
    # ``weightedmean`` (by position) and ``mean_sqrt_len_tokens`` (the sum divided by the square root of the number of
    # tokens) are those of sentence-transformers. ``model`` is a pooling that the model has in itself.
    method: PoolingMethod
    others: tuple[PoolingMethod, ...] = ()  # further poolings, whose vectors follow that of ``method``
    p: float | None = None  # GeM's exponent; ``None`` for other methods
    eps: float | None = None  # GeM's lower clamp; ``None`` for other methods

    def __post_init__(self) -> None:
        """Check the values. Only GeM has parameters."""
        if self.method == "gem" and not (0 < (self.p or 0) < math.inf and 0 < (self.eps or 0) < math.inf):
            raise UsageError(f"gem pooling needs finite p and eps above 0, not {self.p} and {self.eps}")
        if self.method != "gem" and (self.p, self.eps) != (None, None):
            raise UsageError(f"{self.method} pooling has neither p nor eps; use gem pooling")


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear layer after the pooling."""

    in_features: int
    out_features: int
    bias: bool
    activation: Literal["identity", "tanh", "relu", "gelu"]


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One graph: from preprocessed items to embeddings."""

    graph: str  # file name of the ONNX graph
    external_data: str | None = None  # file name of the graph's weights, if they are not inside it
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec  # ``embedding``, ``[batch, output_dim]`` float32
    preprocessing: Preprocessing
    pooling: Pooling
    projections: tuple[Projection, ...] = ()  # linear layers after the pooling, if ``layers`` is empty
    # All modules after the encoder in words, in order. Empty if ``pooling`` and ``projections`` are all of them.
    layers: tuple[str, ...] = ()
    normalized: bool  # whether the embeddings have unit length
    # Source of the pooling and the normalisation: the files of the ``checkpoint``, the ``user`` (for at least one of
    # the two), or the ``default`` of the backbone.
    decided_by: Literal["checkpoint", "user", "default"]
    reference: str = "torch"  # the library that gave the vectors to which the graph was compared
    parity: Parity | None = None  # parity with the reference; ``None`` only until it is measured
    variants: dict[VariantName, Variant] = dataclasses.field(default_factory=dict)

    def files(self, variants: Collection[str] = VARIANT_NAMES) -> tuple[str, ...]:
        """Return the names of the files that the tower needs if one of these ``variants`` runs, by default any.

        ``graph`` is always one of them, because the estimate of memory reads it.
        """
        tokenizer = self.preprocessing.tokenizer if isinstance(self.preprocessing, TextPreprocessing) else None
        weights = self.external_data if "fp32" in variants else None
        own = tuple(name for name in (self.graph, weights, tokenizer) if name)
        chosen = (variant for name, variant in self.variants.items() if name in variants)
        return tuple(dict.fromkeys([*own, *(name for variant in chosen for name in variant.files())]))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The origin of the weights."""

    origin: Literal["pretrained", "random", "file"]
    description: str  # such as ``torchvision resnet50`` or ``random, seed 0``
    revision: str | None = None  # the publisher's name of this version of the weights
    file: str | None = None  # name of the checkpoint file; ``None`` for random weights
    seed: int | None = None  # seed of random weights; ``None`` for others
    sha256: str  # hash of the checkpoint file; for random weights, hash of the values
    published: bool | None = None  # whether the publisher states the same hash; ``None`` if it states none
    licence: str | None = None  # the publisher's terms; ``None`` if they are unknown
    remote_code: bool = False  # whether code of the checkpoint itself was run to export it


@dataclass(frozen=True, kw_only=True)
class Space:
    """The vector space of an artifact: a name for all that its vectors depend on, beyond the tolerance of the export.

    :mod:`runtime.artifact.space` derives the name from these fields and from the rest of the manifest.
    """

    id: str  # ``vs1-`` and 16 hexadecimal digits
    weights: dict[TowerName, str]  # hash of the values of the weights that the graph uses
    # Signs of sums of the differences between golden vectors. They tell models apart that compute differently with
    # the same weights.
    directions: dict[TowerName, str]
    tokenizer: str | None = None  # hash of the vocabulary and of the tokens of sample texts

    def __post_init__(self) -> None:
        """Check the name, which servers write into a header."""
        if not _SPACE_ID.fullmatch(self.id):
            raise UsageError(f"the space {self.id!r:.80} is not vs1- and 16 hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The tools that made the graphs."""

    opset: int
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """The hash and size of a file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of an artifact.

    Attributes:
        schema_version: :data:`SCHEMA_VERSION` at the time of writing.
        name: Name of the artifact.
        backbone: Name of the backbone in the catalogue, or the user's name of a custom network.
        task: Task of the embeddings.
        architecture: Family of the backbone.
        output_dim: Length of an embedding.
        towers: The towers by the kind of item that they embed.
        similarity: Parity of the similarities between texts and images; ``None`` without both towers.
        similarity_function: The function by which the model compares two vectors.
        weights: The origin of the weights.
        space: The vector space.
        provenance: The tools that made the graphs.
        files: All other files of the artifact by name.
    """

    schema_version: int
    name: str
    backbone: str
    task: Task
    architecture: str
    output_dim: int
    towers: dict[TowerName, Tower]
    similarity: SimilarityParity | None = None
    similarity_function: SimilarityFunction = "cosine"
    weights: Weights
    space: Space
    provenance: Provenance
    files: dict[str, FileRecord]

    def select_towers(self, tower: TowerName | None) -> dict[TowerName, Tower]:
        """Return the towers that a user means: ``tower``, or all of them.

        Raises:
            UsageError: There is no such tower.
        """
        if tower is None:
            return self.towers
        check_tower(tower, self.towers)
        return {tower: self.towers[tower]}

    def choose_tower(self, tower: TowerName | None) -> TowerName:
        """Return the tower that a user means where only one is possible: ``tower``, or the only one.

        Raises:
            UsageError: There is no such tower, or there are two and none is named.
        """
        first, *others = self.select_towers(tower)
        if others:
            raise UsageError(f"the artifact has {' and '.join(self.towers)} towers; name one with --tower or tower=")
        return first

    def __post_init__(self) -> None:
        """Check that the fields are consistent with each other."""
        needed = {GOLDEN_FILE, *(name for tower in self.towers.values() for name in tower.files())}
        for name in (*self.files, *needed):
            _check_inside(name)
        if needed - self.files.keys():
            raise ManifestError(f"files lacks {', '.join(sorted(needed - self.files.keys()))}")
        if not self.towers:
            raise ManifestError(f"there is no tower, but this runtime embeds {', '.join(get_args(TowerName))}")
        for name, tower in self.towers.items():
            if tower.preprocessing.kind != name:
                raise ManifestError(f"the {name} tower has preprocessing for {tower.preprocessing.kind}")
            if tower.inputs != tower.preprocessing.graph_inputs():
                raise ManifestError(f"the {name} tower's inputs do not fit its preprocessing")
            if "fp32" in tower.variants:
                raise ManifestError(f"the {name} tower has a variant fp32, which is its own graph")
            if tower.output.shape != ("batch", self.output_dim):
                raise ManifestError(
                    f"the {name} tower's output has shape {tower.output.shape}, not {self.output_dim} columns"
                )

    def to_json(self) -> str:
        """Return the text of ``manifest.json`` in the current schema, which includes the seal of this document."""
        document = dataclasses.asdict(self)
        return json.dumps(document | {SEAL: seal(document)}, indent=2) + "\n"

    @cached_property
    def sha256(self) -> str:
        """The seal of the manifest, which identifies the artifact.

        ``read_manifest`` sets it to the seal in the file, so a later schema does not change it. A manifest of another
        origin, such as a copy with other fields, computes it.
        """
        return seal(dataclasses.asdict(self))


def check_tower(tower: TowerName, towers: Iterable[TowerName]) -> None:
    """Raise :class:`UsageError` unless ``towers`` has ``tower``."""
    if tower not in towers:
        raise UsageError(f"there is no {tower} tower; the artifact has {' and '.join(towers)}")


def seal(document: object) -> str:
    """Return the hash of a JSON document, whatever the order of its keys. A manifest is hashed without its own hash."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _check_inside(name: str) -> None:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if not name or posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise ManifestError(f"the path {name!r:.80} leaves the artifact's folder")
    if not name.isprintable():  # lone surrogates too, which no file system takes
        raise ManifestError(f"the path {name!r:.80} is not a printable file name")
