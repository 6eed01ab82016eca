"""Make small valid inputs for every reader. The fuzzers mutate them."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from runtime.artifact.manifest import (
    GOLDEN_FILE,
    SCHEMA_VERSION,
    FileRecord,
    ImagePreprocessing,
    Manifest,
    PointCloudPreprocessing,
    Pooling,
    Preprocessing,
    Projection,
    Provenance,
    TensorSpec,
    TextPreprocessing,
    Tower,
    Weights,
)
from tests.image_bytes import encode
from tests.runtime.preprocess.cube import split_glb
from tests.runtime.spaces import UNNAMED

TEXTS = (
    "",
    "a photo of a cat",
    "déjà vu 漢字 👩‍👩‍👧",
    "a\0b\u200b &amp;lt; ﬁ",
    "word " * 40,
    "\ud800",
    "[CLS] [PAD] </s>",
)
_SIZE = (24, 18)
_DIM = 8
_MAX_SEED = 16_000


def image_seeds() -> dict[str, bytes]:
    """Return a small photo in every format and mode that Pillow writes, by name."""
    from exporters.samples.photos import load_photos

    Image.init()
    photo = load_photos()[0].resize(_SIZE)
    modes = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16")
    seeds = {}
    for name in sorted(Image.SAVE.keys() - {"PDF"}):
        for mode in modes:
            image = photo.convert("L").convert(mode) if mode == "I;16" else photo.convert(mode)
            encoded = _encode(image, name)
            if 0 < len(encoded) < _MAX_SEED:
                seeds[f"{name}-{mode}"] = encoded
    return seeds | _special_images(photo)


def _special_images(photo: Image.Image) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [photo.rotate(90 * turn) for turn in range(3)]
    seeds = {f"{name}-exif": _encode(photo, name, exif=exif) for name in ("JPEG", "PNG", "WEBP", "TIFF")}
    seeds |= {
        f"{name}-animated": _encode(photo, name, save_all=True, append_images=frames)
        for name in ("GIF", "PNG", "WEBP", "TIFF")
    }
    for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits", "group4"):
        image = photo.convert("1") if compression == "group4" else photo
        seeds[f"TIFF-{compression}"] = _encode(image, "TIFF", compression=compression)
    seeds["JPEG-progressive"] = _encode(photo, "JPEG", progressive=True)
    seeds["WEBP-lossless"] = _encode(photo, "WEBP", lossless=True)
    seeds["GIF-transparent"] = _encode(photo.convert("P"), "GIF", transparency=3)
    return seeds


def _encode(image: Image.Image, name: str, **options: Any) -> bytes:
    """Return the bytes of the image, or no bytes if the format does not support its mode."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow deprecates some formats
            return encode(image, name, **options)
    except (OSError, ValueError, KeyError):
        return b""


def mesh_seeds(suffix: str) -> dict[str, bytes]:
    """Return mesh files of the format ``suffix``, by name."""
    import trimesh

    if suffix == ".gltf":
        return {name: _to_gltf(data) for name, data in mesh_seeds(".glb").items()}
    box = trimesh.creation.box()
    seeds = {"box": _export(box, suffix), "ball": _export(trimesh.creation.icosphere(subdivisions=1), suffix)}
    if suffix in (".ply", ".stl"):
        name = {"file_type": "ply", "encoding": "ascii"} if suffix == ".ply" else {"file_type": "stl_ascii"}
        seeds["text"] = _to_bytes(box.export(**name))
    if suffix == ".glb":
        moved = box.copy()
        moved.apply_translation([3, 0, 0])
        scene: Any = trimesh.Scene([box, moved])
        seeds["scene"] = _to_bytes(scene.export(file_type="glb"))
        coloured = box.copy()
        coloured.visual.vertex_colors = np.full((len(box.vertices), 4), 128, np.uint8)
        seeds["coloured"] = _export(coloured, suffix)
    if suffix == ".obj":
        rows = "".join(f"v {x} {y} {z}\n" for x, y, z in box.vertices)
        seeds["quads"] = (
            f"mtllib a.mtl\no box\nvt 0 0\nvn 0 0 1\n{rows}usemtl red\nf 1 2 4 3\nf -1/1/1 -2/1/1 -3/1/1\n"
        ).encode()
    return seeds


def _to_gltf(data: bytes) -> bytes:
    """Return a GLB file as a document with its buffer inside."""
    document, binary = split_glb(data)
    document["buffers"][0]["uri"] = f"data:;base64,{base64.b64encode(binary).decode()}"
    return json.dumps(document).encode()


def _export(mesh: Any, suffix: str) -> bytes:
    return _to_bytes(mesh.export(file_type=suffix[1:]))


def _to_bytes(exported: Any) -> bytes:
    return exported.encode() if isinstance(exported, str) else bytes(exported)


def array_seeds() -> dict[str, bytes]:
    """Return bytes that :meth:`tests.fuzz.targets.Targets.array` reads as images and point clouds, by name."""
    cloud = np.random.RandomState(0).normal(size=(20, 3))
    return {
        "pixels": bytes([0, 4]) + bytes(range(240)),
        "float32": bytes([1, 1]) + cloud.astype(np.float32).tobytes(),
        "float64": bytes([2, 1]) + cloud.tobytes(),
        "tiny": bytes([2, 1]) + (cloud * 1e-160).tobytes(),
        "huge": bytes([2, 1]) + (cloud * 1e150).tobytes(),
        "half": bytes([3, 1]) + cloud.astype(np.float16).tobytes(),
    }


def documents() -> dict[str, dict[str, Any]]:
    """Return the document of a manifest of each kind, without its hash."""
    found: dict[str, dict[str, Any]] = {}
    for preprocessing in _preprocessings():
        document = json.loads(make_manifest(preprocessing).to_json())
        del document["sha256"]
        found[preprocessing.kind] = document
    return found


def make_manifest(preprocessing: Preprocessing) -> Manifest:
    """Return the manifest of an artifact with one tower."""
    kind = preprocessing.kind
    tower = Tower(
        graph=f"{kind}.onnx",
        inputs=preprocessing.graph_inputs(),
        output=TensorSpec(name="embedding", dtype="float32", shape=("batch", _DIM)),
        preprocessing=preprocessing,
        pooling=Pooling(method="gem", others=("max",), p=3.0, eps=1e-6),
        projections=(Projection(in_features=9, out_features=_DIM, bias=True, activation="tanh"),),
        layers=("Normalize",),
        normalized=True,
        decided_by="default",
    )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name="toy",
        backbone="toy",
        task="text-to-image",
        architecture="toy",
        output_dim=_DIM,
        towers={kind: tower},
        weights=Weights(origin="random", description="random, seed 0", seed=0, sha256="0" * 64),
        space=UNNAMED,
        provenance=Provenance(opset=18, packages={"torch": "2.14.1"}),
        files={name: FileRecord(sha256="0" * 64, size_bytes=1) for name in (*tower.files(), GOLDEN_FILE)},
    )


def _preprocessings() -> list[Preprocessing]:
    return [
        ImagePreprocessing(
            resize_size=36,
            crop_size=32,
            interpolation="bilinear",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            arithmetic="caller",
        ),
        TextPreprocessing(
            max_length=16,
            pad_token_id=0,
            inputs=("input_ids", "attention_mask", "token_type_ids", "pooling_mask"),
            prompts={"query": "query: ", "document": ""},
            default_prompt="query",
        ),
        PointCloudPreprocessing(num_points=64, min_points=4, seed=0),
    ]


def write_tokenizers(folder: Path) -> dict[str, int]:
    """Write a tokenizer of each model that our backbones use, and return the vocabulary sizes by file name."""
    made = {"wordpiece.json": _word_piece(), "unigram.json": _unigram(), "bytes.json": _byte_pairs()}
    for name, tokenizer in made.items():
        tokenizer.save(str(folder / name))
    return {name: tokenizer.get_vocab_size() for name, tokenizer in made.items()}


def _word_piece() -> Tokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz漢.,&;"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "word", "photo"]
    unknown = "[UNK]"
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[CLS]"])
    return tokenizer


def _unigram() -> Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz漢.,", "▁word", "ph", "oto"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(index)) for index, piece in enumerate(pieces)], 2, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def _byte_pairs() -> Tokenizer:
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [symbol + end for symbol in symbols for end in ("", "</w>")] + ["<s>", "</s>", "ph"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("p", "h")], end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", len(symbols) * 2), ("</s>", len(symbols) * 2 + 1)]
    )
    return tokenizer


def seeds_of(target: str) -> dict[str, bytes]:
    """Return the seeds of a target by name."""
    makers: dict[str, Callable[[], dict[str, bytes]]] = {
        "manifest": lambda: {
            name: make_manifest(each).to_json().encode() for each in _preprocessings() for name in (each.kind,)
        },
        "sealed": lambda: {name: json.dumps(each).encode() for name, each in documents().items()},
        "image": image_seeds,
        "text": lambda: {
            str(index): text.encode("utf-8", "surrogateescape") for index, text in enumerate(TEXTS) if text != "\ud800"
        },
        "array": array_seeds,
    }
    return makers[target]() if target in makers else mesh_seeds(f".{target}")
