"""Prepare the items of a request in threads, within a bound on the memory that the threads use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from runtime.artifact.manifest import ImagePreprocessing, TowerName
from runtime.errors import MissingDependencyError, UsageError
from runtime.inference.tower import LoadedTower, Row
from runtime.preprocess.item import UnusableItemError, prepare_each
from runtime.preprocess.memory_limit import TooLittleMemoryError, limit_memory
from runtime.server.items import ServerItem
from runtime.server.request_errors import RequestError
from runtime.server.served_model import ServedModel

_SMALL_TEXT = 2000  # characters that are tokenized at once: a thread would cost more
# Memory of a tokenizer for each character: on texts of 2 million, WordPiece took up to 441 bytes, and BPE up to 608.
_BYTES_PER_CHARACTER = 640
_COPIES_OF_POINTS = 8  # while a point cloud is centred and scaled
_MOST_CHARACTERS = 1 << 16  # of the texts that a thread takes at once; fewer if memory is short


@dataclass(frozen=True, kw_only=True)
class EmbedCall:
    """A request, whichever interface it came by.

    Attributes:
        model: The model.
        items: The items.
        prompt: The text that is put before each text.
        truncate: Whether texts that are too long are cut.
        normalize: Whether to scale vectors to unit length; ``None``: only if ``dimensions`` are chosen.
        dimensions: Number of leading dimensions to keep; ``None`` for all.
        param: The field of the request that the items came from.
        last: The field of the last item, if it is another one.
    """

    model: ServedModel
    items: Sequence[ServerItem]
    prompt: str = ""
    truncate: bool = False
    normalize: bool | None = None
    dimensions: int | None = None
    param: str = "input"
    last: str | None = None

    def refuse(self, index: int, reason: str, code: str | None = None) -> RequestError:
        """Return the error of an item, with its place in the request."""
        if self.last and index == len(self.items) - 1:
            return RequestError(400, f"{self.last} {reason}", code=code, param=self.last)
        return RequestError(400, f"{self.param}[{index}] {reason}", code=code, param=self.param)


@dataclass(frozen=True)
class _Part:
    """Items of one kind that a thread prepares one after another, by their positions in the call."""

    kind: TowerName
    type: type
    positions: Sequence[int]


class Preparation:
    """Threads that prepare items. A thread waits until the memory that its items need is free."""

    def __init__(self, threads: int, room_bytes: int) -> None:
        """Start ``threads`` threads, which may use ``room_bytes`` together."""
        self._threads, self._count = ThreadPoolExecutor(threads, "prepare"), threads
        self._room, self._used = room_bytes, 0
        self._most_characters = min(_MOST_CHARACTERS, room_bytes // _BYTES_PER_CHARACTER)
        self._turn, self._freed = threading.Lock(), threading.Condition()

    async def prepare(self, call: EmbedCall) -> list[Row]:
        """Return the row of each item.

        Raises:
            RequestError: An item cannot be embedded, or needs more memory than there is.
        """
        parts = _split(call, self._most_characters)
        if len(parts) == 1 and parts[0].kind == "text" and _characters(call.items) <= _SMALL_TEXT:
            prepared = [_prepare(call, parts[0])]
        else:
            turns = asyncio.Semaphore(self._count)  # so that the parts of other requests come between
            waiting = [asyncio.ensure_future(self._prepare_part(call, part, turns)) for part in parts]
            try:
                prepared = await asyncio.gather(*waiting)
            finally:
                for each in waiting:  # the others of a request that failed
                    each.cancel()
        rows: list[Row | UnusableItemError] = [UnusableItemError("")] * len(call.items)
        for part, found in zip(parts, prepared, strict=True):
            for at, row in zip(part.positions, found, strict=True):
                rows[at] = row
        return [_check_usable(call, index, row) for index, row in enumerate(rows)]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _prepare_part(
        self, call: EmbedCall, part: _Part, turns: asyncio.Semaphore
    ) -> Sequence[Row | UnusableItemError]:
        loop = asyncio.get_running_loop()
        async with turns:
            return await loop.run_in_executor(self._threads, self._prepare_in_turn, call, part)

    def _prepare_in_turn(self, call: EmbedCall, part: _Part) -> Sequence[Row | UnusableItemError]:
        """Prepare a part in the memory that it needs; again if its content asks for more than was reserved."""
        known, asked = _needed_bytes(call, part)
        while True:
            try:
                with self._reserve(known + asked, call.param), limit_memory(asked):
                    return _prepare(call, part)
            except TooLittleMemoryError as exc:
                # Doubled, because a reader may ask for a little more hundreds of times.
                asked = max(exc.needed_bytes, min(2 * asked, self._room - known))

    @contextmanager
    def _reserve(self, size_bytes: int, param: str) -> Iterator[None]:
        if not size_bytes:
            yield
            return
        if size_bytes > self._room:
            sizes = f"{size_bytes >> 20} MiB of memory, and the server has {self._room >> 20} MiB for that"
            message = f"an item needs up to {sizes}; send a smaller one, or raise --memory-limit"
            raise RequestError(413, message, param=param)
        with self._turn, self._freed:  # one waits at a time, so that small items do not overtake a large one for ever
            self._freed.wait_for(lambda: self._used + size_bytes <= self._room)
            self._used += size_bytes
        try:
            yield
        finally:
            with self._freed:
                self._used -= size_bytes
                self._freed.notify_all()


def _split(call: EmbedCall, most_characters: int) -> list[_Part]:
    """Return the items in parts that one thread prepares, each of one kind. A text that is longer is a part alone."""
    kinds: dict[tuple[TowerName, type], list[int]] = {}
    for at, item in enumerate(call.items):
        kinds.setdefault((item.kind, type(item.content)), []).append(at)
    parts = []
    for (kind, content_type), positions in kinds.items():
        most, part, characters = call.model.towers[kind].batch_sizes.chunk, list[int](), 0
        for at in positions:
            size = len(call.items[at].content) if content_type is str else 0
            if len(part) == most or (part and characters + size > most_characters):
                parts.append(_Part(kind, content_type, part))
                part, characters = [], 0
            part.append(at)
            characters += size
        parts.append(_Part(kind, content_type, part))
    return parts


def _needed_bytes(call: EmbedCall, part: _Part) -> tuple[int, int]:
    """Return the memory that a thread needs at most to prepare a part: its texts at once, other items one by one.

    The second number is a first guess of the memory that only the content of a mesh tells.
    """
    items = [call.items[at] for at in part.positions]
    if part.type is str:
        return _BYTES_PER_CHARACTER * _characters(items), 0
    preprocessing = call.model.manifest.towers[part.kind].preprocessing
    if isinstance(preprocessing, ImagePreprocessing):
        from runtime.preprocess.image_memory import preparing_bytes

        return max(preparing_bytes(item.content, preprocessing) for item in items), 0
    if part.type is np.ndarray:
        return _COPIES_OF_POINTS * max(item.size_bytes for item in items), 0
    if part.kind == "mesh":
        from runtime.preprocess.mesh.memory import reading_bytes

        known = max(reading_bytes(item.content, item.suffix) for item in items)
        return known, known // 2  # enough for most files
    return 0, 0  # of token ids, the ticket has enough


def _characters(items: Sequence[ServerItem]) -> int:
    return sum(item.size_bytes for item in items)


def _prepare(call: EmbedCall, part: _Part) -> Sequence[Row | UnusableItemError]:
    tower, items = call.model.towers[part.kind], [call.items[at] for at in part.positions]
    if part.type is list:
        return tower.prepare_ids([item.content for item in items])
    if part.kind == "mesh" and part.type is bytes:
        return prepare_each(partial(_prepare_mesh, tower), items)
    prompt = call.prompt if part.kind == "text" else None
    try:
        return tower.prepare([item.content for item in items], truncate=call.truncate, prompt=prompt)
    except UsageError as exc:
        raise RequestError(400, str(exc)) from exc


def _prepare_mesh(tower: LoadedTower, item: ServerItem) -> Row:
    from runtime.preprocess.mesh.formats import read_mesh_bytes

    try:
        mesh = read_mesh_bytes(item.content, item.suffix)
    except MissingDependencyError as exc:
        raise RequestError(501, str(exc)) from exc
    (row,) = tower.prepare([mesh])
    if isinstance(row, UnusableItemError):
        raise row
    return row


def _check_usable(call: EmbedCall, index: int, row: Row | UnusableItemError) -> Row:
    if isinstance(row, UnusableItemError):
        raise call.refuse(index, f"cannot be embedded: {row}", code="unusable_item")
    return row
