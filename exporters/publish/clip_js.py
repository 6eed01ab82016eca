"""The two towers of a CLIP for transformers.js."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporters.publish.differences import text_differences
from exporters.publish.graph import image_graph, save_graph, text_graph
from exporters.publish.json_file import write_json
from exporters.publish.layout import JS_DTYPES, Card, Layout, image_obstacle, prompt_obstacle, text_obstacle
from exporters.publish.preprocessor_config import EXIF, alpha_differences, crop_difference, write_preprocessor
from exporters.publish.proof import golden_pixel_values, golden_texts, hold, run_graph, tokenize
from exporters.publish.source import Source
from exporters.publish.tokenizer_files import write_tokenizer
from runtime.artifact.variants import VariantName

_SUFFIXES: Mapping[VariantName, str] = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
_USAGE = """\
```js
import {{
  AutoProcessor, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, RawImage, env,
}} from "@huggingface/transformers";

env.allowRemoteModels = false;
env.allowLocalModels = true; // for browsers
env.localModelPath = "path/to/the/parent/folder/";
const tokenizer = await AutoTokenizer.from_pretrained("this-folder");
const textModel = await CLIPTextModelWithProjection.from_pretrained("this-folder", {{ dtype: "{text}" }});
const {{ text_embeds }} = await textModel(tokenizer(["a photo of a cat"], {{ padding: true, truncation: true }}));

const processor = await AutoProcessor.from_pretrained("this-folder");
const visionModel = await CLIPVisionModelWithProjection.from_pretrained("this-folder", {{ dtype: "{image}" }});
const {{ image_embeds }} = await visionModel(await processor(await RawImage.read("a.jpg")));
```"""
_RESIZE = (
    "transformers.js resizes photos with the library of its platform (sharp in Node, a canvas in browsers), and not "
    "with Pillow. In Node, the smallest cosine similarity on six photos was 0.990 for a small CLIP of random weights. "
    "Give it `pixel_values` that you have made yourself where that matters."
)


def write(source: Source, folder: Path) -> Card:
    """Write the layout; see :class:`exporters.publish.layout.Layout`."""
    (folder / "onnx").mkdir()
    write_tokenizer(source, folder)
    write_preprocessor(source, folder)
    write_json(folder / "config.json", {"model_type": "clip", "projection_dim": source.manifest.output_dim})
    chosen = {tower: source.choose(tower, _SUFFIXES) for tower in ("text", "image")}
    usage = _USAGE.format(**{tower: JS_DTYPES[variants[0]] for tower, variants in chosen.items()})
    card = Card(usage=usage, metadata={"library_name": "transformers.js", "pipeline_tag": "feature-extraction"})
    texts, pixels = tokenize(folder, golden_texts(source)), {"pixel_values": golden_pixel_values(source)}
    for variant in chosen["text"]:
        file = f"onnx/text_model{_SUFFIXES[variant]}.onnx"
        save_graph(text_graph(source, variant, "text_embeds"), folder / file)
        card.held.append(hold(source, "text", variant, run_graph(folder / file, texts)[0], file=file))
    for variant in chosen["image"]:
        file = f"onnx/vision_model{_SUFFIXES[variant]}.onnx"
        save_graph(image_graph(source, variant, "pixel_values", "image_embeds"), folder / file)
        card.held.append(hold(source, "image", variant, run_graph(folder / file, pixels)[0], file=file))
    card.differences = [
        *text_differences(source, "cuts end token", "no cleaning", "no prompt"),
        *crop_difference(source, folder / card.held[-1].file, "pixel_values"),
        *alpha_differences(source),
        _RESIZE,
        EXIF,
    ]
    return card


def towers_obstacle(source: Source) -> str | None:
    """Return why the artifact is no CLIP that consumers can have, or ``None``."""
    return text_obstacle(source) or prompt_obstacle(source) or image_obstacle(source)


LAYOUT = Layout(name="clip-js", consumers="transformers.js, for a CLIP", find_obstacle=towers_obstacle, write=write)
