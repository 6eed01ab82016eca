"""A loaded model goes to other processes: as a pickle, by spawn, by joblib and through a fork."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from datasets.fingerprint import Hasher

import runtime
from runtime.inference.pipeline import Pipeline
from runtime.session.session import SessionOptions
from tests.paths import ROOT
from tests.ports import free_port
from tests.runtime.toy_artifact import write_artifact

THREADS = min(2, os.cpu_count() or 1)  # a session with one thread has none to wait for
TEXTS = ["a b", "c"]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
FORK = """
import os, signal, sys, time
import runtime
model = runtime.load(sys.argv[1], provider="cpu", threads=int(sys.argv[2]))
expected = model.embed(["a b", "c"] * 50).tolist()
time.sleep(1)  # the threads of the session spin for a while before they wait
child = os.fork()
if child == 0:
    signal.alarm(20)  # a child that hangs is killed
    if sys.argv[3] == "embed":
        assert model.embed(["a b", "c"] * 50).tolist() == expected
        assert model.backend.towers["text"].session._sessions._process_id == os.getpid()  # opened anew
    else:
        del model
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert model.embed(["a b", "c"] * 50).tolist() == expected
"""
FORK_BY_MULTIPROCESSING = """
import multiprocessing, sys
import runtime
model = runtime.load(sys.argv[1], provider="cpu", threads=int(sys.argv[2]))
expected = model.embed(["a b"]).tolist()
def embed(text):
    return model.embed([text]).tolist()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(embed, ["a b"] * 4).get(20) == [expected] * 4
"""
GUNICORN_APP = """
import os
import runtime
model = runtime.load(os.environ["ARTIFACT"], provider="cpu", threads=int(os.environ["THREADS"]))
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {model.embed(['a b']).tolist()}".encode()]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("processes") / "toy")


@pytest.fixture(scope="module")
def model(folder: Path) -> runtime.Embedder:
    return runtime.load(folder, provider="cpu", threads=THREADS)


def embed(model: runtime.Embedder, texts: list[str]) -> list[list[float]]:
    vectors: list[list[float]] = model.embed(texts).tolist()
    return vectors


def load_with_workers(folder: Path) -> str:
    try:
        runtime.load(folder, workers=1)
    except runtime.UsageError as exc:
        return str(exc)
    return "it loads"


def test_a_copy_loads_the_same_artifact_with_the_same_options(
    model: runtime.Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pickle.dumps(model)
    monkeypatch.chdir(tmp_path)
    for other in (pickle.loads(data), copy.deepcopy(model), copy.copy(model)):  # noqa: S301
        assert other is not model
        assert (other.provider, other.threads, other.towers) == (model.provider, model.threads, model.towers)
        np.testing.assert_array_equal(other.embed(TEXTS), model.embed(TEXTS))


def test_a_relative_folder_is_found_from_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    data = pickle.dumps(runtime.load(folder.name))
    monkeypatch.chdir(folder)
    assert pickle.loads(data).embed(TEXTS).shape == (2, 4)  # noqa: S301


def test_a_pickle_is_of_one_vector_space(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy")
    data, key = pickle.dumps(runtime.load(folder)), Hasher.hash(runtime.load(folder))
    assert Hasher.hash(runtime.load(folder)) == key  # of the cache of datasets.map
    shutil.rmtree(folder)
    write_artifact(folder, prompts={"query": "a "})
    assert Hasher.hash(runtime.load(folder)) != key
    with pytest.raises(runtime.SpaceError, match="its folder holds another artifact by now"):
        pickle.loads(data)  # noqa: S301


def test_a_model_without_a_folder_cannot_be_pickled(model: runtime.Embedder, folder: Path) -> None:
    manifest = model.manifest
    made = runtime.Embedder(manifest, Pipeline(folder, manifest.towers, manifest.output_dim, SessionOptions()))
    with pytest.raises(runtime.UsageError, match=r"only a model of runtime\.load can be pickled"):
        pickle.dumps(made)


@pytest.mark.process
def test_a_model_goes_to_spawned_processes(model: runtime.Embedder, folder: Path) -> None:
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(embed, model, TEXTS).result(120) == model.embed(TEXTS).tolist()
    with context.Pool(1) as pool:  # its processes are daemonic
        assert pool.apply_async(embed, (model, TEXTS)).get(120) == model.embed(TEXTS).tolist()
        assert "workers cannot start in a daemonic process" in pool.apply_async(load_with_workers, (folder,)).get(120)


@pytest.mark.process
def test_a_model_goes_through_joblib(model: runtime.Embedder) -> None:
    joblib = pytest.importorskip("joblib")
    try:
        (vectors,) = joblib.Parallel(n_jobs=2)([joblib.delayed(embed)(model, TEXTS)])
    finally:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
    assert vectors == model.embed(TEXTS).tolist()


def run_script(script: str, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr


@needs_fork
@pytest.mark.process
@pytest.mark.parametrize("use", ["embed", "del"])
def test_a_forked_child_embeds_and_ends(folder: Path, use: str) -> None:
    run_script(FORK, str(folder), str(THREADS), use)


@needs_fork
@pytest.mark.process
def test_a_model_works_in_a_forked_pool(folder: Path) -> None:
    run_script(FORK_BY_MULTIPROCESSING, str(folder), str(THREADS))


def test_a_forked_child_refuses_a_graph_that_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = runtime.load(write_artifact(tmp_path / "toy"), provider="cpu")
    sessions = cast("Pipeline", model.backend).towers["text"].session._sessions
    monkeypatch.setattr(sessions, "_process_id", 0)  # as in a child
    model.embed(TEXTS)
    (tmp_path / "toy" / "text.onnx").touch()
    monkeypatch.setattr(sessions, "_process_id", 0)
    with pytest.raises(runtime.IntegrityError, match=r"text\.onnx has changed since the model was loaded"):
        model.embed(TEXTS)


@pytest.fixture
def gunicorn(folder: Path, tmp_path: Path) -> Iterator[str]:
    """Start gunicorn with the model loaded before the fork, and yield its URL."""
    pytest.importorskip("gunicorn")
    (tmp_path / "served.py").write_text(GUNICORN_APP, "utf-8")
    address = f"127.0.0.1:{free_port()}"
    path = os.pathsep.join([str(ROOT), str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = ["--preload", "--workers=1", "--max-requests=2", "--graceful-timeout=30", f"--bind={address}"]
    options += ["--timeout=0"]  # else gunicorn kills a worker that hangs, and replaces it
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *options, "served:app"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "ARTIFACT": str(folder), "THREADS": str(THREADS)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://{address}/"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # with a worker that hangs
            server.wait()


def ask(url: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@needs_fork
@pytest.mark.process
def test_workers_of_gunicorn_embed_and_are_replaced(gunicorn: str, model: runtime.Embedder) -> None:
    """A worker ends after two requests. One that hung at its end would not be replaced."""
    answers = [ask(gunicorn).partition(" ") for _ in range(5)]
    assert {vectors for _, _, vectors in answers} == {str(model.embed(["a b"]).tolist())}
    assert len({process for process, _, _ in answers}) >= 3


def test_a_closed_model_embeds_no_more(folder: Path) -> None:
    with runtime.load(folder) as model:
        model.embed(TEXTS)
    with pytest.raises(runtime.UsageError, match="the model is closed; load it again"):
        model.embed(TEXTS)
