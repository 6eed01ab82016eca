"""A text graph with one output: txtai, Vespa, and any program that runs ONNX."""

from __future__ import annotations

from pathlib import Path

from exporters.publish.differences import text_differences
from exporters.publish.graph import save_graph, text_graph
from exporters.publish.layout import Card, Layout, prompt_obstacle, text_obstacle
from exporters.publish.proof import golden_texts, hold, run_graph, tokenize
from exporters.publish.source import Source
from exporters.publish.tokenizer_files import write_tokenizer

FILE = "model.onnx"
_USAGE = """\
```python
from txtai import Embeddings

embeddings = Embeddings(path="path/to/this/folder/model.onnx")
vectors = embeddings.batchtransform(["a text", "another one"])
```

```xml
<component id="{name}" type="hugging-face-embedder">  <!-- Vespa's services.xml -->
  <transformer-model path="path/to/this/folder/model.onnx"/>
  <tokenizer-model path="path/to/this/folder/tokenizer.json"/>
  <max-tokens>{length}</max-tokens>
  <transformer-token-type-ids/>
  <transformer-output>sentence_embedding</transformer-output>
  <pooling-strategy>none</pooling-strategy>
  <normalize>false</normalize>
</component>
```

txtai scales vectors to unit length. The lines for Vespa were written by reading its code; nobody has run them."""


def write(source: Source, folder: Path) -> Card:
    """Write the layout; see :class:`exporters.publish.layout.Layout`."""
    variant = source.choose_one("text")
    write_tokenizer(source, folder)
    save_graph(text_graph(source, variant, "sentence_embedding"), folder / FILE)
    (vectors,) = run_graph(folder / FILE, tokenize(folder, golden_texts(source)))
    return Card(
        usage=_USAGE.format(name=source.manifest.name, length=source.text.max_length),
        held=[hold(source, "text", variant, vectors, file=FILE)],
        differences=text_differences(source, "no cleaning", "no prompt"),
    )


LAYOUT = Layout(
    name="single",
    consumers="txtai, Vespa, and any program that runs ONNX",
    find_obstacle=lambda source: text_obstacle(source) or prompt_obstacle(source),
    write=write,
    takes_token_types=True,
)
