"""Small data that a toy can learn."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "yellow": (230, 220, 40)}
_THINGS = [
    *("cat", "dog", "car", "tree", "house", "boat", "bird", "fish"),
    *("lamp", "chair", "stone", "river", "cloud", "apple", "bread", "piano"),
]


def make_pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return sentences about things with other sentences about the same things."""
    chosen = random.Random(seed)  # noqa: S311
    pairs = []
    for _ in range(count):
        first, second = chosen.sample(_THINGS, 2)
        pairs.append({"a": f"{first} {second}", "b": f"the {second} is near this {first} of mine"})
    return pairs


def make_labels(count: int) -> list[dict[str, str]]:
    """Return sentences, each with the thing that it is about as its label."""
    return [
        {"item": f"{_THINGS[index % 4]} number {index} {_THINGS[4 + index % 11]}", "label": _THINGS[index % 4]}
        for index in range(count)
    ]


def write_checkpoint(folder: Path, number: int) -> None:
    """Write what makes a checkpoint complete into the folder of a training."""
    place = folder / "steps" / f"checkpoint-{number}"
    place.mkdir(parents=True)
    (place / "trainer_state.json").write_text("{}")


def write_photos(folder: Path, each: int) -> list[dict[str, str]]:
    """Write noisy photos, half of one colour and half of any, in a folder for each colour; return their captions."""
    noise, captions = np.random.default_rng(0), []
    for colour, pixel in COLOURS.items():
        (folder / colour).mkdir(parents=True)
        for index in range(each):
            mixed = (np.array(pixel) + noise.uniform(0, 255, 3)) / 2
            values = np.clip(mixed + noise.normal(0, 60, (24, 24, 3)), 0, 255).astype(np.uint8)
            path = folder / colour / f"{index}.png"
            Image.fromarray(values).save(path)
            captions.append({"text": f"a {colour} photo {index}", "image": str(path)})
    return captions


def write_shapes(folder: Path, split: str, each: int, seed: int) -> None:
    """Write OFF meshes in the layout of ModelNet40: ``CLASS/SPLIT/CLASS_NUMBER.off``."""
    chosen = np.random.default_rng(seed)
    for label, sides in {"plate": (1.0, 1.0, 0.05), "stick": (0.05, 0.05, 1.0), "cube": (1.0, 1.0, 1.0)}.items():
        place = folder / label / split
        place.mkdir(parents=True)
        for index in range(each):
            scale = np.array(sides) * chosen.uniform(0.7, 1.3, 3)
            corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * scale
            faces = ["0 1 3 2", "4 6 7 5", "0 4 5 1", "2 3 7 6", "0 2 6 4", "1 5 7 3"]
            rows = [" ".join(f"{value:.5f}" for value in corner) for corner in corners]
            text = "\n".join(["OFF", "8 6 0", *rows, *(f"4 {face}" for face in faces)])
            (place / f"{label}_{index:04}.off").write_text(text + "\n", "utf-8")
