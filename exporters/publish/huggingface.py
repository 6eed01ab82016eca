"""The layout of the Hugging Face hub: sentence-transformers 5, fastembed, transformers.js, and what builds on them."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from exporters.publish.differences import text_differences
from exporters.publish.graph import (
    add_token_output,
    add_token_types,
    rename_output,
    save_graph,
    use_attention_mask,
)
from exporters.publish.hidden_state import HiddenState, find_hidden_state
from exporters.publish.int8 import use_unsigned_weights
from exporters.publish.layout import JS_DTYPES, Card, Held, Layout
from exporters.publish.proof import golden_texts, hold, run_graph, tokenize
from exporters.publish.sentence_chain import apply_chain, read_chain
from exporters.publish.sentence_files import model_type, sentence_obstacle, write_sentence_files
from exporters.publish.source import Source
from runtime.artifact.variants import VariantName
from runtime.session.options import exact_int8

_USAGE = """\
```python
from sentence_transformers import SentenceTransformer  # version 5, with optimum-onnx

model = SentenceTransformer("path/to/this/folder", backend="onnx"{model_kwargs})
vectors = model.encode(["a text", "another one"])
```

```python
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

TextEmbedding.add_custom_model(
    model="mine/{name}", pooling=PoolingType.DISABLED, normalization=False, output_name="sentence_embedding",
    sources=ModelSource(hf="mine/{name}"), dim={dim}, model_file="{file}",
)
model = TextEmbedding("mine/{name}", specific_model_path="path/to/this/folder")
vectors = list(model.embed(["a text", "another one"]))
```

```js
import {{ AutoModel, AutoTokenizer, env }} from "@huggingface/transformers";

env.allowRemoteModels = false;
env.allowLocalModels = true; // for browsers
env.localModelPath = "path/to/the/parent/folder/";
const tokenizer = await AutoTokenizer.from_pretrained("this-folder");
const model = await AutoModel.from_pretrained("this-folder", {{ {js_options} }});
const inputs = await tokenizer(["a text", "another one"], {{ padding: true, truncation: true }});
const {{ sentence_embedding }} = await model(inputs);
```"""
_SEQUENCE_TO_SEQUENCE = ("t5", "mt5")  # which transformers.js knows with a decoder only
_LEVELS = {"none": "O1", "basic": "O1", "extended": "O2"}


def write(source: Source, folder: Path) -> Card:
    """Write the layout; see :class:`exporters.publish.layout.Layout`."""
    (folder / "onnx").mkdir()
    chosen = source.choose("text")
    card = Card(usage=_describe_usage(source, chosen[0]))
    model, hidden = sentence_graph(source, "fp32")
    write_sentence_files(source, folder, read_chain(source, model, hidden.tensor, hidden.width), hidden.width)
    for variant in chosen:
        for file, model in _graphs(source, variant):
            save_graph(model, folder / file)
            card.held.append(check(source, variant, folder, file))
    card.differences = describe_differences(source)
    card.metadata = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}
    return card


def sentence_graph(source: Source, variant: VariantName) -> tuple[ir.Model, HiddenState]:
    """Return a graph with the outputs ``last_hidden_state`` and ``sentence_embedding``, and its token features."""
    model = source.load_graph("text", variant)
    hidden = find_hidden_state(model)
    use_attention_mask(model)
    if source.token_types:
        add_token_types(model)
    rename_output(model, "sentence_embedding")
    add_token_output(model, hidden.tensor, hidden.width, "last_hidden_state")
    return model, hidden


def check(source: Source, variant: VariantName, folder: Path, file: str) -> Held:
    """Hold both outputs of a written graph to the golden vectors, the first after the written modules."""
    inputs, exact = tokenize(folder, golden_texts(source)), exact_int8() if "vnni" in file else {}
    tokens, vectors = run_graph(folder / file, inputs, config=exact)
    pooled = apply_chain(folder, tokens, inputs["attention_mask"])[:, : source.manifest.output_dim]
    hold(source, "text", variant, pooled, file=f"{file} with modules.json")
    what = f"{variant}, for CPUs with VNNI only" if "vnni" in file else variant
    return hold(source, "text", variant, vectors, file=file, what=what)


def describe_differences(source: Source) -> list[str]:
    """Return how the consumers of the hub's layout differ from the runtime."""
    found = text_differences(source, "cuts end token", "strips", "no prompt")
    if "pooling_mask" in source.text.inputs:
        found.append(
            "The model leaves the tokens of a prompt out of the pooling. Only sentence-transformers does so; "
            "`sentence_embedding` includes them."
        )
    if source.text.truncation_side == "left":
        found.append("The model keeps the end of a text that is too long; transformers.js keeps the beginning.")
    if model_type(source) in _SEQUENCE_TO_SEQUENCE:
        found.append("transformers.js loads this architecture only with a decoder, and so not from this folder.")
    return found


def _describe_usage(source: Source, variant: VariantName) -> str:
    """Return how consumers open the graph of a variant."""
    name = _file_name(source, variant)
    file = f"onnx/{name}.onnx"
    return _USAGE.format(
        name=source.manifest.name,
        dim=source.manifest.output_dim,
        file=file,
        model_kwargs="" if variant == "fp32" else f', model_kwargs={{"file_name": "{file}"}}',
        js_options=f'dtype: "{JS_DTYPES[variant]}"'
        if variant in JS_DTYPES
        else f'dtype: "fp32", model_file_name: "{name}"',
    )


def _graphs(source: Source, variant: VariantName) -> list[tuple[str, ir.Model]]:
    """Return the graphs of a variant under the names that the field gives them."""
    file, as_exported = f"onnx/{_file_name(source, variant)}.onnx", sentence_graph(source, variant)[0]
    if variant != "int8":
        return [(file, as_exported)]
    exact = as_exported.clone()
    use_unsigned_weights(exact)
    return [(file, exact), ("onnx/model_qint8_avx512_vnni.onnx", as_exported)]


def _file_name(source: Source, variant: VariantName) -> str:
    if variant == "optimized":
        return f"model_{_LEVELS[source.manifest.towers['text'].variants[variant].level]}"
    return {"fp32": "model", "int8": "model_quantized"}.get(variant, f"model_{variant}")


LAYOUT = Layout(
    name="huggingface",
    consumers="sentence-transformers 5, fastembed, transformers.js, and what builds on them",
    find_obstacle=sentence_obstacle,
    write=write,
    takes_token_types=True,
)
