from __future__ import annotations

import numpy as np

from exporters.samples.photo_variations import vary_exposure


def test_images_become_dark_bright_negative_and_swapped_in_turn() -> None:
    image = np.array([[[0, 100, 255]]], np.uint8)
    varied = vary_exposure([image] * 5)
    assert [each.tolist() for each in varied] == [
        [[[0, 25, 63]]],
        [[[192, 217, 255]]],
        [[[255, 155, 0]]],
        [[[255, 100, 0]]],
        [[[0, 25, 63]]],
    ]
    assert all(each.dtype == np.uint8 and each.flags.c_contiguous for each in varied)
