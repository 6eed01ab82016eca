"""Tell whether the models can embed. After a batch that failed, a sample is embedded to find out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from runtime.artifact.manifest import TowerName
from runtime.server.dispatcher import Dispatcher
from runtime.server.request_errors import RequestError
from runtime.server.served_model import ServedModel
from runtime.server.waiting_queue import BatchRunner, Job

PATIENCE_S = 3.0  # for a check; less than the timeouts of the probes in docs/deploy


class Health:
    """The health of the models. A tower has one sample at a time, however many clients ask."""

    def __init__(self, models: Iterable[ServedModel], dispatcher: Dispatcher) -> None:
        """Watch ``models``, whose batches ``dispatcher`` runs."""
        self._models, self._dispatcher = tuple(models), dispatcher
        self._samples: dict[BatchRunner, Job] = {}

    async def check(self, model: ServedModel | None = None) -> None:
        """Embed a sample of each tower whose latest batch failed: of ``model``, or of all models.

        Raises:
            RequestError: A sample cannot be embedded, either (503).
        """
        models = self._models if model is None else (model,)
        failed = [
            (each, tower)
            for each in models
            for tower, runner in each.runners.items()
            if self._dispatcher.has_failed(runner)
        ]
        await asyncio.gather(*(self._check_tower(*each) for each in failed))

    async def _check_tower(self, model: ServedModel, tower: TowerName) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wrap_future(self._sample(model, tower).future)
        except Exception as exc:
            late = isinstance(exc, TimeoutError)
            if late and not self._dispatcher.has_failed(model.runners[tower]):  # another batch has succeeded
                return
            reason = f"no vector in {PATIENCE_S:g} s" if late else exc
            raise RequestError(
                503, f"{model.name} embeds no {tower} any more: {reason}; restart the server if this stays"
            ) from exc

    def _sample(self, model: ServedModel, tower: TowerName) -> Job:
        """Return the job of a sample: the one that still waits for a thread, or else a new one."""
        runner = model.runners[tower]
        job = self._samples.get(runner)
        if job is None or job.future.done():
            job = self._samples[runner] = self._dispatcher.submit(runner, [model.samples[tower]], urgent=True)
        return job
