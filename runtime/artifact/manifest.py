"""The manifest of an artifact: all that is needed to use, check and trace an exported backbone.

These dataclasses are the schema. ``exporters`` writes them, and ``runtime`` reads them. To change a field after a
release, increase :data:`SCHEMA_VERSION`. Then either upgrade older documents in
:func:`runtime.artifact.reader.read_manifest`, or increase :data:`OLDEST_READABLE`, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal, get_args

from runtime.artifact.variants import VARIANT_NAMES, Variant, VariantName
from runtime.errors import ManifestError, UsageError

SCHEMA_VERSION = 2
OLDEST_READABLE = 1
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.npz"
MIN_TEXT_LENGTH = 3
MIN_POINTS = 2  # a single point cannot be scaled to unit distance
MAX_SEED = 2**32 - 1  # limit of numpy.random.RandomState
MAX_SIDE = 8192  # its square is within PIL.Image.MAX_IMAGE_PIXELS, the limit for opened images
MAX_TEXT_LENGTH = 2**20
MAX_POINTS = 2**20
MAX_TOKEN_ID = 2**31 - 1
MAX_PIXEL_SCALE = 1e6  # limit of mean and std, in float32; for pixels from 0 to 1 they are about 1
SEAL = "sha256"

Task = Literal["text-to-text", "image-to-image", "text-to-image", "mesh-to-mesh"]
TASKS: tuple[Task, ...] = get_args(Task)
Arithmetic = Literal["graph", "caller"]
TowerName = Literal["text", "image", "mesh"]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: Name of the tensor in the graph.
        dtype: numpy's name of the element type.
        shape: Sizes of the axes; a string is the name of a dynamic axis.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """The steps from a decoded image to the input of the graph, in the order of the fields.

    Attributes:
        kind: Distinguishes this record from those of other inputs.
        exif_orientation: ``apply`` rotates an image by its EXIF tag, as viewers do.
        colour_order: Channel order of the pixels. Every image is converted to it.
        resize: ``short_side`` keeps the aspect ratio. ``squash`` makes both sides equally long, as Finetuner does with
            CNNs.
        resize_size: Length of the shorter side after resizing, in pixels.
        interpolation: Filter of the resize.
        antialias: Whether the filter widens with the downscaling factor, as Pillow's filters do.
        crop_size: Side of the centre crop, in pixels. It is the height and width of the graph's input.
        crop_rounding: How half a pixel of crop offset is rounded: ``half_even`` as in torchvision, ``floor`` as in
            transformers.
        rescale: Factor of the pixel values.
        mean: Value to subtract from the rescaled values, per channel.
        std: Divisor of the difference, per channel.
        arithmetic: ``graph`` if the graph rescales and applies ``mean`` and ``std``; its input is ``uint8``.
            ``caller`` if the caller does; the input is ``float32``.
    """

    kind: Literal["image"] = "image"
    exif_orientation: Literal["apply"] = "apply"
    colour_order: Literal["RGB"] = "RGB"
    resize: Literal["short_side", "squash"] = "short_side"
    resize_size: int
    interpolation: Literal["bilinear", "bicubic"]
    antialias: Literal[True] = True
    crop_size: int
    crop_rounding: Literal["half_even", "floor"] = "half_even"
    rescale: Literal["1/255"] = "1/255"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    arithmetic: Arithmetic

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.crop_size <= self.resize_size:
            raise UsageError(f"crop_size {self.crop_size} is not from 1 to resize_size {self.resize_size}")
        if self.resize_size > MAX_SIDE:
            raise UsageError(f"resize_size {self.resize_size} is above {MAX_SIDE}")
        if not all(self.std):
            raise UsageError(f"std {self.std} contains a zero")
        if not all(
            abs(value) <= MAX_PIXEL_SCALE for value in (*self.mean, *self.std, *(1 / each for each in self.std))
        ):
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
    """The steps from a string to the inputs of the graph.

    Attributes:
        kind: Distinguishes this record from those of other inputs.
        cleaning: How a text is cleaned before it is tokenized. ``ftfy`` cleans as open_clip does: it applies
            ``ftfy.fix_text``, resolves HTML entities twice, and replaces each run of white space by a space.
        tokenizer: File name of the tokenizer, in the format of the ``tokenizers`` library. The fields below replace
            its settings for truncation and padding.
        max_length: Number of tokens, special ones included, to which longer texts are truncated.
        pad_token_id: Token that fills the shorter texts of a batch, on the right. Its ``attention_mask`` is 0.
    """

    kind: Literal["text"] = "text"
    cleaning: Literal["none", "ftfy"] = "none"
    tokenizer: str = "tokenizer.json"
    max_length: int
    pad_token_id: int

    def __post_init__(self) -> None:
        """Check the values. The shortest text has one token between two special ones."""
        if self.max_length < MIN_TEXT_LENGTH:
            raise UsageError(f"max_length {self.max_length} is below {MIN_TEXT_LENGTH}")
        if self.max_length > MAX_TEXT_LENGTH:
            raise UsageError(f"max_length {self.max_length} is above {MAX_TEXT_LENGTH}")
        if not 0 <= self.pad_token_id <= MAX_TOKEN_ID:
            raise UsageError(f"pad_token_id {self.pad_token_id} is not from 0 to {MAX_TOKEN_ID}")

    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs of a graph with this preprocessing."""
        return tuple(
            TensorSpec(name=name, dtype="int64", shape=("batch", "sequence"))
            for name in ("input_ids", "attention_mask")
        )


@dataclass(frozen=True, kw_only=True)
class PointCloudPreprocessing:
    """The steps from a mesh or a point cloud to the input of the graph, in the order of the fields.

    Attributes:
        kind: Distinguishes this record from those of other inputs.
        sampling: How points are sampled from a mesh. ``surface_area`` chooses a triangle with a probability
            proportional to its area, and a uniform point in it.
        num_points: Number of points to sample from a mesh. A point cloud keeps all its points.
        seed: Seed of the random numbers, for each mesh.
        generator: Generator of the random numbers. numpy keeps its stream the same in all versions.
        min_points: Smallest number of points of a point cloud, which is the graph's number of centroids.
        centring: Point that is moved to the origin: the ``mean`` of the points.
        scaling: Point that is scaled to distance 1 from the origin: the ``farthest_point``.
    """

    kind: Literal["mesh"] = "mesh"
    sampling: Literal["surface_area"] = "surface_area"
    num_points: int
    seed: int
    generator: Literal["numpy.random.RandomState"] = "numpy.random.RandomState"
    min_points: int
    centring: Literal["mean"] = "mean"
    scaling: Literal["farthest_point"] = "farthest_point"

    def __post_init__(self) -> None:
        """Check the values."""
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
PoolingMethod = Literal["avg", "mean", "cls", "max", "gem", "eos"]


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How the backbone's features are pooled into a vector.

    Attributes:
        method: For CNNs, ``avg`` is the mean over height and width. For transformers, ``mean`` and ``max`` are over the
            tokens that are not padding. ``cls`` is the first token, and ``eos`` is the last token of a text. ``gem`` is
            the generalised mean, for CNNs and transformers. For point clouds, ``max`` is over the points.
        p: GeM's exponent; ``None`` for other methods.
        eps: GeM's lower clamp; ``None`` for other methods.
    """

    method: PoolingMethod
    p: float | None = None
    eps: float | None = None

    def __post_init__(self) -> None:
        """Check the values. Only GeM has parameters."""
        if self.method == "gem" and not (0 < (self.p or 0) < math.inf and 0 < (self.eps or 0) < math.inf):
            raise UsageError(f"gem pooling needs finite p and eps above 0, not {self.p} and {self.eps}")
        if self.method != "gem" and (self.p, self.eps) != (None, None):
            raise UsageError(f"{self.method} pooling has neither p nor eps; use gem pooling")


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear layer after the pooling.

    Attributes:
        in_features: Length of its input.
        out_features: Length of its output.
        bias: Whether it adds a bias.
        activation: Activation function of the output.
    """

    in_features: int
    out_features: int
    bias: bool
    activation: Literal["identity", "tanh", "relu", "gelu"]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Bounds on the difference of a graph from the torch reference.

    Attributes:
        min_cosine: Bound on the cosine similarity between an embedding and its reference.
        max_error: Bound on the absolute difference of any value, as a share of the largest absolute reference value.
        max_distance_share: Bound on the Euclidean distance of an embedding to its reference, as a share of the distance
            between the two closest references.
    """

    min_cosine: float
    max_error: float
    max_distance_share: float

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value <= 1:
                raise UsageError(f"the tolerance {name} is {value}, it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The parity of the graph with torch on real inputs, as measured at export.

    Attributes:
        provider: Execution provider that ran the graph.
        items: Number of different inputs.
        batch_sizes: Batch sizes at which all inputs were embedded.
        min_cosine: Smallest cosine similarity to torch, over all batch sizes.
        max_abs_error: Largest absolute difference to torch.
        reference_scale: Largest absolute value of torch's embeddings.
        max_batch_error: Largest absolute difference between a row embedded alone and the same row in a batch.
        max_row_error: Largest Euclidean distance of an embedding to its reference.
        min_distance: Smallest Euclidean distance between torch's embeddings of two different inputs.
        tolerance: The bounds that these measurements keep.
    """

    provider: str
    items: int
    batch_sizes: tuple[int, ...]
    min_cosine: float
    max_abs_error: float
    reference_scale: float
    max_batch_error: float
    max_row_error: float
    min_distance: float
    tolerance: Tolerance


@dataclass(frozen=True, kw_only=True)
class SimilarityParity:
    """The parity of the graphs with torch in the cosine similarities of texts to images.

    Attributes:
        texts: Number of texts.
        images: Number of images.
        max_abs_error: Largest absolute difference of a similarity.
        spread: Difference between torch's largest and smallest similarity.
    """

    texts: int
    images: int
    max_abs_error: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One graph: from preprocessed items to embeddings.

    Attributes:
        graph: File name of the ONNX graph.
        external_data: File name of the graph's weights, if they are too large to be inside it.
        inputs: Inputs of the graph.
        output: Output of the graph: ``embedding``, ``[batch, output_dim]`` float32.
        preprocessing: The steps before the graph.
        pooling: The pooling of the backbone's features, inside the graph.
        projections: Linear layers after the pooling, inside the graph.
        normalized: Whether the embeddings have unit length.
        decided_by: Source of the pooling and the normalisation: the files of the ``checkpoint``, the ``user`` (for at
            least one of the two), or the ``default`` of the backbone.
        parity: Parity of the graph with torch; ``None`` only until it is measured.
        variants: Other graphs for the same embeddings, within the bounds that they record.
    """

    graph: str
    external_data: str | None = None
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    preprocessing: Preprocessing
    pooling: Pooling
    projections: tuple[Projection, ...] = ()
    normalized: bool
    decided_by: Literal["checkpoint", "user", "default"]
    parity: Parity | None = None
    variants: dict[VariantName, Variant] = dataclasses.field(default_factory=dict)

    def files(self) -> tuple[str, ...]:
        """Return the names of the files that the tower needs, those of its variants included."""
        tokenizer = self.preprocessing.tokenizer if isinstance(self.preprocessing, TextPreprocessing) else None
        own = tuple(name for name in (self.graph, self.external_data, tokenizer) if name)
        return own + tuple(name for variant in self.variants.values() for name in variant.files())


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The origin of the weights.

    Attributes:
        origin: ``pretrained``, ``random`` or ``file``.
        description: Description of the origin, such as ``torchvision resnet50`` or ``random, seed 0``.
        revision: The publisher's name of this version of the weights, or ``None``.
        file: Name of the checkpoint file; ``None`` for random weights.
        seed: Seed of random weights, else ``None``.
        sha256: Hash of the checkpoint file; for random weights, hash of the values.
        published: Whether the publisher of the weights states the same hash; ``None`` if the publisher states none.
        licence: The publisher's terms; ``None`` if they are unknown.
    """

    origin: Literal["pretrained", "random", "file"]
    description: str
    revision: str | None = None
    file: str | None = None
    seed: int | None = None
    sha256: str
    published: bool | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The tools that made the graphs.

    Attributes:
        opset: ONNX operator set of the graphs.
        packages: Versions of the packages.
    """

    opset: int
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """The hash and size of a file.

    Attributes:
        sha256: Hash of its bytes, in hexadecimal.
        size_bytes: Its size.
    """

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
        weights: The origin of the weights.
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
    weights: Weights
    provenance: Provenance
    files: dict[str, FileRecord]

    def __post_init__(self) -> None:
        """Check that the fields are consistent with each other."""
        needed = {GOLDEN_FILE, *(name for tower in self.towers.values() for name in tower.files())}
        for name in (*self.files, *needed):
            _check_inside(name)
        if needed - self.files.keys():
            raise ManifestError(f"files lacks {', '.join(sorted(needed - self.files.keys()))}")
        unknown = sorted(self.towers.keys() - get_args(TowerName))
        if unknown or not self.towers:
            raise ManifestError(f"this runtime embeds {', '.join(get_args(TowerName))}, not {unknown or 'nothing'}")
        for name, tower in self.towers.items():
            if tower.preprocessing.kind != name:
                raise ManifestError(f"the {name} tower has preprocessing for {tower.preprocessing.kind}")
            if tower.inputs != tower.preprocessing.graph_inputs():
                raise ManifestError(f"the {name} tower's inputs do not fit its preprocessing")
            strange = sorted(tower.variants.keys() - {*VARIANT_NAMES[1:]})
            if strange:
                raise ManifestError(f"the {name} tower has variants {strange}, known are {VARIANT_NAMES[1:]}")
            if tower.output.shape != ("batch", self.output_dim):
                raise ManifestError(
                    f"the {name} tower's output has shape {tower.output.shape}, not {self.output_dim} columns"
                )

    def to_json(self) -> str:
        """Return the text of ``manifest.json``, which includes the hash of the manifest."""
        return json.dumps(dataclasses.asdict(self) | {SEAL: self.sha256}, indent=2) + "\n"

    @property
    def sha256(self) -> str:
        """Hash of the manifest. It identifies the artifact."""
        return seal(dataclasses.asdict(self))


def seal(document: object) -> str:
    """Return the hash of a manifest's document. The document must not contain the hash itself."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _check_inside(name: str) -> None:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if not name or posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise ManifestError(f"the path {name!r:.80} leaves the artifact's folder")
    if not name.isprintable():  # lone surrogates too, which no file system takes
        raise ManifestError(f"the path {name!r:.80} is not a printable file name")
