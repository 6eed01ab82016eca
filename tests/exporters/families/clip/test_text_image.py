"""Models of texts and images of open_clip, transformers and sentence-transformers, compared with these libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers as hf
from open_clip.push_to_hf_hub import save_for_hf
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CLIPModel, Dense, Normalize, Transformer
from torch import nn

import runtime
from exporters.catalogue.names import find_model
from exporters.catalogue.options import ExportOptions
from exporters.errors import UnknownBackboneError, WeightsError, WeightsUnavailableError
from exporters.families.clip.text import TextModelTower
from exporters.families.clip.transformers_folder import text_model
from exporters.families.load import load_towers
from exporters.weights.stand_in_tokenizer import build_stand_in_clip_tokenizer, build_stand_in_tokenizer
from runtime.artifact.manifest import ImagePreprocessing
from runtime.artifact.reader import read_manifest
from tests.exporters.families.checkpoints.build import make_words
from tests.exporters.families.tried import record
from tests.exporters.families.vision.comparing import (
    MAX_ERROR,
    STATED,
    check_images,
    check_texts,
    export,
    make_images,
    measure,
)
from tests.exporters.families.vision.folders import SIDE, SMALL, make_processor
from tests.exporters.families.vocabularies import byte_fallback, unigram

GROUP = "Texts and images"
_TEXT = {name: value for name, value in SMALL.items() if name not in ("image_size", "patch_size")}
_WIDTHS: dict[str, Any] = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
_VISION: dict[str, Any] = {"image_size": SIDE, "layers": 2, "width": 32, "patch_size": 16, "head_width": 8}
# Configurations in the form of open_clip's own: a CLIP, a ResNet, one of timm with SigLIP's text model, and a CoCa.
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": _VISION, "text_cfg": _WIDTHS},
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": _WIDTHS,
    },
    "tiny-timm": {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": {"image_size": SIDE, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": _WIDTHS | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "tiny-coca": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": _VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": _WIDTHS | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": _WIDTHS | {"attn_pooler_heads": 4},
    },
}
_SIGLIP: dict[str, Any] = {"pad_token": "</s>", "extra_ids": 0}
_ODD_TEXTS = (
    "A photo_of_a cat, (isn't it?) </s><pad> x</s>y <EOS> [SEP] <unk>",
    "<start_of_text> <START_OF_TEXT> &lt;END_OF_TEXT&gt; &amp;amp; &#60;/s>",
    "漢字、東京。ＦＵＬＬ １２ ½ ™ \u0345 a\u0345b \u3000 x",
    "ΟΔΟΣ, Σ_Σ. İ e\u0301 - ... - \t\n end ",
    "!?_",
    "<|startoftext|>, <|endoftext|><|endoftext|>.",
    "many words, " * 99,
)


@pytest.fixture(autouse=True)
def _configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in OPEN_CLIP.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def make_open_clip(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return open_clip.create_model(name, pretrained_text=False).eval()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "tiny-vit" else pytest.mark.tried) for name in OPEN_CLIP],
)
def test_vectors_equal_those_of_open_clip(name: str, tmp_path: Path) -> None:
    model = make_open_clip(name)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    artifact = export(f"open_clip:{name}", tmp_path, weights=str(tmp_path / "weights.pt"))
    transforms = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=SIDE), is_train=False)
    tokenizer = open_clip.get_tokenizer(name)
    check_images(
        artifact, lambda image: model.encode_image(transforms(image)[None]), GROUP, f"{name} image", "open_clip"
    )
    check_texts(artifact, lambda text: model.encode_text(tokenizer(text)), GROUP, f"{name} text", "open_clip")
    manifest = read_manifest(artifact)
    assert (manifest.task, manifest.architecture, manifest.similarity is not None) == ("text-to-image", name, True)


@pytest.mark.parametrize(
    ("clean", "words"),
    [
        pytest.param("lower", None, id="clip"),
        pytest.param("canonicalize", None, id="clip-canonicalize"),
        pytest.param(
            "canonicalize",
            make_words(unigram, "T5Tokenizer", ("<pad>", "</s>", "<unk>"), **_SIGLIP),
            id="siglip",
        ),
        pytest.param(
            "canonicalize",
            make_words(
                byte_fallback,
                "GemmaTokenizer",
                ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
                around="$A <eos>",
                padding_side="right",
            ),
            id="siglip2",
        ),
    ],
)
def test_token_ids_equal_those_of_open_clip(
    clean: str, words: Callable[[], Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = OPEN_CLIP["tiny-timm"]["text_cfg"] | {"tokenizer_kwargs": {"clean": clean}}
    if words:
        words().save_pretrained(tmp_path)
        text["hf_tokenizer_name"] = str(tmp_path)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-words", OPEN_CLIP["tiny-timm"] | {"text_cfg": text})
    (tower,) = load_towers(find_model("open_clip:tiny-words"), ExportOptions(weights="random", tower="text"))
    assert isinstance(tower, TextModelTower)
    ours, theirs = tower.preprocessor, open_clip.get_tokenizer("tiny-words")
    for item in _ODD_TEXTS:
        np.testing.assert_array_equal(ours.collate([ours.prepare(item)])["input_ids"], theirs(item), err_msg=item)


@pytest.mark.tried
def test_a_folder_of_open_clip_has_its_own_pixels(tmp_path: Path) -> None:
    model = make_open_clip("tiny-vit")
    model.visual.preprocess_cfg |= {"mean": (0.5, 0.5, 0.5), "resize_mode": "longest", "fill_color": 9}
    save_for_hf(model, _Nothing(), OPEN_CLIP["tiny-vit"], str(tmp_path / "model"))
    artifact = export(tmp_path / "model", tmp_path, tower="image")
    _, transforms = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'model'}")
    assert measure(artifact, "image", make_images(), lambda image: model.encode_image(transforms(image)[None])) < 2e-5
    assert read_manifest(artifact).towers.keys() == {"image"}


def test_pixels_that_open_clip_does_not_prepare_are_refused(tmp_path: Path) -> None:
    model = make_open_clip("tiny-vit")
    model.visual.preprocess_cfg["interpolation"] = "nearest"
    save_for_hf(model, _Nothing(), OPEN_CLIP["tiny-vit"], str(tmp_path / "model"))
    with pytest.raises(WeightsError, match=r"open_clip builds no image transforms from .*nearest.* state the whole"):
        export(tmp_path / "model", tmp_path, tower="image")


@pytest.mark.parametrize("name", ["epoch_10.pt", "weights/model.bin"])
def test_weights_that_open_clip_does_not_look_for_are_no_random_ones(name: str, tmp_path: Path) -> None:
    model = make_open_clip("tiny-vit")
    save_for_hf(model, _Nothing(), OPEN_CLIP["tiny-vit"], str(tmp_path / "model"))
    for path in (tmp_path / "model").glob("open_clip_*.[sb][ai]*"):
        path.unlink()
    (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
    torch.save(model.state_dict(), tmp_path / "model" / name)
    with pytest.raises(WeightsError, match="open_clip cannot load local-dir:"):
        export(tmp_path / "model", tmp_path, tower="image")


class _Nothing:
    """open_clip's own tokenizer has no files to save."""

    def save_pretrained(self, folder: str) -> None:
        del folder


def test_refuses_what_open_clip_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(UnknownBackboneError, match="similar ones are tiny-vit"):
        export("open_clip:tiny-vitt", tmp_path, weights="random")
    with pytest.raises(WeightsUnavailableError, match="its tags are openai"):
        export("open_clip:ViT-B-32", tmp_path)
    with pytest.raises(WeightsUnavailableError, match="no weights nobody of ViT-B-32"):
        export("open_clip:ViT-B-32/nobody", tmp_path)
    with pytest.raises(WeightsUnavailableError, match="no weights nobody of ViT-B-32"):
        export("open_clip:ViT-B-32/nobody", tmp_path, weights="random")
    for weights in ("pretrained", "random"):
        with pytest.raises(WeightsError, match="use open_clip:ViT-B-32-quickgelu/openai"):
            export("open_clip:ViT-B-32/openai", tmp_path, weights=weights)
    with pytest.raises(WeightsError, match="use laion/CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k"):
        export("open_clip:roberta-ViT-B-32/laion2b_s12b_b32k", tmp_path)


def test_weights_of_a_file_take_the_pixels_of_the_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", {"webli": {"hf_hub": "someone/clip"} | theirs})
    torch.save(make_open_clip("tiny-vit").state_dict(), tmp_path / "weights.pt")
    options = ExportOptions(weights=tmp_path / "weights.pt", tower="image")
    (tower,) = load_towers(find_model("open_clip:tiny-vit/webli"), options)
    recipe = tower.record.preprocessing
    assert isinstance(recipe, ImagePreprocessing)
    assert (recipe.mean, recipe.std, recipe.resize) == ((0.5, 0.4, 0.3), (0.5, 0.5, 0.5), "squash")
    grey = {"webli": {"hf_hub": "someone/clip", "mean": (0.5,), "std": (0.5,)}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", grey)
    with pytest.raises(WeightsError, match="normalises 1 channels"):
        load_towers(find_model("open_clip:tiny-vit/webli"), options)
    (tower,) = load_towers(find_model("open_clip:tiny-vit/webli"), replace(options, **STATED))
    assert isinstance(tower.record.preprocessing, ImagePreprocessing)
    assert tower.record.preprocessing.mean == STATED["mean"]


def test_positions_of_padding_are_no_room_for_tokens() -> None:
    text = _TEXT | {"vocab_size": 400, "max_position_embeddings": 66, "pad_token_id": 1, "project_dim": 24}
    model = hf.AltCLIPModel(hf.AltCLIPConfig(text_config=text, vision_config=dict(SMALL), projection_dim=24))
    tokenizer = build_stand_in_tokenizer("xlm-roberta", 10**9)
    assert text_model(model, tokenizer).preprocessing.max_length == 64
    with pytest.raises(WeightsError, match=r"limit of 2 tokens.*model_max_length"):
        text_model(model, build_stand_in_tokenizer("xlm-roberta", 2))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vision, text = dict(SMALL), _TEXT | {"vocab_size": 49408, "max_position_embeddings": 20}
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    folder = _save(hf.CLIPModel, config, tmp_path_factory.mktemp("clip") / "tiny-clip")
    build_stand_in_clip_tokenizer(20, bos_token_id=49406, eos_token_id=49407).save_pretrained(folder)
    make_processor("CLIPImageProcessorPil", {"crop": True}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = _TEXT | {"vocab_size": 400, "max_position_embeddings": 64, "projection_size": 32}
    config = hf.SiglipConfig(text_config=text, vision_config=dict(SMALL))
    folder = _save(hf.SiglipModel, config, tmp_path_factory.mktemp("siglip") / "tiny-siglip2")
    _siglip_tokenizer().save_pretrained(folder)
    make_processor("SiglipImageProcessorPil", {}).save_pretrained(folder)
    return folder


def _siglip_tokenizer() -> Any:
    """Return SigLIP2's tokenizer, which lowercases, over a few letters and all bytes."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *"▁abcdefghijklmnopqrstuvwxyz'.,-", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return hf.Siglip2Tokenizer(vocab=vocabulary, model_max_length=64, padding_side="right", add_eos_token=True)


def _save(kind: Any, config: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param("clip", marks=pytest.mark.tried), pytest.param("siglip", marks=pytest.mark.slow)]
)
def test_vectors_equal_those_of_transformers(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(name)
    artifact = export(folder, tmp_path)
    model: Any = hf.AutoModel.from_pretrained(folder, dtype="float32").eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    auto: Any = hf.AutoImageProcessor
    processor = auto.from_pretrained(folder, backend="pil")
    # "important: we pass padding=max_length since the model was trained with this" (SigLIP's documentation)
    settings = {"padding": "max_length"} if name == "siglip" else {}

    def embed_text(text: str) -> Any:
        encoded = tokenizer(text, truncation=True, return_tensors="pt", **settings)
        mask = {} if name == "siglip" else {"attention_mask": encoded["attention_mask"]}
        return model.get_text_features(input_ids=encoded["input_ids"], **mask).pooler_output

    def embed_image(image: Any) -> Any:
        return model.get_image_features(**processor(image, return_tensors="pt")).pooler_output

    check_texts(artifact, embed_text, GROUP, f"{name} text", "transformers")
    check_images(artifact, embed_image, GROUP, f"{name} image", "transformers")
    recipe = read_manifest(artifact).towers["text"].preprocessing
    assert recipe.kind == "text"
    assert (recipe.padding, recipe.inputs) == (
        ("max_length", ("input_ids",)) if name == "siglip" else ("longest", ("input_ids", "attention_mask"))
    )


def test_a_tokenizer_may_leave_the_mask_out(clip: Path) -> None:
    tokenizer: Any = hf.AutoTokenizer.from_pretrained(clip, model_input_names=["input_ids"])
    half = text_model(hf.CLIPModel.from_pretrained(clip), tokenizer)
    assert half.tokenize("a cat").keys() == {"input_ids", "attention_mask"}


def _in_one_module(folder: Path, into: Path, **settings: Any) -> Path:
    """Save a model of texts and images as sentence-transformers 6 does: in one Transformer."""
    first = Transformer(str(folder), processor_kwargs={"backend": "pil"})
    SentenceTransformer(modules=[first, Normalize()], device="cpu").save(str(into))
    path = into / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return into


def _in_clip_module(folder: Path, into: Path) -> Path:
    clip = CLIPModel(str(folder), _from_auto_load=True)
    SentenceTransformer(modules=[clip, Normalize()], device="cpu").save(str(into))
    return into


@pytest.mark.parametrize(
    ("save", "name"),
    [
        pytest.param(_in_clip_module, "sentence-clip", marks=pytest.mark.slow),
        pytest.param(_in_one_module, "sentence-clip in one module", marks=pytest.mark.tried),
    ],
)
def test_vectors_equal_those_of_sentence_transformers(
    save: Callable[[Path, Path], Path], name: str, clip: Path, tmp_path: Path
) -> None:
    folder = save(clip, tmp_path / "model")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"similarity_fn_name": "dot"}))
    artifact = export(folder, tmp_path)
    judge = SentenceTransformer(str(folder), device="cpu", processor_kwargs={"backend": "pil"})
    check_texts(artifact, lambda text: judge.encode(text), GROUP, f"{name} text", "sentence-transformers")
    check_images(artifact, lambda image: judge.encode([image])[0], GROUP, f"{name} image", "sentence-transformers")
    transparent = make_images()[0]
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    assert measure(artifact, "image", [transparent], lambda image: judge.encode([image])[0]) <= MAX_ERROR
    manifest = read_manifest(artifact)
    assert manifest.similarity_function == "dot"
    assert all(tower.normalized for tower in manifest.towers.values())
    assert manifest.towers["image"].reference == "sentence-transformers"
    default = SentenceTransformer(str(folder), device="cpu")  # resizes with torchvision, and rounds a little otherwise
    vectors = runtime.load(artifact).embed_image(make_images())
    assert abs(vectors - default.encode(make_images())).max() < 0.05


def test_refuses_patches_of_any_shape(siglip: Path, tmp_path: Path) -> None:
    config = json.loads((siglip / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    for each in (text, vision):
        each.pop("model_type")
    folder = _save(
        hf.Siglip2Model,
        hf.Siglip2Config(text_config=text, vision_config=vision | {"num_patches": 16}),
        tmp_path / "naflex",
    )
    _siglip_tokenizer().save_pretrained(folder)
    make_processor("Siglip2ImageProcessorPil", {"bare": True}).save_pretrained(folder)
    with pytest.raises(WeightsError, match="Siglip2ImageProcessorPil"):
        export(folder, tmp_path)
    record(GROUP, "siglip2 naflex image", "refused: patches of any shape", library="transformers")


def test_refuses_another_module_after_the_clip(clip: Path, tmp_path: Path) -> None:
    modules: list[nn.Module] = [CLIPModel(str(clip), _from_auto_load=True), Dense(24, 8)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    with pytest.raises(WeightsError, match="Dense is not supported"):
        export(tmp_path / "model", tmp_path)


def test_a_clip_in_one_module_with_two_limits_is_refused(clip: Path, tmp_path: Path) -> None:
    folder = _in_one_module(clip, tmp_path / "model", query_length=8)
    with pytest.raises(WeightsError, match="states query_length 8"):
        load_towers(find_model(str(folder)), ExportOptions())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own.Model"}}))
    with pytest.raises(WeightsError, match=r"only text models may run code; save the model without it"):
        load_towers(find_model(str(folder)), ExportOptions())


def test_texts_that_sentence_transformers_pads_by_the_batch_are_refused(siglip: Path, tmp_path: Path) -> None:
    folder = _in_one_module(siglip, tmp_path / "model")
    with pytest.raises(WeightsError, match=r"pads a text of siglip to the longest of its batch.*--tower image"):
        load_towers(find_model(str(folder)), ExportOptions())
    (image,) = load_towers(find_model(str(folder)), ExportOptions(tower="image"))
    assert image.architecture == "siglip"
