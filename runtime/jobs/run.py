"""Run a local job: read items, embed them, record progress in the journal, and write the output."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from runtime.console import progress_bar
from runtime.errors import ItemError, OutputError, UsageError
from runtime.inference.options import EmbedOptions
from runtime.inference.truncation import without_truncation_warning
from runtime.jobs.inputs import JobInputs, check_column_use, open_inputs
from runtime.jobs.items import ItemValue, SourceItem, Unreadable, update_digest
from runtime.jobs.journal import Journal, JournalEntry, finish_move, is_begun
from runtime.jobs.origin import VectorOrigin, describe_origin, digest_item
from runtime.jobs.outputs import OutputOptions, write_output
from runtime.postprocess import check_dtype
from runtime.version import __version__

if TYPE_CHECKING:
    from runtime.inference.embedder import Embedder, Item
    from runtime.inference.pipeline import PartialEmbeddings


@dataclass(frozen=True, kw_only=True)
class EmbedJob:
    """A local job: many items in, one file of vectors out.

    Attributes:
        inputs: The inputs as the user named them, see :func:`runtime.jobs.inputs.open_inputs`.
        column: Column of the files that have columns; ``None``: the name of the tower.
        output: The output file.
        options: How items are embedded.
        resume: Continue an unfinished job, or start a new one if there is none.
        force: Replace an existing output. Drop an unfinished job, unless ``resume`` is given.
        progress: Whether to draw a progress bar on standard error.
    """

    inputs: Sequence[str]
    column: str | None = None
    output: OutputOptions
    options: EmbedOptions = field(default_factory=EmbedOptions)
    resume: bool = False
    force: bool = False
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class EmbedJobResult:
    """The counts of a finished job.

    Attributes:
        rows: Number of output rows.
        items: Number of input items.
        resumed: Number of input items that an earlier run embedded.
        truncated: Number of texts that were cut to the token limit.
    """

    rows: int
    items: int
    resumed: int
    truncated: int


def is_complete(job: EmbedJob) -> bool:
    """Check that the output can be written, before anything is loaded.

    Returns:
        Whether the output exists and ``resume`` finds nothing left to do.

    Raises:
        OutputError: The output cannot be written, or exists already.
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
    if job.force or (job.resume and is_begun(path)):
        return False
    if job.resume and path.exists():
        return True
    _check_free(path)
    return False


def _check_free(output: Path) -> None:
    if output.exists():
        raise OutputError(f"the output {output} exists; name another one, or replace it with --force")


def run_job(model: Embedder, job: EmbedJob) -> EmbedJobResult:
    """Embed the inputs of ``job`` and write its output. Progress is kept whenever an error ends the job.

    Raises:
        KeyboardInterrupt: Ctrl-C, or SIGTERM as :mod:`runtime.console` handles it.
        ItemError: No item can be embedded; or with ``on_error="raise"``, one item cannot.
        OutputError: The output exists and ``force`` is not given, or the disk is full, for example.
        UsageError: An input or option is wrong, or differs from those of the job to resume.
    """
    inputs = open_inputs(job.inputs, towers=model.towers, column=job.column)
    check_column_use(job.column, inputs.lists)
    output = job.output.path
    if output.exists() and any(output.samefile(path) for path in inputs.lists):
        raise UsageError(f"the output {output} is among the inputs and would overwrite one; name another output")
    dim = job.options.truncate_dim or model.output_dim
    check_dtype(job.output.dtype, job.output.ranges, dim)
    origin = describe_origin(model, job.options, inputs=job.inputs, column=job.column, dtype=job.output.dtype)
    journal = Journal(output, _fingerprint(origin), dim=dim, resume=job.resume, force=job.force)
    resumed = journal.last.stop
    try:
        if journal.is_new and not job.force:  # another process may have finished while this one loaded the model
            _check_free(output)
        with without_truncation_warning():  # the result counts truncated texts
            _JobRunner(model, job, journal, inputs).embed()
        _check_rows(journal, job)
        write_output(journal, job.output, origin)
        journal.discard()
    except KeyboardInterrupt:
        kept = journal.last.stop
        way_out = f"; {kept} items are kept: run the same command with --resume" if kept else ""
        raise KeyboardInterrupt(f"interrupted{way_out}") from None
    finally:
        journal.close()
    last = journal.last
    return EmbedJobResult(rows=last.rows, items=last.stop, resumed=resumed, truncated=last.truncated)


class _JobRunner:
    """Embeds the inputs from the end of the journal to their end."""

    def __init__(self, model: Embedder, job: EmbedJob, journal: Journal, inputs: JobInputs) -> None:
        self._model, self._job, self._journal, self._inputs = model, job, journal, inputs
        self._offset = journal.last.stop  # the stream counts items from 0, the journal from here
        self._last = journal.last
        self._digest = hashlib.sha256()
        self._in_flight: deque[SourceItem] = deque()  # read by the stream, but not embedded yet

    def embed(self) -> None:
        sources = iter(self._inputs)
        self._skip_done(sources)
        options = replace(self._job.options, on_error="skip")  # keep the vectors before a failing item in any case
        items = cast("Iterator[Item]", self._items(sources))  # an Unreadable fails at its own position
        total, hidden = self._inputs.total, not self._job.progress
        with (
            progress_bar(total=total, unit="item", label="embed", initial=self._offset, hidden=hidden) as bar,
            closing(self._model.stream(items, options, bar.update)) as stream,
        ):
            try:
                for embeddings in stream:
                    self._record(embeddings)
            finally:
                self._journal.commit()  # closing the stream may have to wait for a batch

    def _skip_done(self, sources: Iterator[SourceItem]) -> None:
        """Skip the items that an earlier run embedded, and check that they are the same."""
        skipped = 0
        for source in islice(sources, self._offset):
            update_digest(self._digest, [source])
            skipped += 1
        if self._offset and (skipped < self._offset or self._digest.hexdigest() != self._last.sha256):
            found = f"there are now only {skipped}" if skipped < self._offset else "these items or their order differ"
            changed = f"the inputs have changed since {self._job.output.path} was begun: {self._offset} items are done"
            way_out = "restore the inputs, or start again with --force and without --resume"
            raise UsageError(f"{changed}, but {found}; {way_out}")

    def _items(self, sources: Iterable[SourceItem]) -> Iterator[ItemValue]:
        for source in sources:
            self._in_flight.append(source)
            yield source.item

    def _record(self, embeddings: PartialEmbeddings) -> None:
        count = len(embeddings.kept) + len(embeddings.failures)
        sources = [self._in_flight.popleft() for _ in range(count)]
        failures = []
        for failure in embeddings.failures:
            index = self._offset + failure.index
            source = sources[index - self._last.stop]
            reason = source.item.reason if isinstance(source.item, Unreadable) else failure.reason
            failures.append(ItemError(index, source.describe(), reason))
        if not failures or self._job.options.on_error == "skip":
            self._append(sources, embeddings, failures)
            return
        before = sources[: failures[0].index - self._last.stop]
        if before:
            self._append(before, embeddings, [])
        raise _with_way_out(failures[0])

    def _append(self, sources: Sequence[SourceItem], embeddings: PartialEmbeddings, failures: list[ItemError]) -> None:
        """Append the entry of ``sources`` to the journal; ``embeddings`` may hold more rows than these."""
        update_digest(self._digest, sources)
        failed, stop = {failure.index for failure in failures}, self._last.stop + len(sources)
        done = [source for index, source in enumerate(sources, self._last.stop) if index not in failed]
        has_names = self._job.output.has_names
        entry = JournalEntry(
            stop=stop,
            rows=self._last.rows + len(done),
            failures=[(failure.index, failure.item, failure.reason) for failure in failures],
            names=[source.name for source in done] if has_names else None,
            truncated=self._last.truncated + int((embeddings.truncated + self._offset < stop).sum()),
            sha256=self._digest.hexdigest(),
            digests=[digest_item(source.item) for source in done] if has_names else None,
        )
        self._journal.append(entry, embeddings.vectors[: len(done)])
        self._last = entry


def _with_way_out(failure: ItemError) -> ItemError:
    """Return the error with a note on the items before it and on what to do."""
    if not failure.index:
        return failure
    kept = "1 item before it is kept" if failure.index == 1 else f"{failure.index} items before it are kept"
    way_out = "fix it, or add --on-error skip, and run the same command with --resume (or with --force, from the start)"
    return ItemError(failure.index, failure.item, f"{failure.reason}; {kept}: {way_out}")


def _fingerprint(origin: VectorOrigin) -> dict[str, Any]:
    """Return what must be equal when the job is resumed. The vectors may then be stored as another type.

    Another export of the same model may go on. Another version of this package may read items differently, and write
    another journal.
    """
    settings = {name: value for name, value in asdict(origin).items() if name not in ("artifact", "facts", "dtype")}
    return {"version": __version__} | settings


def _check_rows(journal: Journal, job: EmbedJob) -> None:
    if journal.last.rows:
        return
    for entry in journal.entries():
        journal.discard()
        raise ItemError(*entry.failures[0])
    raise UsageError(f"there is nothing to embed: {' '.join(job.inputs)[:200]} holds no item")
