"""A zip and its description for OpenSearch's ml-commons."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from exporters.publish.differences import text_differences
from exporters.publish.graph import add_row_axis, add_token_types, save_graph
from exporters.publish.json_file import write_json
from exporters.publish.layout import Card, Layout, prompt_obstacle, text_obstacle
from exporters.publish.proof import golden_texts, hold, run_graph, tokenize
from exporters.publish.sentence_files import model_type
from exporters.publish.source import Source
from exporters.publish.tokenizer_files import write_tokenizer
from runtime.artifact.reader import record_file

_GRAPH = "model.onnx"
_WITH_TOKEN_TYPES = ("bert", "albert")  # for which ml-commons gives three inputs, whatever the graph takes
_USAGE = """\
Serve `{name}.zip` from a web server that OpenSearch reaches, add its `url` to `ml-commons_model_config.json`, and
register the model:

```sh
curl -X POST "$OPENSEARCH/_plugins/_ml/models/_register" -H 'Content-Type: application/json' \\
  -d @ml-commons_model_config.json
```

The graph pools by itself and returns one row; `"pooling_mode": "CLS"` takes that row. These files were made by reading
ml-commons' code, and held to the golden vectors in the way that it runs them. OpenSearch itself was not run."""


def write(source: Source, folder: Path) -> Card:
    """Write the layout; see :class:`exporters.publish.layout.Layout`."""
    variant = source.choose_one("text")
    archive = folder / f"{source.manifest.name}.zip"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        model = source.load_exact_graph("text", variant)
        if _takes_token_types(source):
            add_token_types(model)
        add_row_axis(model, "sentence_embedding")
        save_graph(model, Path(place, _GRAPH))
        write_tokenizer(source, Path(place))
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(Path(place).glob("*.onnx*")):
                file.write(path, path.name)
            file.write(Path(place, "tokenizer.json"), "tokenizer.json")
    _write_config(source, archive)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        with zipfile.ZipFile(archive) as file:
            file.extractall(place)
        write_tokenizer(source, Path(place))
        (rows,) = run_graph(Path(place, _GRAPH), tokenize(Path(place), golden_texts(source)))
    return Card(
        usage=_USAGE.format(name=source.manifest.name),
        held=[hold(source, "text", variant, rows[:, 0], file=f"{archive.name}: {_GRAPH}")],
        differences=text_differences(source, "no cleaning", "no prompt"),
    )


def find_obstacle(source: Source) -> str | None:
    """Return why OpenSearch cannot have the artifact, or ``None``."""
    obstacle = text_obstacle(source) or prompt_obstacle(source)
    if obstacle is None and source.text.inputs[:2] != ("input_ids", "attention_mask"):
        return f"it gives input_ids and attention_mask, and the graph takes {', '.join(source.text.inputs)}"
    return obstacle


def _takes_token_types(source: Source) -> bool:
    return "token_type_ids" in source.text.inputs or model_type(source) in _WITH_TOKEN_TYPES


def _write_config(source: Source, archive: Path) -> None:
    record, manifest = record_file(archive), source.manifest
    write_json(
        archive.with_name("ml-commons_model_config.json"),
        {
            "name": manifest.name,
            "version": "1.0.0",
            "description": f"{manifest.backbone}, {manifest.output_dim} dimensions",
            "function_name": "TEXT_EMBEDDING",
            "model_task_type": "TEXT_EMBEDDING",
            "model_format": "ONNX",
            "model_content_size_in_bytes": record.size_bytes,
            "model_content_hash_value": record.sha256,
            "model_config": {
                "model_type": "bert" if _takes_token_types(source) else model_type(source) or "custom",
                "embedding_dimension": manifest.output_dim,
                "framework_type": "sentence_transformers",
                "pooling_mode": "CLS",
                "normalize_result": False,
            },
        },
    )


LAYOUT = Layout(name="opensearch", consumers="OpenSearch ml-commons", find_obstacle=find_obstacle, write=write)
