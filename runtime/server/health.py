"""Tell whether the models can embed. After a batch that failed, a sample is embedded to find out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from runtime.artifact.manifest import TowerName
from runtime.server.dispatcher import Dispatcher
from runtime.server.request_errors import RequestError
from runtime.server.served_model import ServedModel
from runtime.server.waiting_queue import Job

_PATIENCE_S = 3.0  # for a sample; less than the timeouts of the probes in docs/deploy
_POLL_S = 0.05


class Health:
    """The health of the models. One sample runs at a time, however many clients ask."""

    def __init__(self, models: Iterable[ServedModel], dispatcher: Dispatcher) -> None:
        """Watch ``models``, whose batches ``dispatcher`` runs."""
        self._models, self._dispatcher, self._turn = tuple(models), dispatcher, asyncio.Lock()

    async def check(self, model: ServedModel | None = None) -> None:
        """Embed a sample of each tower whose latest batch failed: of ``model``, or of all models.

        Raises:
            RequestError: A sample cannot be embedded, either (503).
        """
        for each in self._models if model is None else (model,):
            for tower, runner in each.runners.items():
                if self._dispatcher.has_failed(runner):
                    await self._check_tower(each, tower)

    async def _check_tower(self, model: ServedModel, tower: TowerName) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S), self._turn:
                await self._embed_sample(model, tower)
        except Exception as exc:
            reason = f"no vector in {_PATIENCE_S:g} s" if isinstance(exc, TimeoutError) else exc
            raise RequestError(
                503, f"{model.name} embeds no {tower} any more: {reason}; restart the server if this stays"
            ) from exc

    async def _embed_sample(self, model: ServedModel, tower: TowerName) -> None:
        """Embed a sample, unless another batch of the tower succeeds first: on a busy server, a sample has to wait."""
        runner = model.runners[tower]
        if not self._dispatcher.has_failed(runner):  # another client has waited for a sample meanwhile
            return
        job: Job = self._dispatcher.submit(runner, [model.samples[tower]])
        embedded = asyncio.wrap_future(job.future)
        try:
            while not embedded.done() and self._dispatcher.has_failed(runner):
                await asyncio.wait([embedded], timeout=_POLL_S)
            if embedded.done():
                embedded.result()
        finally:
            embedded.cancel()
            self._dispatcher.cancel(job)
