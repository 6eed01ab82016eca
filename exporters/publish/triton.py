"""A model repository for Triton Inference Server.

Texts go through an ensemble: a tokenizer in the python backend, then the graph. Images and meshes go to the graph.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from exporters.errors import PublishError
from exporters.publish import triton_tokenizer
from exporters.publish.differences import text_differences
from exporters.publish.graph import save_graph
from exporters.publish.json_file import write_json
from exporters.publish.layout import Card, Held, Layout, cleaning_obstacle, prompt_obstacle
from exporters.publish.proof import hold, run_graph
from exporters.publish.source import Source
from exporters.publish.tokenizer_files import write_tokenizer
from runtime.array_types import Array
from runtime.artifact.manifest import TensorSpec, TowerName
from runtime.inference.tower import build_preprocessor

_MAX_BATCH_SIZE = 64
_TYPES = {"int64": "TYPE_INT64", "uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
Message: TypeAlias = Mapping[str, Any]  # a protobuf message: its fields by name
_USAGE = """\
```sh
tritonserver --model-repository path/to/this/folder
```

The server's python environment needs `tokenizers` and `numpy` for texts. With Triton itself, only the tokenizer was
run; the graphs were held to the golden vectors in onnxruntime, and `config.pbtxt` follows Triton's schema."""
_EXAMPLE = """\
```python
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient("localhost:8000")
{lines}
vectors = client.infer("{name}", [given]).as_numpy("embedding")
```"""
_LINES: dict[TowerName, str] = {
    "text": 'texts = np.array([["a text"], ["another one"]], object)\n'
    'given = triton.InferInput("text", texts.shape, "BYTES")\ngiven.set_data_from_numpy(texts)',
    "image": "# pixels: [images, {side}, {side}, 3] {dtype}, resized and cropped as the runtime does\n"
    'given = triton.InferInput("{input}", pixels.shape, "{type}")\ngiven.set_data_from_numpy(pixels)',
    "mesh": "# points: [clouds, points, 3] float32, centred and scaled as the runtime does\n"
    'given = triton.InferInput("points", points.shape, "FP32")\ngiven.set_data_from_numpy(points)',
}


def write(source: Source, folder: Path) -> Card:
    """Write the layout; see :class:`exporters.publish.layout.Layout`."""
    names = {tower: _model_name(source, tower) for tower in source.manifest.towers}
    held = [_write_tower(source, tower, folder, name) for tower, name in names.items()]
    differences = text_differences(source, "no cleaning") if "text" in names else []
    examples = (_EXAMPLE.format(name=name, lines=_lines_of(source, tower)) for tower, name in names.items())
    return Card(usage="\n\n".join([_USAGE, *examples]), held=held, differences=differences)


def find_obstacle(source: Source) -> str | None:
    """Return why Triton cannot have the artifact, or ``None``."""
    return prompt_obstacle(source) or cleaning_obstacle(source) if "text" in source.manifest.towers else None


def to_pbtxt(message: Message, indent: str = "") -> str:
    """Return a message in protobuf's text format. A string that begins with ``TYPE_`` is an enum."""
    return "".join(f"{indent}{line}\n" for line in _text_lines(message))


def _text_lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _text_lines(each))
                yield "}"
            else:
                is_enum = isinstance(each, str) and each.startswith("TYPE_")
                yield f"{name}: {each if is_enum else json.dumps(each)}"


def _model_name(source: Source, tower: TowerName) -> str:
    return source.manifest.name if len(source.manifest.towers) == 1 else f"{source.manifest.name}-{tower}"


def _write_tower(source: Source, tower: TowerName, folder: Path, name: str) -> Held:
    variant = source.choose_one(tower)
    record = source.manifest.towers[tower]
    graph_name = f"{name}-graph" if tower == "text" else name
    place = _new_model(folder, graph_name, _graph_config(graph_name, record.inputs, record.output))
    save_graph(source.load_exact_graph(tower, variant), place / "model.onnx")
    items, _ = source.golden(tower)
    if tower == "text":
        inputs = _write_tokenizer(source, folder, name)(items)
    else:
        preprocessor = build_preprocessor(record.preprocessing, source.folder, 1)
        inputs = preprocessor.collate(preprocessor.prepare_all(items))
    _check_inputs(place, record.inputs, inputs)
    (vectors,) = run_graph(place / "model.onnx", inputs)
    return hold(source, tower, variant, vectors, file=f"{graph_name}/1/model.onnx")


def _new_model(folder: Path, name: str, config: Message) -> Path:
    place = folder / name / "1"
    place.mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(to_pbtxt(config), "utf-8")
    return place


def _write_tokenizer(source: Source, folder: Path, name: str) -> triton_tokenizer.TextInputs:
    """Write the tokenizer and the ensemble, and return the tokenizer with the written settings."""
    tower, recipe = source.manifest.towers["text"], source.text
    place = _new_model(folder, f"{name}-tokenizer", _tokenizer_config(f"{name}-tokenizer", tower.inputs))
    write_tokenizer(source, place)
    for unused in ("tokenizer_config.json", "special_tokens_map.json"):
        (place / unused).unlink()
    shutil.copyfile(triton_tokenizer.__file__, place / "model.py")
    settings = {
        "inputs": list(recipe.inputs),
        "prompt": recipe.default_prompt_text,
        "max_length": recipe.max_length,
        "truncation_side": recipe.truncation_side,
        "pad_token_id": recipe.pad_token_id,
        "fixed_length": recipe.padding == "max_length",
    }
    write_json(place / "settings.json", settings)
    _new_model(folder, name, _ensemble_config(name, tower.inputs, tower.output))
    return triton_tokenizer.TextInputs(place)


def _check_inputs(place: Path, specs: tuple[TensorSpec, ...], inputs: Mapping[str, Array]) -> None:
    """Check that the inputs have the names, types and dimensions of ``config.pbtxt``."""
    for spec in specs:
        array = inputs[spec.name]
        fits = all(isinstance(size, str) or size == found for size, found in zip(spec.shape, array.shape, strict=True))
        if not fits or array.dtype != np.dtype(spec.dtype):
            raise PublishError(f"{place.parent / 'config.pbtxt'} does not fit {spec.name}: {array.dtype} {array.shape}")


def _graph_config(name: str, inputs: tuple[TensorSpec, ...], output: TensorSpec) -> Message:
    return {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": _MAX_BATCH_SIZE,
        "input": [_tensor(each) for each in inputs],
        "output": [_tensor(output)],
        "dynamic_batching": {},
    }


def _tokenizer_config(name: str, inputs: tuple[TensorSpec, ...]) -> Message:
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": _MAX_BATCH_SIZE,
        "input": [_TEXT],
        "output": [_tensor(each) for each in inputs],
        "dynamic_batching": {},
    }


def _ensemble_config(name: str, inputs: tuple[TensorSpec, ...], output: TensorSpec) -> Message:
    between = [{"key": each.name, "value": each.name} for each in inputs]
    steps = [
        (f"{name}-tokenizer", [{"key": "text", "value": "text"}], between),
        (f"{name}-graph", between, [{"key": output.name, "value": output.name}]),
    ]
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": _MAX_BATCH_SIZE,
        "input": [_TEXT],
        "output": [_tensor(output)],
        "ensemble_scheduling": {
            "step": [
                {"model_name": model, "model_version": -1, "input_map": given, "output_map": made}
                for model, given, made in steps
            ]
        },
    }


_TEXT = {"name": "text", "data_type": "TYPE_STRING", "dims": [1]}


def _tensor(spec: TensorSpec) -> Message:
    dims = [-1 if isinstance(size, str) else size for size in spec.shape[1:]]
    return {"name": spec.name, "data_type": _TYPES[spec.dtype], "dims": dims}


def _lines_of(source: Source, tower: TowerName) -> str:
    (spec, *_) = source.manifest.towers[tower].inputs
    side = source.image.crop_size if tower == "image" else 0
    return _LINES[tower].format(
        side=side, dtype=spec.dtype, input=spec.name, type=_TYPES[spec.dtype].removeprefix("TYPE_")
    )


LAYOUT = Layout(name="triton", consumers="Triton Inference Server", find_obstacle=find_obstacle, write=write)
