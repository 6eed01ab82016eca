"""An image encoder for fastembed."""

from __future__ import annotations

from pathlib import Path

from exporters.publish.graph import image_graph, save_graph
from exporters.publish.layout import Card, Layout, image_obstacle
from exporters.publish.preprocessor_config import EXIF, alpha_differences, crop_difference, write_preprocessor
from exporters.publish.proof import golden_pixel_values, hold, run_graph
from exporters.publish.source import Source

_FILE = "model.onnx"
_USAGE = """\
fastembed has no public way to add an image model. Its list of models is a list:

```python
from fastembed import ImageEmbedding
from fastembed.common.model_description import DenseModelDescription, ModelSource
from fastembed.image.onnx_embedding import supported_onnx_models

supported_onnx_models.append(
    DenseModelDescription(
        model="mine/{name}", dim={dim}, model_file="model.onnx", sources=ModelSource(hf="mine/{name}"),
        description="", license="", size_in_GB=0.0,
    )
)
model = ImageEmbedding("mine/{name}", specific_model_path="path/to/this/folder")
vectors = list(model.embed(["a.jpg", "b.jpg"]))
```"""


def write(source: Source, folder: Path) -> Card:
    """Write the layout; see :class:`exporters.publish.layout.Layout`."""
    variant = source.choose_one("image")
    write_preprocessor(source, folder)
    save_graph(image_graph(source, variant, "pixel_values", "image_embeds"), folder / _FILE)
    (vectors,) = run_graph(folder / _FILE, {"pixel_values": golden_pixel_values(source)})
    differences = [*crop_difference(source, folder / _FILE, "pixel_values"), *alpha_differences(source), EXIF]
    if not source.manifest.towers["image"].normalized:
        differences.insert(0, "fastembed scales vectors to unit length; the runtime does not for this model.")
    return Card(
        usage=_USAGE.format(name=source.manifest.name, dim=source.manifest.output_dim),
        held=[hold(source, "image", variant, vectors, file=_FILE)],
        differences=differences,
    )


LAYOUT = Layout(
    name="fastembed", consumers="fastembed, for an image encoder", find_obstacle=image_obstacle, write=write
)
