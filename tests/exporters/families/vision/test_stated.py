"""Preprocessing that the user states: the runtime's pixels are those of torchvision, timm or transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from exporters.catalogue.names import find_model
from exporters.catalogue.options import ExportOptions
from exporters.cli.main import build_parser
from exporters.errors import WeightsError
from exporters.families.cnn.tower import CnnTower
from exporters.families.load import check_options
from exporters.families.vision.pixels import Preparation
from exporters.families.vision.processor import wrap_processor
from exporters.families.vision.stated import choose_preprocessing
from runtime.artifact.manifest import ImagePreprocessing
from runtime.errors import UsageError
from runtime.preprocess.image import ImagePreprocessor, pixel_values, resize_and_crop
from tests.conftest import TINY_DIM, make_tiny_cnn
from tests.exporters.families.vision.comparing import make_images
from tests.exporters.families.vision.folders import make_processor

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
OWN = ImagePreprocessing(
    resize_size=44, interpolation="bilinear", crop_size=40, mean=(0.1,) * 3, std=(0.9,) * 3, arithmetic="graph"
)
TENSOR = [ToTensor(), Normalize(MEAN, STD)]
VALUES: dict[str, Any] = {"mean": MEAN, "std": STD}
CASES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "all": (
        {"resize": "50", "crop": 48, "interpolation": "bicubic", **VALUES},
        [Resize(50, InterpolationMode.BICUBIC), CenterCrop(48), *TENSOR],
    ),
    "squash": ({"resize": "40,squash", **VALUES}, [Resize((40, 40)), CenterCrop(40), *TENSOR]),
    "a border": ({"resize": "31", "crop": 40, **VALUES}, [Resize(31), CenterCrop(40), *TENSOR]),
    **{
        name: ({"interpolation": name, **VALUES}, [Resize(44, InterpolationMode(name)), CenterCrop(40), *TENSOR])
        for name in ("nearest", "box", "hamming", "lanczos")
    },
    **{
        f"{name} without antialias": (
            {"interpolation": name, "antialias": False, **VALUES},
            [ToTensor(), Resize(44, InterpolationMode(name), antialias=False), CenterCrop(40), Normalize(MEAN, STD)],
        )
        for name in ("bilinear", "bicubic")
    },
}


def transforms_of_nobody(image: Image.Image) -> Tensor:
    raise AssertionError("the model's own transforms are not used")


def read_own() -> Preparation:
    return transforms_of_nobody, OWN


def read_nothing() -> Preparation:
    raise WeightsError("the runtime has no equal of the model's own preprocessing")


def differ(record: ImagePreprocessing, transforms: Callable[[Image.Image], Tensor]) -> float:
    images = make_images()
    ours = [pixel_values(resize_and_crop(image, record), record) for image in images]
    return max(float(np.abs(a - transforms(b).numpy()).max()) for a, b in zip(ours, images, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_options_mean_what_torchvision_does(name: str) -> None:
    settings, steps = CASES[name]
    stated, record = choose_preprocessing(ExportOptions(**settings), read_own)
    expected = Compose(steps)
    assert differ(record, expected) <= (1e-4 if record.resize_dtype == "float32" else 1e-6)
    assert all(torch.equal(stated(image), expected(image)) for image in make_images())
    row = ImagePreprocessor(record).prepare(make_images()[0])
    assert row.dtype == (np.float32 if record.resize_dtype == "float32" else np.uint8)


CONVNEXT: dict[str, Any] = {
    "size": {"shortest_edge": 40},
    "crop_pct": 0.9,
    "image_mean": list(MEAN),
    "image_std": list(STD),
}
FILES: dict[str, tuple[dict[str, Any], Callable[[Path], Callable[[Image.Image], Tensor]]]] = {
    "timm": (
        {"input_size": [3, 40, 40], "crop_pct": 0.9, "interpolation": "bicubic", "mean": MEAN, "std": STD},
        lambda _: create_transform((3, 40, 40), crop_pct=0.9, interpolation="bicubic", mean=MEAN, std=STD),
    ),
    "timm folder": (
        {"architecture": "a", "pretrained_cfg": {"input_size": [3, 40, 40], "crop_mode": "border", "crop_pct": 1.0}},
        lambda _: create_transform((3, 40, 40), crop_mode="border", crop_pct=1.0, interpolation="bicubic"),
    ),
    "transformers": (
        json.loads(SiglipImageProcessorPil(size={"height": 40, "width": 40}).to_json_string()),
        lambda _: (
            lambda image: SiglipImageProcessorPil(size={"height": 40, "width": 40})(image, return_tensors="pt")[
                "pixel_values"
            ][0]
        ),
    ),
    "transformers, with a crop_pct": (
        json.loads(ConvNextImageProcessorPil(**CONVNEXT).to_json_string()),
        lambda _: lambda image: ConvNextImageProcessorPil(**CONVNEXT)(image, return_tensors="pt")["pixel_values"][0],
    ),
    "ours": (
        {"resize": "squash", "resize_size": 41, "crop_size": 40, "interpolation": "bilinear", **VALUES},
        lambda _: Compose([Resize((41, 41)), CenterCrop(40), *TENSOR]),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_by_its_library(name: str, tmp_path: Path) -> None:
    content, expected = FILES[name]
    (tmp_path / "file.json").write_text(json.dumps(content))
    options = ExportOptions(preprocessing=tmp_path / "file.json")
    _, record = choose_preprocessing(options, read_nothing)
    assert differ(record, expected(tmp_path)) <= 1e-6


@pytest.mark.parametrize("name", ["CLIPImageProcessorPil", "SiglipImageProcessorPil", "ViTImageProcessorPil"])
def test_the_library_decides_on_transparent_images(name: str) -> None:
    image = make_images()[0]
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    transforms, record = wrap_processor(make_processor(name, {}), "caller")
    if name.startswith("ViT"):
        assert record.alpha == "drop"
        with pytest.raises(ValueError, match="4 elements"):
            transforms(image)
    else:
        assert abs(ImagePreprocessor(record).prepare(image) - transforms(image).numpy()).max() <= 1e-6


def test_a_file_that_transformers_does_not_load_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"do_resize": True, "size": 224}))
    with pytest.raises(WeightsError, match=rf"^{re.escape(str(path))} holds no image processor") as caught:
        choose_preprocessing(ExportOptions(preprocessing=path), read_nothing)
    assert "Unrecognized image processor in " + str(path) in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"include_top": False},
        {"do_normalize": False, "rescale_factor": 1 / 127.5},
        {"rescale_offset": True, "rescale_factor": 1 / 127.5},
    ],
)
def test_efficientnet_subtracts_one_and_divides_twice_by_its_deviation(settings: dict[str, Any]) -> None:
    transforms, record = wrap_processor(make_processor("EfficientNetImageProcessorPil", settings), "caller")
    assert differ(record, transforms) <= 1e-5


def test_an_unknown_treatment_of_transparent_images_is_refused() -> None:
    processor = make_processor("CLIPImageProcessorPil", {})
    convert = processor.process_image

    def put_on_grey(image: Image.Image, **settings: Any) -> Any:
        grey = Image.new("RGBA", image.size, "grey")
        return convert(Image.alpha_composite(grey, image.convert("RGBA")), **settings)

    processor.process_image = put_on_grey
    with pytest.raises(WeightsError, match="transparent images as CLIPImageProcessorPil does; state the whole"):
        wrap_processor(processor, "graph")


@pytest.mark.parametrize("crop", [39, 40])
@pytest.mark.parametrize("resample", range(6))
def test_a_processor_may_crop_more_than_the_image(crop: int, resample: int) -> None:
    sizes: dict[str, Any] = {"size": {"shortest_edge": 31}, "crop_size": {"height": crop, "width": crop}}
    processor = CLIPImageProcessorPil(**sizes, resample=resample)
    transforms, record = wrap_processor(processor, "graph")
    assert (record.resize_size, record.crop_size, record.crop_rounding) == (31, crop, "floor")
    assert differ(record, transforms) <= 1e-6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"crop": 40}, "file.json: preprocessing has unknown crop; the fields are kind, .*crop_size"),
        ({"rescale": "1/127.5"}, "preprocessing.rescale is '1/127.5' instead of '1/255'"),
        ({"antialias": "no"}, "preprocessing.antialias is 'no' instead of bool"),
        ({"kind": "text"}, "preprocessing.kind is 'text' instead of 'image'"),
        ({"arithmetic": "caller"}, "arithmetic is 'caller', and the export would give 'graph'; leave it out"),
        ({"resize": "long_side"}, "has no resize long_side"),
        ({"input_size": [3, 40, 50]}, "rectangular images of 45 x 57 pixels"),
        ([1], "does not have the expected form"),
    ],
)
def test_refuses_a_file(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(json.dumps(content))
    options = ExportOptions(preprocessing=tmp_path / "file.json")
    with pytest.raises((UsageError, WeightsError), match=message):
        choose_preprocessing(options, read_own)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": "big"}, "neither a number of pixels nor"),
        ({"crop": 0}, "crop_size 0 is not from 1"),
        ({"mean": (1, 2)}, "does not have three values"),
        ({"interpolation": "cubic"}, "is not one of bilinear"),
        ({"interpolation": "lanczos", "antialias": False}, "goes with bilinear and bicubic"),
        ({"image_size": 64, "crop": 64}, "use --resize and --crop instead"),
        ({"preprocessing": "x.json", "crop": 64}, "put the others into its file"),
    ],
)
def test_refuses_options(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_preprocessing(ExportOptions(**settings), read_own)


def test_settings_of_a_model_whose_own_cannot_be_used() -> None:
    settings: dict[str, Any] = {"resize": "50", "crop": 48, "interpolation": "bicubic", **VALUES}
    _, record = choose_preprocessing(ExportOptions(**settings), read_nothing)
    assert record == choose_preprocessing(ExportOptions(**settings), read_own)[1]
    with pytest.raises(WeightsError, match=r"lacks interpolation, resize_size, std; the .* state the whole"):
        choose_preprocessing(ExportOptions(crop=48, mean=MEAN), read_nothing)


@pytest.mark.parametrize(
    ("name", "settings"), [("CLIPImageProcessorPil", {"crop": True}), ("DINOv3ViTImageProcessor", {})]
)
def test_settings_that_are_left_out_stay_those_of_the_model(name: str, settings: dict[str, Any]) -> None:
    own, expected = (
        wrap_processor(make_processor(name, settings | changes), "graph")
        for changes in ({}, {"image_mean": MEAN, "image_std": STD})
    )
    stated, record = choose_preprocessing(ExportOptions(**VALUES), lambda: own)
    assert record == replace(expected[1], mean=MEAN, std=STD)
    assert differ(expected[1], stated) <= (1e-4 if record.resize_dtype == "float32" else 1e-6)


def test_a_filter_of_pillow_resizes_integers() -> None:
    own = wrap_processor(make_processor("DINOv3ViTImageProcessor", {}), "graph")
    stated, record = choose_preprocessing(ExportOptions(interpolation="lanczos"), lambda: own)
    assert (own[1].resize_dtype, record.resize_dtype, record.interpolation) == ("float32", "uint8", "lanczos")
    assert differ(record, stated) <= 1e-6


def test_a_network_of_the_catalogue_takes_them() -> None:
    cnn = make_tiny_cnn()
    tower = CnnTower(cnn, ExportOptions(resize="50", crop=48, **VALUES), output_dim=TINY_DIM)
    assert (tower.record.decided_by, tower.record.inputs[0].shape) == ("default", ("batch", 48, 48, 3))
    image = make_images()[0]
    with torch.inference_mode():
        network: Any = cnn.model
        features = network.features(Compose([Resize(50), CenterCrop(48), *TENSOR])(image)[None])
        assert torch.allclose(tower.embed(image).float(), features.mean((0, 2, 3)))


def test_a_family_of_texts_refuses_them() -> None:
    with pytest.raises(UsageError, match="--resize is not for bert-base-en"):
        check_options(find_model("bert-base-en"), ExportOptions(resize="40"))


def test_the_command_line_states_them() -> None:
    arguments = build_parser().parse_args(
        ["export", "a", "--resize", "40,squash", "--no-antialias", "--mean", "1", "2", "3", "--std", "1", "1", "1"]
    )
    assert (arguments.resize, arguments.antialias, arguments.mean) == ("40,squash", False, [1.0, 2.0, 3.0])


def test_the_processor_config_of_transformers_5_is_read(tmp_path: Path) -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 48, "width": 48})
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({"processor_class": "CLIPProcessor", "image_processor": processor.to_dict()}))
    _, record = choose_preprocessing(ExportOptions(preprocessing=path), read_own)
    assert (record.resize_size, record.crop_size, record.crop_rounding) == (50, 48, "floor")
