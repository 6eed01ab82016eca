"""The artifact's manifest: everything that is needed to use, check and trace an exported backbone.

The schema is these dataclasses; ``exporters`` fills them in and ``runtime`` reads them back. Whoever changes a field
after a release raises :data:`SCHEMA_VERSION`, and either brings documents of the older version up to date in
:func:`runtime.artifact.reader.read_manifest` or raises :data:`OLDEST_READABLE` too.
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
MIN_POINTS = 2  # a single point has no distance to scale by
MAX_SEED = 2**32 - 1  # of numpy.random.RandomState
MAX_SIDE = 8192  # its square is within PIL.Image.MAX_IMAGE_PIXELS, above which no image would be taken
MAX_TEXT_LENGTH = 2**20
MAX_POINTS = 2**20
MAX_TOKEN_ID = 2**31 - 1
MAX_PIXEL_SCALE = 1e6  # of mean and std, which for pixels from 0 to 1 are of order 1; float32 holds them all
SEAL = "sha256"

Task = Literal["text-to-text", "image-to-image", "text-to-image", "mesh-to-mesh"]
TASKS: tuple[Task, ...] = get_args(Task)
Arithmetic = Literal["graph", "caller"]
TowerName = Literal["text", "image", "mesh"]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: The tensor's name in the graph.
        dtype: numpy's name of its element type.
        shape: Sizes; a string is the name of a dynamic axis.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """From a decoded image to what the graph takes, in the order of the fields.

    Attributes:
        kind: Tells this record from those of other inputs.
        exif_orientation: ``apply``: an image is first turned the way its EXIF tag says, as viewers show it.
        colour_order: Channel order of the pixels; every image is converted to it.
        resize: ``short_side``: the longer side keeps the aspect ratio. ``squash``: both sides become equally long,
            whatever the image's shape, as Finetuner did with its CNNs.
        resize_size: Length of the shorter side after resizing, in pixels.
        interpolation: Filter of the resize.
        antialias: Whether the filter widens with the downscaling factor. Pillow's filters do.
        crop_size: Side of the centre crop, in pixels: the height and width that the graph takes.
        crop_rounding: How half a pixel of crop offset is rounded: ``half_even`` as torchvision does, ``floor`` as
            transformers does.
        rescale: Multiplies the pixel values first.
        mean: Subtracted, per channel, from the rescaled values.
        std: Divides the difference, per channel.
        arithmetic: Whether rescaling, ``mean`` and ``std`` are inside the graph (it takes ``uint8``) or are left to
            the caller (it takes ``float32``).
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
        """Refuses sizes that no image can have."""
        if not 0 < self.crop_size <= self.resize_size:
            raise UsageError(f"crop_size {self.crop_size} is not within 1 and resize_size {self.resize_size}")
        if self.resize_size > MAX_SIDE:
            raise UsageError(f"resize_size {self.resize_size} is above {MAX_SIDE}")
        if not all(self.std):
            raise UsageError(f"std {self.std} holds a zero")
        if not all(
            abs(value) <= MAX_PIXEL_SCALE for value in (*self.mean, *self.std, *(1 / each for each in self.std))
        ):
            raise UsageError(f"mean {self.mean} or std {self.std} is beyond what pixels can have")

    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Returns what a graph takes after this preprocessing."""
        side = self.crop_size
        if self.arithmetic == "graph":
            return (TensorSpec(name="pixels", dtype="uint8", shape=("batch", side, side, 3)),)
        return (TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, side, side)),)


@dataclass(frozen=True, kw_only=True)
class TextPreprocessing:
    """From a string to what the graph takes.

    Attributes:
        kind: Tells this record from those of other inputs.
        cleaning: What happens to a text before it is tokenized. ``ftfy``: mended by ``ftfy.fix_text``, HTML entities
            resolved twice, each run of white space made one space, as open_clip does.
        tokenizer: File name of the tokenizer, in the format of the ``tokenizers`` library. Truncation and padding
            that are set in it are ignored in favour of the fields below.
        max_length: Tokens, special ones included, to which longer texts are cut.
        pad_token_id: Fills the shorter texts of a batch, on the right; ``attention_mask`` is 0 there.
    """

    kind: Literal["text"] = "text"
    cleaning: Literal["none", "ftfy"] = "none"
    tokenizer: str = "tokenizer.json"
    max_length: int
    pad_token_id: int

    def __post_init__(self) -> None:
        """Refuses a length that leaves no room for a token between the special ones, and what no model can take."""
        if self.max_length < MIN_TEXT_LENGTH:
            raise UsageError(f"max_length {self.max_length} is below {MIN_TEXT_LENGTH}")
        if self.max_length > MAX_TEXT_LENGTH:
            raise UsageError(f"max_length {self.max_length} is above {MAX_TEXT_LENGTH}")
        if not 0 <= self.pad_token_id <= MAX_TOKEN_ID:
            raise UsageError(f"pad_token_id {self.pad_token_id} is not within 0 and {MAX_TOKEN_ID}")

    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Returns what a graph takes after this preprocessing."""
        return tuple(
            TensorSpec(name=name, dtype="int64", shape=("batch", "sequence"))
            for name in ("input_ids", "attention_mask")
        )


@dataclass(frozen=True, kw_only=True)
class PointCloudPreprocessing:
    """From a mesh or a point cloud to what the graph takes, in the order of the fields.

    Attributes:
        kind: Tells this record from those of other inputs.
        sampling: How points are taken from a mesh: ``surface_area``: triangles by their area, uniform in each.
        num_points: Points that are sampled from a mesh. A raw cloud is taken as it is, with all its points.
        seed: Where the random numbers of the sampling start, for every mesh anew.
        generator: What they are drawn from; numpy keeps this stream the same in all its versions.
        min_points: Fewest points that a raw cloud may have: the graph's number of centroids.
        centring: What is moved to the origin: the ``mean`` of the points.
        scaling: What is brought to distance 1 from the origin: the ``farthest_point``.
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
        """Refuses counts that no cloud can have, and seeds that the generator does not take."""
        if not MIN_POINTS <= self.min_points <= self.num_points:
            raise UsageError(
                f"min_points {self.min_points} is not within {MIN_POINTS} and num_points {self.num_points}"
            )
        if self.num_points > MAX_POINTS:
            raise UsageError(f"num_points {self.num_points} is above {MAX_POINTS}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed {self.seed} is not within 0 and {MAX_SEED}")

    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """Returns what a graph takes after this preprocessing."""
        return (TensorSpec(name="points", dtype="float32", shape=("batch", "num_points", 3)),)


Preprocessing = ImagePreprocessing | TextPreprocessing | PointCloudPreprocessing
PoolingMethod = Literal["avg", "mean", "cls", "max", "gem", "eos"]


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How features became one vector.

    Attributes:
        method: For CNNs, ``avg`` is the mean over height and width. For transformers, ``mean`` and ``max`` are over the
            tokens that are no padding, ``cls`` is the first token, and ``eos`` the one that ends a text. ``gem`` is the
            generalised mean over either. For point clouds, ``max`` is over the points.
        p: GeM's exponent; ``None`` for other methods.
        eps: GeM's lower clamp; ``None`` for other methods.
    """

    method: PoolingMethod
    p: float | None = None
    eps: float | None = None

    def __post_init__(self) -> None:
        """Refuses a GeM without its parameters, and parameters without a GeM."""
        if self.method == "gem" and not (0 < (self.p or 0) < math.inf and 0 < (self.eps or 0) < math.inf):
            raise UsageError(f"gem pooling needs finite p and eps above 0, not {self.p} and {self.eps}")
        if self.method != "gem" and (self.p, self.eps) != (None, None):
            raise UsageError(f"{self.method} pooling takes neither p nor eps; take gem pooling")


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear layer after the pooling.

    Attributes:
        in_features: Length of the vector before it.
        out_features: Length of the vector after it.
        bias: Whether a bias is added.
        activation: What follows it.
    """

    in_features: int
    out_features: int
    bias: bool
    activation: Literal["identity", "tanh", "relu", "gelu"]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a graph may be from the torch reference.

    Attributes:
        min_cosine: Smallest cosine similarity between an embedding and its reference.
        max_error: Largest absolute difference of any value, as a share of the largest absolute reference value.
        max_distance_share: Largest Euclidean distance of an embedding to its reference, as a share of the distance
            between the two closest references.
    """

    min_cosine: float
    max_error: float
    max_distance_share: float

    def __post_init__(self) -> None:
        """Refuses bounds that nothing or everything would meet."""
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value <= 1:
                raise UsageError(f"the tolerance {name} is {value}, it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The graph against torch on real inputs, as measured at export.

    Attributes:
        provider: Execution provider that ran the graph.
        items: Number of different inputs.
        batch_sizes: Batch sizes at which all of them were embedded.
        min_cosine: Smallest cosine similarity to torch, over all batch sizes.
        max_abs_error: Largest absolute difference to torch.
        reference_scale: Largest absolute value that torch gave.
        max_batch_error: Largest absolute difference between a row embedded alone and the same row in a batch.
        max_row_error: Largest Euclidean distance of an embedding to its reference.
        min_distance: Smallest Euclidean distance between torch's embeddings of two different inputs.
        tolerance: The bounds that these figures met.
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
    """The cosine similarities of texts to images, by the graphs against those by torch.

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
        external_data: File name of the graph's weights, where they are too large to be inside it.
        inputs: What the graph takes.
        output: What it returns: ``embedding``, ``[batch, output_dim]`` float32.
        preprocessing: What happens to an item before the graph.
        pooling: What happens inside the graph after the backbone.
        projections: What happens after the pooling, in order.
        normalized: Whether the embeddings have unit length.
        decided_by: Who chose pooling and normalisation: the files of the ``checkpoint``, the ``user`` (at least one
            of them), or the ``default`` of the backbone.
        parity: How the graph compares with torch; ``None`` only until that is measured.
        variants: Other graphs that give the same embeddings, within the floors that they state.
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
        """Returns the names of the files that the tower cannot do without."""
        tokenizer = self.preprocessing.tokenizer if isinstance(self.preprocessing, TextPreprocessing) else None
        own = tuple(name for name in (self.graph, self.external_data, tokenizer) if name)
        return own + tuple(name for variant in self.variants.values() for name in variant.files())


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the weights came from.

    Attributes:
        origin: ``pretrained``, ``random`` or ``file``.
        description: The same for a person, such as ``torchvision resnet50`` or ``random, seed 0``.
        revision: The publisher's name of this version of the weights, or ``None``.
        file: Name of the checkpoint file, or ``None`` when random.
        seed: Seed of random weights, else ``None``.
        sha256: Hash of the checkpoint file; of the values themselves when random.
        published: Whether that hash is the one that the weights' publisher states; ``None`` where none is stated.
        licence: The publisher's terms, or ``None`` where we cannot know them.
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
    """What made the graph.

    Attributes:
        opset: ONNX operator set of the graphs.
        packages: Versions of the packages that took part.
    """

    opset: int
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file as it was written.

    Attributes:
        sha256: Hash of its bytes, in hexadecimal.
        size_bytes: Its length.
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole record of one artifact.

    Attributes:
        schema_version: :data:`SCHEMA_VERSION` at the time of writing.
        name: What the artifact is called.
        backbone: The entry of the catalogue by which it was exported; for a network of your own, what you call that.
        task: What its vectors are for.
        architecture: Its family.
        output_dim: Length of an embedding.
        towers: Each graph by the kind of item that it embeds.
        similarity: How similarities between texts and images compare with torch's; ``None`` without both towers.
        weights: Where the weights came from.
        provenance: What made the graph.
        files: Every other file of the artifact by its name.
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
        """Refuses what is well-formed and still cannot be."""
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
                raise ManifestError(f"the {name} tower's inputs are not what its preprocessing gives")
            strange = sorted(tower.variants.keys() - {*VARIANT_NAMES[1:]})
            if strange:
                raise ManifestError(f"the {name} tower has variants {strange}, known are {VARIANT_NAMES[1:]}")
            if tower.output.shape != ("batch", self.output_dim):
                raise ManifestError(f"the {name} tower's output {tower.output.shape} has not {self.output_dim} columns")

    def to_json(self) -> str:
        """Returns the manifest as the text of ``manifest.json``, sealed with a hash of its own."""
        return json.dumps(dataclasses.asdict(self) | {SEAL: self.sha256}, indent=2) + "\n"

    @property
    def sha256(self) -> str:
        """Hash of this record. ``manifest.json`` carries it, and other files name the artifact by it."""
        return seal(dataclasses.asdict(self))


def seal(document: object) -> str:
    """Returns the hash that a manifest's document carries of itself, computed without it."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _check_inside(name: str) -> None:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if not name or posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise ManifestError(f"the path {name!r:.80} leaves the artifact's folder")
    if not name.isprintable():  # lone surrogates too, which no file system takes
        raise ManifestError(f"the path {name!r:.80} is not a file's name")
