"""After a batch that failed, the routes of health embed a sample and tell whether the model is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

import pytest

from runtime.errors import InferenceError
from runtime.server import health, run, worker
from runtime.server.health import Health
from runtime.server.metrics import Metrics
from runtime.server.ray_serve import Replica
from runtime.server.served_model import ServedModel
from runtime.server.service import EmbeddingService
from runtime.server.settings import ServerSettings
from runtime.server.waiting_queue import Job
from tests.runtime.server.conftest import ROOM, Running, serving
from tests.runtime.server.test_under_load import Gate

READINESS = ("/health", "/v2/health/ready", "/v2/models/toy/ready")


@pytest.fixture
def faulty(toy_models: list[ServedModel]) -> Gate:
    gate = Gate(toy_models[0])
    gate.opened.set()
    return gate


def statuses(server: Running, *paths: str) -> list[int]:
    return [server.get(path).status_code for path in paths or READINESS]


@pytest.mark.parametrize("error", [InferenceError("CUDA error 700"), OSError("CUDA error 700")], ids=repr)
def test_a_dead_model_is_unhealthy_until_it_embeds_again(faulty: Gate, error: Exception) -> None:
    runners = {tower: replace(runner) for tower, runner in faulty.model.runners.items()}
    other = replace(faulty.model, name="other", runners=runners)
    with serving([faulty.model, other]) as server:
        assert statuses(server) == [200] * 3
        faulty.error = error
        assert server.post("/v1/embeddings", {"input": "a"}).status_code == 500
        assert statuses(server) == [503] * 3
        assert statuses(server, "/v2/health/live", "/v2/models/other/ready") == [200] * 2
        answer = server.get("/health").json()
        assert answer["error"].startswith("toy embeds no text any more: CUDA error 700; restart")
        assert set(server.get("/v2/health/ready").json()) == {"error"}
        faulty.error = None
        assert statuses(server) == [200] * 3
        server.wait_until_empty()


def test_an_item_that_fails_leaves_the_server_healthy(faulty: Gate) -> None:
    with serving([faulty.model]) as server:
        assert server.post("/v1/embeddings", {"input": "passage"}).status_code == 500
        assert server.service.dispatcher.has_failed(faulty.model.runners["text"])
        assert statuses(server) == [200] * 3
        assert not server.service.dispatcher.has_failed(faulty.model.runners["text"])


def test_a_sample_that_gets_no_vector_in_time_is_a_failure(faulty: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.2)
    with serving([faulty.model]) as server:
        assert server.post("/v1/embeddings", {"input": "passage"}).status_code == 500
        faulty.opened.clear()
        assert "no vector in 0.2 s" in server.get("/health").json()["error"]
        faulty.opened.set()
        server.wait_until(lambda: statuses(server, "/health") == [200])


def test_a_sample_waits_for_a_thread_beyond_a_check(faulty: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch may run for longer than a check waits."""
    monkeypatch.setattr(health, "PATIENCE_S", 0.01)
    with serving([faulty.model]) as server:
        dispatcher = server.service.dispatcher
        assert server.post("/v1/embeddings", {"input": "passage"}).status_code == 500
        faulty.opened.clear()
        running = [dispatcher.submit(faulty.model.runners["text"], [faulty.model.samples["text"]]) for _ in range(2)]
        server.wait_until(lambda: len(dispatcher) == 0)
        assert statuses(server) == [503] * 3
        assert len(dispatcher) == 1
        faulty.opened.set()
        assert [job.future.exception(20) for job in running] == [None, None]
        assert statuses(server) == [200] * 3


def test_a_success_of_another_batch_is_enough(toy_models: list[ServedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.01)
    answers = iter([True, False])

    class Busy:
        def has_failed(self, runner: Any) -> bool:
            return next(answers)

        def submit(self, runner: Any, rows: Sequence[Any], *, urgent: bool) -> Job:
            return Job(runner, rows, 0.0)

    text_alone = replace(toy_models[0], runners={"text": toy_models[0].runners["text"]})
    asyncio.run(Health([text_alone], Busy()).check())  # type: ignore[arg-type]
    assert list(answers) == []


@pytest.fixture
def service(faulty: Gate) -> Iterator[EmbeddingService]:
    service = EmbeddingService([faulty.model], ServerSettings(port=0), Metrics(), room_bytes=ROOM)
    yield service
    service.close()


def break_model(service: EmbeddingService, faulty: Gate) -> None:
    faulty.error = InferenceError("CUDA error 700")
    job = service.dispatcher.submit(faulty.model.runners["text"], [faulty.model.samples["text"]])
    assert isinstance(job.future.exception(20), InferenceError)


def test_a_worker_whose_model_fails_is_silent(service: EmbeddingService, faulty: Gate) -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        server = worker.WorkerServer(run.configure_server(service), service, theirs)
        asyncio.run(server.report())
        assert ours.recv_bytes() == b"alive"
        break_model(service, faulty)
        asyncio.run(server.report())
        assert not ours.poll()


def test_a_replica_of_ray_whose_model_fails_says_so(
    service: EmbeddingService, faulty: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replica, "service", service, raising=False)
    asyncio.run(Replica().check_health())
    break_model(service, faulty)
    with pytest.raises(RuntimeError, match="toy embeds no text any more"):
        asyncio.run(Replica().check_health())
