"""Artifacts without torch that have what layouts need: token features, layers after a pooling, two towers, int8."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.artifact_writer import record_files
from exporters.publish.proof import run_graph
from runtime.array_types import Array
from runtime.artifact.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    Cleaning,
    ImagePreprocessing,
    Manifest,
    PointCloudPreprocessing,
    Pooling,
    Preprocessing,
    Provenance,
    TensorSpec,
    TextPreprocessing,
    Tower,
    TowerName,
    Weights,
)
from runtime.artifact.reader import read_manifest, record_file
from runtime.artifact.variants import Floors, Precision, Variant, VariantName, VariantParity
from runtime.inference.tower import build_preprocessor
from tests.runtime.spaces import UNNAMED
from tests.runtime.toy_artifact import PARITY, WORDS, write_tokenizer

WIDTH, DIM, SIDE = 6, 4, 8
TEXTS = ("a b c d a b c d a b c d", "c")  # the first is longer than the limit
_RANDOM = np.random.default_rng(3)
_TABLE = _RANDOM.normal(size=(len(WORDS), WIDTH)).astype(np.float32)
_MIX = _RANDOM.normal(size=(WIDTH, WIDTH)).astype(np.float32)
_DENSE = _RANDOM.normal(size=(DIM, WIDTH)).astype(np.float32)
_BIAS = _RANDOM.normal(size=DIM).astype(np.float32)
_PIXELS = _RANDOM.normal(size=(3 * SIDE * SIDE, DIM)).astype(np.float32)
_FLOORS = Floors(min_cosine=0.99, min_overlap=0.1, min_invariance=0.99)
_VARIANT_PARITY = VariantParity(
    provider="cpu",
    items=2,
    min_cosine=1,
    p1_cosine=1,
    mean_cosine=1,
    max_abs_error=0,
    reference_scale=1,
    neighbour_overlap=1,
    batch_cosine=1,
    thread_cosine=1,
    floors=_FLOORS,
)


def write_text_artifact(folder: Path, *, pooling: Pooling | None = None, int8: bool = False, **text: Any) -> Path:
    """Write an artifact whose text graph pools token features, projects them by a Dense, and scales to unit length."""
    folder.mkdir()
    write_tokenizer(folder / "tokenizer.json")
    recipe = TextPreprocessing(**{"max_length": 8, "pad_token_id": 0} | text)
    tower = _text_tower(folder, recipe, pooling or Pooling(method="mean"), int8=int8)
    return _finish(folder, {"text": (tower, TEXTS)}, architecture="bert", task="text-to-text")


def add_variant(folder: Path, name: VariantName, *towers: TowerName, cpu_features: tuple[str, ...] = ()) -> None:
    """Add a variant to towers: their own graph under another name."""
    manifest = read_manifest(folder)
    changed = dict(manifest.towers)
    for kind in towers:
        tower, graph = manifest.towers[kind], f"{kind}.{name}.onnx"
        shutil.copy(folder / tower.graph, folder / graph)
        precision: Precision = "fp32" if name == "optimized" else name
        variant = Variant(
            precision=precision,
            level="extended",
            graph=graph,
            providers=("cpu", "openvino"),
            cpu_features=cpu_features,
            onnxruntime="1",
            parity=_VARIANT_PARITY,
        )
        changed[kind] = replace(tower, variants=tower.variants | {name: variant})
    (folder / MANIFEST_FILE).unlink()
    changed_manifest = replace(manifest, towers=changed, files=record_files(folder))
    (folder / MANIFEST_FILE).write_text(changed_manifest.to_json(), "utf-8")


def write_clip_artifact(
    folder: Path, *, cleaning: Cleaning = "none", truncation_side: Any = "right", **image: Any
) -> Path:
    """Write an artifact with a text tower that reads its last token, and an image tower."""
    folder.mkdir()
    write_tokenizer(folder / "tokenizer.json")
    recipe = TextPreprocessing(cleaning=cleaning, max_length=8, pad_token_id=0, truncation_side=truncation_side)
    text = _text_tower(folder, recipe, Pooling(method="lasttoken"), int8=False)
    photos = [np.asarray(_RANDOM.integers(0, 256, (11, 16, 3)), np.uint8) for _ in range(2)]
    towers: dict[TowerName, tuple[Tower, Sequence[Any]]] = {
        "text": (replace(text, pooling=Pooling(method="model")), TEXTS),
        "image": (_image_tower(folder, **image), photos),
    }
    return _finish(folder, towers, architecture="clip", task="text-to-image")


def write_image_artifact(folder: Path, **image: Any) -> Path:
    """Write an artifact with an image tower alone."""
    folder.mkdir()
    photos = [np.asarray(_RANDOM.integers(0, 256, (11, 16, 3)), np.uint8) for _ in range(2)]
    return _finish(
        folder, {"image": (_image_tower(folder, **image), photos)}, architecture="cnn", task="image-to-image"
    )


def write_mesh_artifact(folder: Path) -> Path:
    """Write an artifact that embeds point clouds."""
    folder.mkdir()
    recipe = PointCloudPreprocessing(num_points=8, seed=0, min_points=2)
    nodes = [
        helper.make_node("ReduceMax", ["points", "axes"], ["largest"], keepdims=0),
        helper.make_node("MatMul", ["largest", "weight"], ["embedding"]),
    ]
    constants = {"axes": np.array([1]), "weight": _DENSE[:, :3].T.copy()}
    clouds = [np.asarray(_RANDOM.normal(size=(9, 3)), np.float32) for _ in range(2)]
    return _finish(
        folder,
        {"mesh": (_write_tower(folder, recipe, nodes, constants, Pooling(method="max")), clouds)},
        architecture="pointnet",
        task="mesh-to-mesh",
    )


def damage(folder: Path, tower: TowerName = "text", change: Callable[[Array], Array] = np.flipud) -> None:
    """Change the golden vectors of an artifact, and record the new file: no graph gives them any more."""
    with np.load(folder / GOLDEN_FILE) as arrays:
        golden = dict(arrays)
    golden[f"{tower}_embedding"] = change(golden[f"{tower}_embedding"])
    np.savez(folder / GOLDEN_FILE, **golden)
    manifest = read_manifest(folder)
    files = manifest.files | {GOLDEN_FILE: record_file(folder / GOLDEN_FILE)}
    (folder / "manifest.json").write_text(replace(manifest, files=files).to_json(), "utf-8")


def _text_tower(folder: Path, recipe: TextPreprocessing, pooling: Pooling, *, int8: bool) -> Tower:
    constants: dict[str, Array] = {
        "table": _TABLE,
        "mix": _MIX,
        "dense": _DENSE,
        "bias": _BIAS,
        "last": np.array([-1]),
        "one": np.array([1]),
        "zero": np.array(0),
        "tiny": np.array(1e-12, np.float32),
        "first": np.array(0),
        "axis": np.array(1),
    }
    hidden = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "mix"], ["mixed"]),
        helper.make_node("CumSum", ["mixed", "axis"], ["summed"]),  # a token sees those before it
        helper.make_node("Tanh", ["summed"], ["hidden"]),
    ]
    after = [
        helper.make_node("Gemm", ["pooled", "dense", "bias"], ["projected"], transB=1),
        helper.make_node("Tanh", ["projected"], ["activated"]),
        helper.make_node("ReduceL2", ["activated", "last"], ["norm"], keepdims=1),
        helper.make_node("Max", ["norm", "tiny"], ["length"]),
        helper.make_node("Div", ["activated", "length"], ["embedding"]),
    ]
    nodes = [*hidden, *_pooling_nodes(pooling.method, recipe), *after]
    tower = _write_tower(folder, recipe, nodes, constants, pooling, normalized=True)
    tower = replace(tower, layers=(f"Pooling: {pooling.method}", f"Dense: {WIDTH} to {DIM}, Tanh", "Normalize"))
    return replace(tower, variants={"int8": _write_int8(folder, tower)}) if int8 else tower


def _pooling_nodes(method: str, recipe: TextPreprocessing) -> list[onnx.NodeProto]:
    mask = "pooling_mask" if "pooling_mask" in recipe.inputs else "attention_mask"
    if method == "cls":
        return [helper.make_node("Gather", ["hidden", "first"], ["pooled"], axis=1)]
    if method == "lasttoken":
        return [
            helper.make_node("ReduceSum", [mask, "one"], ["count"], keepdims=1),
            helper.make_node("Sub", ["count", "one"], ["position"]),
            helper.make_node("Unsqueeze", ["position", "last"], ["index"]),
            helper.make_node("Shape", ["hidden"], ["shape"], start=2),
            helper.make_node("Concat", ["one", "one", "shape"], ["widths"], axis=0),
            helper.make_node("Expand", ["index", "widths"], ["indices"]),
            helper.make_node("GatherElements", ["hidden", "indices"], ["taken"], axis=1),
            helper.make_node("Squeeze", ["taken", "one"], ["pooled"]),
        ]
    return [
        helper.make_node("Unsqueeze", [mask, "last"], ["column"]),
        helper.make_node("Cast", ["column"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["hidden", "weights"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "one"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["pooled"]),
    ]


def _image_tower(folder: Path, **fields: Any) -> Tower:
    sides: dict[str, Any] = {"resize_size": SIDE, "crop_size": SIDE, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    recipe = ImagePreprocessing(**sides | {"interpolation": "bicubic", "arithmetic": "graph"} | fields)
    constants = {
        "scale": np.array(255, np.float32),
        "mean": np.array(recipe.mean, np.float32)[:, None, None],
        "std": np.array(recipe.std, np.float32)[:, None, None],
        "weight": _PIXELS,
        "row": np.array([-1]),
    }
    normalise = [
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["pixel_values"]),
    ]
    network = [
        helper.make_node("Shape", [recipe.graph_inputs()[0].name], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "row"], ["shape"], axis=0),
        helper.make_node("Reshape", ["pixel_values", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    nodes = [*(normalise if recipe.arithmetic == "graph" else []), *network]
    return _write_tower(folder, recipe, nodes, constants, Pooling(method="avg"))


def _write_tower(
    folder: Path,
    recipe: Preprocessing,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Array],
    pooling: Pooling,
    *,
    normalized: bool = False,
) -> Tower:
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
    types = {"int64": TensorProto.INT64, "uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in recipe.graph_inputs()]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])
    graph = helper.make_graph(nodes, "toy", inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{recipe.kind}.onnx")
    return Tower(
        graph=f"{recipe.kind}.onnx",
        inputs=recipe.graph_inputs(),
        output=TensorSpec(name="embedding", dtype="float32", shape=("batch", DIM)),
        preprocessing=recipe,
        pooling=pooling,
        normalized=normalized,
        decided_by="checkpoint",
        parity=PARITY,
    )


def _write_int8(folder: Path, tower: Tower) -> Variant:
    """Write a copy of the text graph with one weight of 8 bits."""
    model = onnx.load(folder / tower.graph)
    scale = np.float32(np.abs(_MIX).max() / 127)
    replaced = {"mix": np.round(_MIX / scale).astype(np.int8), "mix/scale": scale}
    kept = [each for each in model.graph.initializer if each.name != "mix"]
    del model.graph.initializer[:]
    new = [
        numpy_helper.from_array(np.asarray(array), f"{name}/int8" if name == "mix" else name)
        for name, array in replaced.items()
    ]
    model.graph.initializer.extend([*kept, *new])
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["mix/int8", "mix/scale"], ["mix"]))
    onnx.save(model, folder / "text.int8.onnx")
    return Variant(
        precision="int8",
        level="none",
        graph="text.int8.onnx",
        providers=("cpu", "openvino"),
        onnxruntime="1",
        parity=_VARIANT_PARITY,
    )


def _finish(
    folder: Path, towers: Mapping[TowerName, tuple[Tower, Sequence[Any]]], *, architecture: str, task: Any
) -> Path:
    golden: dict[str, Any] = {}
    for name, (tower, items) in towers.items():
        preprocessor = build_preprocessor(tower.preprocessing, folder, 1)
        rows = preprocessor.prepare_all(items)
        golden |= {f"{name}_{index}": np.asarray(item) for index, item in enumerate(items)}
        golden[f"{name}_embedding"] = run_graph(folder / tower.graph, preprocessor.collate(rows))[0]
    np.savez(folder / GOLDEN_FILE, **golden)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="toy",
        backbone="toy",
        task=task,
        architecture=architecture,
        output_dim=DIM,
        towers={name: tower for name, (tower, _) in towers.items()},
        weights=Weights(origin="random", description="random, seed 0", seed=0, sha256="0" * 64),
        space=UNNAMED,
        provenance=Provenance(opset=18, packages={}),
        files={path.name: record_file(path) for path in folder.iterdir()},
    )
    (folder / "manifest.json").write_text(manifest.to_json(), "utf-8")
    return folder
