"""Every backbone of the catalogue belongs to one family, which says what it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exporters.catalogue.names import find_model
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.errors import WeightsUnavailableError
from exporters.families.load import FAMILIES, load_towers
from runtime.errors import UsageError


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_belongs_to_one_family(name: str) -> None:
    assert sum(isinstance(BACKBONES[name].source, family.sources) for family in FAMILIES) == 1


def test_families_name_options_that_exist() -> None:
    names = frozenset[str]().union(*(family.options for family in FAMILIES))
    assert all(hasattr(ExportOptions(), name) for name in names)


def test_weights_that_are_not_published_are_refused() -> None:
    with pytest.raises(WeightsUnavailableError, match="no pretrained weights of PointNet"):
        load_towers(BACKBONES["pointnet-base"], ExportOptions())


def test_a_network_outside_the_catalogue_brings_its_towers() -> None:
    with pytest.raises(TypeError, match="pass them to export_towers"):
        load_towers(replace(BACKBONES["resnet-base"], source=None), ExportOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select_model": "clip-text"}, "--select-model is for Finetuner runs"),
        ({"tower": "text", "crop": 100}, "only the text tower is exported, and --crop is for images"),
        ({"tower": "text", "input": "float32"}, "only the text tower .*--input is for images"),
        ({"tower": "image", "max_length": 9}, "only the image tower is exported, and --max-length is for texts"),
        ({"tower": "image", "tokenizer": "."}, "only the image tower .*--tokenizer is for texts"),
    ],
)
@pytest.mark.parametrize("name", [".", "clip-base-en", "open_clip:ViT-B-32"])
def test_an_option_without_effect_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_towers(find_model(name), ExportOptions(weights="random", **options))
