"""Transforms that the runtime has no equal of are refused, also where no photo of a comparison shows it."""

from __future__ import annotations

import pytest
from torchvision import transforms

from exporters.errors import WeightsError
from exporters.families.vision.transforms import read_transforms


def test_a_limit_of_the_long_side_is_refused() -> None:
    def compose(max_size: int | None) -> transforms.Compose:
        normalize = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        resize = transforms.Resize(64, max_size=max_size)
        return transforms.Compose([resize, transforms.CenterCrop(64), transforms.ToTensor(), normalize])

    assert read_transforms(compose(None), "graph").resize_size == 64
    with pytest.raises(WeightsError, match=r"max_size=1000.*limits the long side.*--preprocessing"):
        read_transforms(compose(1000), "graph")
