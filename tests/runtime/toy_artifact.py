"""Write artifacts without torch whose vectors tell what the graph was fed with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from runtime.array_types import Array
from runtime.artifact.manifest import (
    GOLDEN_FILE,
    SCHEMA_VERSION,
    FileRecord,
    ImagePreprocessing,
    Manifest,
    PointCloudPreprocessing,
    Pooling,
    Preprocessing,
    Provenance,
    Task,
    TensorSpec,
    TextPreprocessing,
    Tower,
    TowerName,
    Weights,
)
from runtime.artifact.parity import Parity, Tolerance
from runtime.preprocess.point_cloud import PointCloudPreprocessor
from runtime.preprocess.text import TextPreprocessor
from tests.runtime.spaces import UNNAMED, with_name

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "query", ":", "passage")  # an id is a position here
PARITY = Parity(
    provider="cpu",
    items=2,
    batch_sizes=(1, 8),
    min_cosine=1.0,
    max_abs_error=1e-7,
    reference_scale=1.0,
    max_batch_error=0.0,
    max_row_error=0.0,
    min_distance=1.0,
    tolerance=Tolerance(min_cosine=0.9999, max_error=1e-3, max_distance_share=1e-2),
)
ALL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pooling_mask")
_ELEMENT_TYPES = {"int64": TensorProto.INT64, "uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def write_tokenizer(path: Path) -> None:
    """Write a tokenizer of :data:`WORDS`. Type ids are 1 from the second token on."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=WORDS[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(path))


def write_artifact(folder: Path, *, image: bool = False, **text: Any) -> Path:
    """Write an artifact whose vectors are the sums of each input of the text graph, in their order.

    Args:
        folder: The folder to write, which must not exist.
        image: Whether there is also an image tower, whose vectors are the mean of the pixels, repeated.
        text: Fields of the :class:`TextPreprocessing`.
    """
    folder.mkdir()
    write_tokenizer(folder / "tokenizer.json")
    fields: dict[str, Any] = {"max_length": 8, "pad_token_id": 0, "inputs": ALL_INPUTS}
    recipe = TextPreprocessing(**fields | text)
    dim = len(recipe.inputs)
    towers: dict[TowerName, Tower] = {"text": _write_tower(folder, recipe, dim)}
    if image:
        sides: dict[str, Any] = {"resize_size": 4, "crop_size": 4, "mean": (0, 0, 0), "std": (1, 1, 1)}
        pixels = ImagePreprocessing(**sides, interpolation="bilinear", arithmetic="graph")
        towers["image"] = _write_tower(folder, pixels, dim)
    golden: dict[str, Any] = {
        "text_0": np.array("a b"),
        "text_1": np.array("c"),
        "text_embedding": _embed(folder, recipe, ["a b", "c"]),
    }
    if image:
        golden |= {f"image_{index}": np.full((4, 4, 3), 7, np.uint8) for index in range(2)}
        golden |= {"image_embedding": np.full((2, dim), 7, np.float32)}
    return _write_rest(folder, "text-to-image" if image else "text-to-text", towers, golden, dim)


def write_mesh_artifact(folder: Path) -> Path:
    """Write an artifact of meshes whose vectors are the largest coordinates."""
    folder.mkdir()
    recipe, dim = PointCloudPreprocessing(num_points=64, min_points=2, seed=0), 3
    clouds = [np.array([[0, 0, 0], [1, 2, 3], [4, 0, far]], np.float32) for far in (1, 9)]
    golden: dict[str, Any] = {f"mesh_{index}": cloud for index, cloud in enumerate(clouds)}
    golden["mesh_embedding"] = np.stack([PointCloudPreprocessor(recipe).prepare(cloud).max(0) for cloud in clouds])
    return _write_rest(folder, "mesh-to-mesh", {"mesh": _write_tower(folder, recipe, dim)}, golden, dim)


def _write_rest(folder: Path, task: Task, towers: dict[TowerName, Tower], golden: dict[str, Any], dim: int) -> Path:
    np.savez(folder / GOLDEN_FILE, **golden)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="toy",
        backbone="toy",
        task=task,
        architecture="toy",
        output_dim=dim,
        towers=towers,
        weights=Weights(origin="random", description="random, seed 0", seed=0, sha256="0" * 64),
        space=UNNAMED,
        provenance=Provenance(opset=18, packages={}),
        files={path.name: _record(path) for path in folder.iterdir()},
    )
    (folder / "manifest.json").write_text(with_name(manifest).to_json(), "utf-8")
    return folder


def _embed(folder: Path, recipe: TextPreprocessing, texts: list[str]) -> Array:
    preprocessor = TextPreprocessor(recipe, folder)
    inputs = preprocessor.collate([preprocessor.prepare(text) for text in texts])
    return np.stack([array.sum(axis=1) for array in inputs.values()], axis=1).astype(np.float32)


def _write_tower(folder: Path, recipe: Preprocessing, dim: int) -> Tower:
    inputs, output = recipe.graph_inputs(), TensorSpec(name="embedding", dtype="float32", shape=("batch", dim))
    nodes = [helper.make_node("Cast", [each.name], [f"{each.name}_float"], to=TensorProto.FLOAT) for each in inputs]
    names = [f"{each.name}_float" for each in inputs]
    if recipe.kind == "text":
        nodes += [helper.make_node("ReduceSum", [name, "axes"], [f"{name}_sum"], keepdims=1) for name in names]
        nodes.append(helper.make_node("Concat", [f"{name}_sum" for name in names], ["embedding"], axis=1))
        constants = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])]
    elif recipe.kind == "mesh":
        nodes.append(helper.make_node("ReduceMax", [names[0], "axes"], ["embedding"], keepdims=0))
        constants = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])]
    else:
        nodes.append(helper.make_node("ReduceMean", [names[0], "axes"], ["mean"], keepdims=1))
        nodes.append(helper.make_node("Reshape", ["mean", "column"], ["mean_column"]))
        nodes.append(helper.make_node("Tile", ["mean_column", "repeats"], ["embedding"]))
        constants = [
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
            for name, values in (("axes", [1, 2, 3]), ("column", [-1, 1]), ("repeats", [1, dim]))
        ]
    graph = helper.make_graph(nodes, "toy", [*map(_value_info, inputs)], [_value_info(output)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / f"{recipe.kind}.onnx")
    return Tower(
        graph=f"{recipe.kind}.onnx",
        inputs=inputs,
        output=output,
        preprocessing=recipe,
        pooling=Pooling(method="mean"),
        normalized=False,
        decided_by="checkpoint",
        parity=PARITY,
    )


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _ELEMENT_TYPES[spec.dtype], spec.shape)


def _record(path: Path) -> FileRecord:
    data = path.read_bytes()
    return FileRecord(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
