"""OpenVINO's own files: sentence-transformers 6, and OpenVINO Model Server."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from exporters.errors import PublishError
from exporters.publish.differences import text_differences
from exporters.publish.graph import save_graph
from exporters.publish.huggingface import sentence_graph
from exporters.publish.layout import Card, Held, Layout
from exporters.publish.proof import golden_texts, hold, tokenize
from exporters.publish.sentence_chain import apply_chain, read_chain
from exporters.publish.sentence_files import sentence_obstacle, write_sentence_files
from exporters.publish.source import Source
from runtime.artifact.variants import VariantName
from runtime.errors import needs_extra, one_line

_FILES: dict[VariantName, str] = {"fp32": "openvino_model", "int8": "openvino_model_qint8_quantized"}
_TOKENIZER = "openvino/openvino_tokenizer.xml"
_USAGE = """\
```python
from sentence_transformers import SentenceTransformer  # version 6, with optimum-intel

float32 = {{"INFERENCE_PRECISION_HINT": "f32"}}
model = SentenceTransformer("path/to/this/folder", backend="openvino", model_kwargs={{{file_name}"ov_config": float32}})
vectors = model.encode(["a text", "another one"])
```

```python
import openvino
import openvino_tokenizers  # it makes OpenVINO read the tokenizer

core = openvino.Core()
tokenizer = core.compile_model("path/to/this/folder/openvino/openvino_tokenizer.xml", "CPU")
model = core.compile_model("path/to/this/folder/{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
inputs = tokenizer(["a text", "another one"])
names = {{name for each in model.inputs for name in each.names}}
feeds = {{each.any_name: value for each, value in inputs.items() if each.any_name in names}}
vectors = model(feeds)["sentence_embedding"]
```

Without `INFERENCE_PRECISION_HINT`, OpenVINO computes in bfloat16 where it can: less exact, not always faster."""


def write(source: Source, folder: Path) -> Card:
    """Write the layout; see :class:`exporters.publish.layout.Layout`."""
    _import()
    chosen = source.choose("text", [each for each in _FILES if each == "fp32" or _reads(source, each)])
    model, hidden = sentence_graph(source, "fp32")
    write_sentence_files(source, folder, read_chain(source, model, hidden.tensor, hidden.width), hidden.width)
    (folder / "openvino").mkdir()
    try:
        _convert_tokenizer(folder)
        held = [_convert(source, variant, folder) for variant in chosen]
    except RuntimeError as exc:  # OpenVINO's errors have no class of their own
        raise PublishError(f"OpenVINO cannot convert the model ({one_line(exc)})") from exc
    return Card(
        usage=_describe_usage(chosen[0]),
        held=held,
        differences=text_differences(source, "strips", "no prompt"),
        metadata={"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"},
    )


def _describe_usage(variant: VariantName) -> str:
    file = f"openvino/{_FILES[variant]}.xml"
    return _USAGE.format(file=file, file_name="" if variant == "fp32" else f'"file_name": "{file}", ')


def _import() -> Any:
    with needs_extra("publish-openvino", "the layout openvino"):
        import openvino
        import openvino_tokenizers  # noqa: F401
        import transformers  # noqa: F401
    return openvino


def _reads(source: Source, variant: VariantName) -> bool:
    variants = source.manifest.towers["text"].variants
    return variant in variants and "openvino" in variants[variant].providers


def _convert(source: Source, variant: VariantName, folder: Path) -> Held:
    openvino = _import()
    file = f"openvino/{_FILES[variant]}.xml"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        graph = Path(place, "model.onnx")
        save_graph(sentence_graph(source, variant)[0], graph)
        openvino.save_model(openvino.convert_model(graph), folder / file, compress_to_fp16=False)
    texts = golden_texts(source)
    tokens, vectors, mask = _embed(folder, file, texts)
    if not np.array_equal(mask, tokenize(folder, texts)["attention_mask"]):
        raise PublishError(f"{_TOKENIZER} does not give the tokens of tokenizer.json")
    pooled = apply_chain(folder, tokens, mask)[:, : source.manifest.output_dim]
    hold(source, "text", variant, pooled, file=f"{file} with modules.json")
    return hold(source, "text", variant, vectors, file=file)


def _embed(folder: Path, file: str, texts: list[str]) -> tuple[Any, Any, Any]:
    """Return the token features, the vectors and the mask of texts, by the written files alone."""
    core = _import().Core()
    tokenizer = core.compile_model(folder / _TOKENIZER, "CPU")
    model = core.compile_model(folder / file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = {each.any_name: value for each, value in tokenizer(texts).items()}
    names = {name for each in model.inputs for name in each.names}
    outputs = model({name: value for name, value in inputs.items() if name in names})
    return outputs["last_hidden_state"], outputs["sentence_embedding"], inputs["attention_mask"]


def _convert_tokenizer(folder: Path) -> None:
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    _import().save_model(convert_tokenizer(tokenizer, truncation=True), folder / _TOKENIZER)


LAYOUT = Layout(
    name="openvino",
    consumers="sentence-transformers 6, OpenVINO Model Server",
    find_obstacle=sentence_obstacle,
    write=write,
    takes_token_types=True,
)
