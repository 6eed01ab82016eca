"""The job itself: sources through an embedder into the journal, and from there into the output."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from runtime.errors import ItemError, OutputError, UsageError
from runtime.inference.embedder import without_truncation_warning
from runtime.jobs.inputs import Inputs, open_inputs
from runtime.jobs.items import Source, SourceItem, Unreadable, digest_sources
from runtime.jobs.journal import SCHEMA, Journal, Part, finish_move, is_begun
from runtime.jobs.outputs import OutputOptions, write_output

if TYPE_CHECKING:
    from runtime.inference.embedder import Embedder, Item
    from runtime.inference.pipeline import PartialEmbeddings


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be embedded, how, and where the vectors go.

    Attributes:
        words: What is embedded, as :func:`runtime.jobs.inputs.open_inputs` takes it.
        column: The column of ``.jsonl`` and ``.parquet`` files.
        output: The file that is written.
        on_error: Whether an item that cannot be embedded ends the job, or is left out and reported.
        resume: Go on with an interrupted job, or start where there is none.
        force: Replace an output that is there, and drop an interrupted job unless ``resume`` is given.
        normalize: Scale vectors to unit length.
        truncate_dim: Values of a vector that are kept, its first ones; by default all.
        batch_size: Items that go through the graph together; by default as many as is good.
        progress: Draw a progress bar on standard error.
    """

    words: Sequence[str]
    column: str | None = None
    output: OutputOptions
    on_error: Literal["raise", "skip"] = "raise"
    resume: bool = False
    force: bool = False
    normalize: bool = False
    truncate_dim: int | None = None
    batch_size: int | None = None
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What became of a job.

    Attributes:
        rows: Rows of the output.
        items: Items of the input.
        resumed: Items of these that an earlier run had done.
        truncated: Texts that were embedded without their end.
    """

    rows: int
    items: int
    resumed: int
    truncated: int


def is_complete(job: Job) -> bool:
    """Checks the place of the output, before anything is loaded.

    Returns:
        Whether the output is there and ``resume`` finds nothing left to do.

    Raises:
        OutputError: It cannot be written there, or is there already.
    """
    path = job.output.path
    if path.is_dir():
        raise OutputError(f"the output {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to write {path.name} in; create it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} is read-only; name another place")
    if job.resume and finish_move(path):
        return True
    if not path.exists() or job.force or (job.resume and is_begun(path)):
        return False
    if not job.resume:
        raise OutputError(f"the output {path} is there already; name another one, or replace it with --force")
    return True


def run_job(model: Embedder, job: Job) -> JobResult:
    """Embeds what ``job`` names, and writes the output.

    Raises:
        KeyboardInterrupt: Ctrl-C, or SIGTERM as :mod:`runtime.console` has it. What is done is kept.
        ItemError: With ``on_error="raise"``, an item cannot be embedded; or none can.
        OutputError: The disk is full, say. What is done is kept.
        UsageError: The inputs or options cannot be right, or are not those of the job that is to be resumed.
    """
    inputs = open_inputs(job.words, towers=model.towers, column=job.column)
    _check_not_read(job.output.path, inputs)
    dim = job.truncate_dim or model.output_dim
    job.output.check_ranges(dim)
    journal = Journal(job.output.path, _fingerprint(model, job), dim=dim, resume=job.resume, force=job.force)
    resumed = journal.last.stop
    try:
        with without_truncation_warning():  # the result counts the texts that were cut
            _Run(model, job, journal, inputs).embed()
        _check_rows(journal, job)
        write_output(journal, job.output)
        journal.discard()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_interruption(journal)) from None
    finally:
        journal.close()
    rows, items = journal.last.rows, journal.last.stop
    return JobResult(rows=rows, items=items, resumed=resumed, truncated=journal.last.truncated)


class _Run:
    """One go at a job: from where its journal ends to the end of its inputs."""

    def __init__(self, model: Embedder, job: Job, journal: Journal, inputs: Inputs) -> None:
        self._model, self._job, self._journal, self._inputs = model, job, journal, inputs
        self._offset = journal.last.stop  # the stream counts from 0, the job goes on
        self._last = journal.last
        self._digest = hashlib.sha256()
        self._pulled: deque[Source] = deque()  # by the stream, which looks some windows ahead

    def embed(self) -> None:
        sources = iter(self._inputs)
        self._skip(sources)
        with self._bar() as bar:
            stream = self._model.embed_stream(
                cast("Iterator[Item]", self._items(sources)),  # what is no item fails in its place
                batch_size=self._job.batch_size,
                on_error="skip",  # also where the job raises: what is embedded before a failure is worth keeping
                normalize=self._job.normalize,
                truncate_dim=self._job.truncate_dim,
                on_progress=bar.update,
            )
            with closing(stream):
                try:
                    for embeddings in stream:
                        self._take(embeddings)
                finally:
                    self._journal.commit()  # before the stream is closed, which may have to wait for a batch

    def _skip(self, sources: Iterator[Source]) -> None:
        """Passes over what an earlier run has done, and makes sure that it is the same."""
        skipped = 0
        for source in islice(sources, self._offset):
            digest_sources(self._digest, [source])
            skipped += 1
        if self._offset and (skipped < self._offset or self._digest.hexdigest() != self._last.sha256):
            found = f"there are {skipped} now" if skipped < self._offset else "they are others now, or in another order"
            raise UsageError(
                f"the inputs have changed since {self._job.output.path} was begun: {self._offset} items of them are "
                f"done, and {found}; restore them, or start again with --force and without --resume"
            )

    def _items(self, sources: Iterable[Source]) -> Iterator[SourceItem]:
        for source in sources:
            self._pulled.append(source)
            yield source.item

    def _take(self, embeddings: PartialEmbeddings) -> None:
        count = len(embeddings.kept) + len(embeddings.failures)
        sources = [self._pulled.popleft() for _ in range(count)]
        failures = [self._describe(failure, sources) for failure in embeddings.failures]
        if not failures or self._job.on_error == "skip":
            self._append(sources, embeddings, failures)
            return
        first = failures[0]
        before = sources[: first.index - self._last.stop]
        if before:
            self._append(before, embeddings, [])
        raise _with_way_out(first)

    def _describe(self, failure: ItemError, sources: Sequence[Source]) -> ItemError:
        index = self._offset + failure.index
        source = sources[index - self._last.stop]
        reason = source.item.reason if isinstance(source.item, Unreadable) else failure.reason
        return ItemError(index, source.describe(), reason)

    def _append(self, sources: Sequence[Source], embeddings: PartialEmbeddings, failures: list[ItemError]) -> None:
        """Hands the journal the part that ``sources`` make, of which ``embeddings`` may hold more."""
        digest_sources(self._digest, sources)
        failed, stop = {failure.index for failure in failures}, self._last.stop + len(sources)
        names = [source.name for index, source in enumerate(sources, self._last.stop) if index not in failed]
        part = Part(
            stop=stop,
            rows=self._last.rows + len(names),
            failures=[(failure.index, failure.item, failure.reason) for failure in failures],
            names=names if self._job.output.has_names else None,
            truncated=self._last.truncated + int((embeddings.truncated + self._offset < stop).sum()),
            sha256=self._digest.hexdigest(),
        )
        self._journal.append(part, embeddings.vectors[: len(names)])
        self._last = part

    def _bar(self) -> Any:
        from tqdm import tqdm  # not for `--help`

        hidden = not self._job.progress
        return tqdm(total=self._inputs.total, initial=self._offset, unit="item", desc="embed", disable=hidden)


def _with_way_out(failure: ItemError) -> ItemError:
    """Returns the error with what becomes of the items before it."""
    if not failure.index:
        return failure
    kept = "1 item before it is kept" if failure.index == 1 else f"{failure.index} items before it are kept"
    way_out = (
        "mend it, or add --on-error skip, and run the same command with --resume (or with --force, from the start)"
    )
    return ItemError(failure.index, failure.item, f"{failure.reason}; {kept}: {way_out}")


def _fingerprint(model: Embedder, job: Job) -> dict[str, Any]:
    return {
        "journal's schema": SCHEMA,
        "artifact": model.manifest.sha256,
        "tower": list(model.towers),
        "variant": model.variant,
        "normalize": job.normalize,
        "truncate_dim": job.truncate_dim,
        "column": job.column,
        "input": list(job.words),
    }


def _check_not_read(output: Path, inputs: Inputs) -> None:
    if output.exists() and any(output.samefile(path) for path in inputs.lists):
        raise UsageError(f"the output {output} is among the inputs, and would replace what it is made of; name another")


def _check_rows(journal: Journal, job: Job) -> None:
    if journal.last.rows:
        return
    for part in journal.parts():
        journal.discard()
        raise ItemError(*part.failures[0])
    raise UsageError(f"there is nothing to embed: {' '.join(job.words)[:200]} holds no item")


def _interruption(journal: Journal) -> str:
    kept = journal.last.stop
    return f"interrupted; {kept} items are kept: run the same command with --resume" if kept else "interrupted"
