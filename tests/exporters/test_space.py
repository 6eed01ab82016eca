from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from exporters.graph.used_weights import hash_used_weights
from exporters.modules.pixels import NormalizePixels
from exporters.samples import photos as samples
from exporters.samples.photos import photo_names
from exporters.samples.point_clouds import load_shapes
from exporters.samples.texts import TEXTS
from exporters.space import ITEMS, hash_tokens, sign_differences
from runtime.artifact.manifest import TextPreprocessing
from runtime.artifact.reader import read_manifest
from runtime.artifact.space import list_facts, name_space
from tests.runtime.toy_artifact import write_tokenizer


class Network(nn.Module):
    """A network with an unused layer, a batch norm, and pixels that it normalises."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.normalize = NormalizePixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.first, self.norm, self.unused = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(2, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.norm(self.first(self.normalize(pixels).mean((2, 3))))
        return output


class Renamed(nn.Module):
    """The same network, with other names and a copy of a weight."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.bn, self.inner = network.norm, nn.Linear(3, 4)
        self.inner.weight, self.inner.bias = nn.Parameter(network.first.weight.clone()), network.first.bias
        self.copy = nn.Parameter(network.first.weight.clone())

    def forward(self, pixels: Tensor) -> Tensor:
        values = ((pixels.permute(0, 3, 1, 2).float() / 255) - 0.5) / 0.5
        output: Tensor = self.bn(self.inner(values.mean((2, 3))) + 0 * self.copy.sum())
        return output


def weights_of(module: nn.Module, origin: str = "file") -> str:
    return hash_used_weights(torch.export.export(module.eval(), (torch.zeros(2, 5, 5, 3, dtype=torch.uint8),)), origin)


def change(network: Network, what: Callable[[Network], Tensor]) -> Network:
    with torch.no_grad():
        what(network).view(-1)[0] += 1e-3
    return network


def test_the_same_weights_have_the_same_hash_whatever_their_names() -> None:
    network = Network()
    expected = weights_of(network)
    assert weights_of(Network()) == expected
    assert weights_of(Renamed(network)) == expected
    assert weights_of(change(network, lambda each: each.unused.weight)) == expected
    assert weights_of(network.double().float()) == expected


@pytest.mark.parametrize("layer", ["first", "norm"])
def test_other_weights_have_another_hash(layer: str) -> None:
    assert weights_of(change(Network(), lambda each: getattr(each, layer).weight)) != weights_of(Network())


@pytest.mark.parametrize(("origin", "counts"), [("file", True), ("random", False)])
def test_statistics_count_unless_the_weights_are_random(origin: str, counts: bool) -> None:
    changed = change(Network(), lambda each: each.norm.get_buffer("running_mean"))
    assert (weights_of(changed, origin) != weights_of(Network(), origin)) == counts


def test_signs_survive_rounding_and_not_another_computation() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(ITEMS, 384)).astype(np.float32) + 30  # one direction dominates
    rounded = vectors + generator.normal(scale=1e-6, size=vectors.shape).astype(np.float32)
    assert sign_differences(rounded) == sign_differences(vectors)
    assert sign_differences(np.roll(vectors, 48, axis=1)) != sign_differences(vectors)
    assert sign_differences(vectors[:, :3]) != ""


def test_the_bytes_of_a_tokenizer_do_not_count_and_its_words_do(tmp_path: Path) -> None:
    recipe = TextPreprocessing(max_length=8, pad_token_id=0)
    write_tokenizer(tmp_path / "tokenizer.json")
    expected = hash_tokens(tmp_path, recipe)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"), pretty=False)
    assert hash_tokens(tmp_path, recipe) == expected
    tokenizer.add_tokens(["coffee"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert hash_tokens(tmp_path, recipe) != expected


def test_an_export_names_its_space(exported: Path, exported_float32: Path, exported_text: Path) -> None:
    manifests = [read_manifest(folder) for folder in (exported, exported_float32, exported_text)]
    for manifest in manifests:
        assert manifest.space.id == name_space(list_facts(manifest))
    assert manifests[0].space.weights == manifests[1].space.weights, "one takes pixels, the other pixel values"
    assert manifests[0].space.id != manifests[1].space.id, "they pool differently"


def test_the_first_samples_never_change_because_names_of_spaces_depend_on_them() -> None:
    photos = [(resources.files(samples) / name).read_bytes() for name in photo_names()[:ITEMS]]
    clouds = [str(cloud[100].round(3).tolist()).encode() for cloud in load_shapes()[:ITEMS]]
    texts = [text.encode() for text in TEXTS]
    assert hashlib.sha256(b"".join([*texts, *photos, *clouds])).hexdigest()[:16] == "4e0505a3f29513e8"
