"""Check that a loaded pipeline reproduces the golden vectors, and remember the verdict."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from runtime.artifact.manifest import Manifest
from runtime.artifact.reader import check_files
from runtime.errors import NonFiniteError, ProviderError
from runtime.inference.embedder import Embedder
from runtime.inference.pipeline import Pipeline
from runtime.loading.golden import describe_tower, verify_towers
from runtime.session.provider_options import ProviderOptions, find_reduced_precision
from runtime.session.verdicts import settle

T = TypeVar("T")


class GoldenMissError(ProviderError):
    """The golden vectors are not reproduced, and every file of the artifact is intact."""


def check_golden(folder: Path, manifest: Manifest, pipeline: Pipeline) -> None:
    """Check that ``pipeline`` reproduces the golden vectors of its towers.

    Raises:
        GoldenMissError: It does not.
        IntegrityError: It does not, and a file of the artifact is damaged.
        EmbeddingBackbonesError: The vectors cannot be compared now, for example for lack of memory.
    """
    try:
        towers = verify_towers(Embedder(manifest, pipeline), folder).items()
        misses = [describe_tower(name, each) for name, each in towers if not each.agreement.within(each.tolerance)]
    except NonFiniteError as exc:
        misses = [str(exc)]
    if misses:
        check_files(folder, manifest)  # the hashes that ``load`` checks at the same time may not be complete
        reduced = find_reduced_precision(pipeline.info.provider_options)
        cause, way_out = (f" {reduced.cause}", f"; {reduced.way_out}") if reduced else ("", "")
        raise GoldenMissError(f"the golden vectors are not reproduced{cause} ({misses[0]}){way_out}")


def settle_by(run: Callable[[], T], artifact: str, graphs: Collection[str], options: ProviderOptions) -> T:
    """Return the result of ``run``, which calls :func:`check_golden`, and record a pass or a miss as the verdict.

    The other arguments are those of :func:`runtime.session.verdicts.find_verdict`. Another error gives no verdict: the
    next load checks again.
    """
    try:
        result = run()
    except GoldenMissError:
        settle(artifact, graphs, options, passed=False)
        raise
    settle(artifact, graphs, options)
    return result
