"""The sessions of a server: one with all threads for a text alone, one with a share of them for batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.errors import OutOfMemoryError
from runtime.server.dispatcher import Dispatcher
from runtime.server.request_errors import RequestError
from runtime.server.run import open_models
from runtime.server.settings import ServerSettings
from runtime.session.session import Session
from tests.runtime.inference.test_concurrent_batches import needs_two_cores
from tests.runtime.toy_artifact import write_artifact
from tests.runtime.tune.samples import is_tuned, keep


def open_sessions(folder: Path, **options: Any) -> list[Session]:
    (model,) = open_models({"toy": folder}, ServerSettings(), provider="cpu", threads=2, **options)
    return [tower.session for tower in model.towers.values()]


@needs_two_cores
def test_both_sessions_are_open_before_the_first_request(toy: Path) -> None:
    for session in open_sessions(toy):
        assert sorted(session._sessions._sessions) == [1, 2]


@needs_two_cores
def test_one_session_suffices_if_batches_take_turns(toy: Path) -> None:
    for session in open_sessions(toy, concurrent_batches=1):
        assert sorted(session._sessions._sessions) == [2]


@pytest.mark.parametrize(("asked", "spinning"), [(None, False), (False, False), (True, True)])
def test_threads_of_a_server_sleep_unless_the_user_lets_them_spin(
    toy: Path, asked: bool | None, spinning: bool
) -> None:
    for session in open_sessions(toy, provider_options=runtime.CpuOptions(spinning=asked)):
        assert session.provider_options == runtime.CpuOptions(spinning=spinning)


def test_a_text_model_without_prompts_knows_queries_and_documents(tmp_path: Path) -> None:
    (model,) = open_models({"texts": write_artifact(tmp_path / "texts")}, ServerSettings())
    assert [model.prompt(name) for name in (None, "query", "document")] == ["", "", ""]
    with pytest.raises(RequestError, match="no prompt called 'other'"):
        model.prompt("other")


def test_a_tuning_does_not_change_the_tokens_of_an_image(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path))
    tokens = []
    for tuned in (False, True):
        if tuned:
            keep(exported, batch_size=1)
        (model,) = open_models({"toy": exported}, ServerSettings())
        assert is_tuned(model.embedder) == tuned
        tokens.append(model.tokens("image", model.samples["image"]))
    assert tokens == [128, 128]


def test_a_graph_that_is_wrong_with_all_threads_alone_is_not_served(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Session.run

    def run_wrong(self: Session, *args: Any, side_by_side: bool = False, **options: Any) -> Any:
        vectors = run(self, *args, side_by_side=side_by_side, **options)
        return vectors if side_by_side else -vectors

    monkeypatch.setattr(Session, "run", run_wrong)
    with pytest.raises(runtime.VerificationError, match="golden vectors"):
        open_sessions(toy)


def test_all_sizes_of_batches_of_images_have_run_where_each_new_shape_costs_time(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sizes = Session.run, []

    def count(self: Session, feeds: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(next(iter(feeds.values()))))
        return run(self, feeds, *args, **options)

    monkeypatch.setattr(Session, "run", count)
    monkeypatch.setattr(Session, "needs_few_shapes", True)
    open_sessions(exported)
    assert {1, 2, 4, 8} <= set(sizes)
    assert max(sizes) == 8


def test_batches_of_a_server_are_smaller_after_too_little_memory(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = open_models({"toy": toy}, ServerSettings(max_batch_tokens=40), provider="cpu", threads=1)
    runner, rows = model.runners["text"], [model.samples["text"]] * 10
    run, sizes = Session.run, []

    def run_out_of_memory(self: Session, feeds: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(feeds["input_ids"]))
        if sizes[-1] > 5:
            raise OutOfMemoryError("no memory")
        return run(self, feeds, *args, **options)

    monkeypatch.setattr(Session, "run", run_out_of_memory)
    dispatcher = Dispatcher(1)
    for _ in range(2):
        dispatcher.submit(runner, rows).future.result(20)
    dispatcher.close(20)
    assert sizes == [10, 5, 5, 5, 5]
