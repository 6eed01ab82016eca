"""Weights: torchvision's own loader and cache, state dicts from files, seeded random ones."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from argparse import Namespace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from exporters.catalogue.spec import CnnSource
from exporters.catalogue.weights_ref import Pretrained, RandomInit, StateDict
from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.families.cnn.torchvision import load_cnn
from exporters.weights.state_dict import load_into, read_state_dict

SOURCE = CnnSource(builder="resnet50", head="fc")


@pytest.fixture(scope="module")
def seeded() -> dict[str, Tensor]:
    """A state dict of ResNet50 that no initialisation gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return dict(resnet50().state_dict())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's hub, on a machine without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("names", [{"pool": "pool", "head": "fc"}, {"head": "classifier"}], ids=str)
def test_a_source_that_names_no_module_is_refused(names: dict[str, str]) -> None:
    with pytest.raises(WeightsError, match=r"resnet18 has no module (pool|classifier); name .*torchvision:resnet18"):
        load_cnn(CnnSource(builder="resnet18", **names), RandomInit(0))


def test_pretrained_weights_come_through_torchvisions_cache(hub: Path, seeded: dict[str, Tensor]) -> None:
    cached = hub / Path(ResNet50_Weights.DEFAULT.url).name
    torch.save(seeded, cached)
    cnn = load_cnn(SOURCE, Pretrained())
    for key, value in cnn.model.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(value, seeded[key]), key
    assert cnn.weights.origin == "pretrained"
    assert (cnn.weights.description, cnn.weights.revision, cnn.weights.licence) == ("torchvision resnet50", None, None)
    assert cnn.weights.file == cached.name
    assert cnn.weights.sha256 == hashlib.sha256(cached.read_bytes()).hexdigest()
    assert cnn.weights.published is False, "these are seeded weights under the name of the published ones"


def test_an_unreachable_hub_names_the_ways_out(hub: Path) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        load_cnn(SOURCE, Pretrained())
    message = str(caught.value)
    assert "no network in tests" in message
    assert str(hub / "resnet50-11ad3fa6.pth") in message
    assert "--weights PATH" in message
    assert "--weights random" in message


def test_a_damaged_cache_says_what_to_delete(hub: Path) -> None:
    cached = hub / Path(ResNet50_Weights.DEFAULT.url).name
    cached.write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=r"resnet50-11ad3fa6\.pth cannot be read .*delete it"):
        load_cnn(SOURCE, Pretrained())


def test_a_state_dict_from_a_file(tmp_path: Path, seeded: dict[str, Tensor]) -> None:
    fine_tuned = {key: value for key, value in seeded.items() if not key.startswith("fc.")}
    fine_tuned["fc.weight"] = torch.zeros(10, 2048)
    path = tmp_path / "fine-tuned.pth"
    torch.save(fine_tuned, path)
    cnn = load_cnn(SOURCE, StateDict(path))
    assert torch.equal(cnn.model.state_dict()["layer4.2.conv3.weight"], seeded["layer4.2.conv3.weight"])
    assert (cnn.weights.origin, cnn.weights.description) == ("file", "fine-tuned.pth")
    assert cnn.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_a_wrappers_prefix_is_taken_off(prefix: str) -> None:
    model, given = nn.Sequential(nn.Linear(2, 2)), {f"{prefix}0.weight": torch.eye(2), f"{prefix}0.bias": torch.ones(2)}
    load_into(model, given, ignored=("fc",), source="wrapped.pth")
    assert torch.equal(model.state_dict()["0.weight"], torch.eye(2))


def test_a_model_may_have_no_tensors() -> None:
    load_into(nn.Identity(), {}, source="x.pth")


@pytest.mark.parametrize("prefix", ["net.", "student.0.", "module.net."])
def test_a_prefix_beside_other_weights_is_named(prefix: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    given = {prefix + key: value for key, value in model.state_dict().items()} | {"loss.weight": torch.ones(2)}
    with pytest.raises(WeightsMismatchError, match=rf"begin with {prefix}; save only .*\.startswith\('{prefix}'\)"):
        load_into(model, given, source="trained.ckpt")


def test_weights_of_a_diverged_training_are_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(WeightsError, match=r"last\.pth has NaN in bias: its training diverged"):
        load_into(model, model.state_dict() | {"bias": torch.full((2,), torch.nan)}, source="last.pth")


@pytest.mark.slow
def test_random_weights_are_those_of_their_seed() -> None:
    first, again, other = (load_cnn(SOURCE, RandomInit(seed)).weights for seed in (0, 0, 1))
    assert first == again
    assert first.sha256 != other.sha256
    assert (other.origin, other.seed, other.description) == ("random", 1, "random, seed 1")


def test_random_weights_leave_the_callers_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_cnn(SOURCE, RandomInit(5))
    assert torch.equal(torch.rand(1), expected)


def test_a_path_that_is_no_text_is_escaped(tmp_path: Path, seeded: dict[str, Tensor]) -> None:
    path = tmp_path / os.fsdecode(b"\xff.pth")
    torch.save(seeded, path)
    assert load_cnn(SOURCE, StateDict(path)).weights.description == r"\udcff.pth"


def test_image_size_keeps_the_share_of_the_picture() -> None:
    transforms = load_cnn(SOURCE, RandomInit(), image_size=112).transforms
    assert (transforms.crop_size, transforms.resize_size) == ([112], [116])


def test_a_missing_file_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match="`pretrained`, `random` or the path"):
        read_state_dict(tmp_path / "none.pth")


def test_every_misfit_is_listed() -> None:
    model = nn.Sequential()
    model.add_module("body", nn.Linear(3, 4))
    model.add_module("fc", nn.Linear(4, 2))
    model.add_module("neck_norm", nn.BatchNorm1d(2))
    given = {f"neck_norm.{name}": value for name, value in nn.BatchNorm1d(2).state_dict().items()}
    given["neck_norm.weight"] = torch.ones(2, dtype=torch.int8)
    given |= {"body.weight": torch.zeros(4, 5), "neck.weight": torch.zeros(1), "fc.weight": torch.zeros(9)}
    with pytest.raises(WeightsMismatchError) as caught:
        load_into(model, given, ignored=("fc",), source="mine.pth")
    message = str(caught.value)
    assert "1 missing (body.bias)" in message
    assert "1 unexpected (neck.weight)" in message
    assert "1 of another shape (body.weight [4, 5] instead of [4, 3])" in message
    assert "1 of another type (neck_norm.weight torch.int8)" in message
    assert "mine.pth" in message


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model", "model_ema"])
def test_what_a_training_script_saved_is_unpacked(container: str, tmp_path: Path) -> None:
    weights = {"a": torch.ones(2), "n_averaged": torch.tensor(3)}  # with the counter of torch's AveragedModel
    torch.save({"epoch": 3, "args": Namespace(lr=0.1), container: weights}, tmp_path / "last.pth")
    assert read_state_dict(tmp_path / "last.pth").keys() == {"a"}
    assert torch.equal(read_state_dict(tmp_path / "last.pth")["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("container", "other", "copy"),
    [
        ("state_dict", "state_dict_ema", {"a": torch.zeros(2)}),
        ("model", "model_ema", {"module.a": torch.zeros(2), "n_averaged": torch.tensor(3)}),
        ("state_dict", "callbacks", {"average": {"decay": 0.9, "weights": {"a": torch.zeros(2)}}}),
        ("state_dict", "model", {"a": torch.zeros(2)}),
    ],
)
def test_two_copies_of_the_weights_are_not_chosen_from(
    container: str, other: str, copy: dict[str, object], tmp_path: Path
) -> None:
    state = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    content = {container: {"a": torch.ones(2)}, "optimizer": state, "loss": {"center": torch.ones(2)}}
    torch.save(content, tmp_path / "last.pth")
    assert torch.equal(read_state_dict(tmp_path / "last.pth")["a"], torch.ones(2))
    torch.save(content | {other: copy}, tmp_path / "last.pth")
    with pytest.raises(WeightsError, match=rf"the same names in {container} and {other}; .*\['{other}'\]"):
        read_state_dict(tmp_path / "last.pth")


def test_one_changed_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(b"\0" * 1000) + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="is damaged at"):
        read_state_dict(path)


def test_a_folder_is_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder"):
        read_state_dict(tmp_path)


def test_counters_of_old_checkpoints_may_be_missing() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    old = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_into(model, old, ignored=("fc",), source="old.pth")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('evil').touch()",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"not a checkpoint", "cannot be read"),
        (pickle.dumps({"a": _Evil()}), "cannot be read"),
        ({"a": torch.zeros(1), "folder": Path()}, r"reading may run code \(pathlib\.(_local\.)?(Posix|Windows)Path\)"),
        ({"net": {"a": torch.zeros(1)}, "loss": {"b": torch.zeros(1)}}, "holds net, loss"),
        ([torch.zeros(1)], "holds list"),
        ({}, "holds nothing"),
        ({0: torch.zeros(1)}, "holds 0"),
        ({"a": torch.zeros(1, dtype=torch.complex64)}, "holds a"),
        ({"a": torch.eye(2).to_sparse()}, "holds a"),
    ],
    ids=["empty", "garbage", "evil", "path", "two-parts", "list", "nothing", "numbered", "complex", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_what_is_not_a_state_dict_is_refused(
    content: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if not isinstance(content, bytes):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        content = buffer.getvalue()
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_state_dict(path)
    assert "torch.save(model.state_dict(), path)" in str(caught.value)
    assert not Path("evil").exists(), "code in the checkpoint was run"
