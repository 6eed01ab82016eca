"""The folder from which an artifact was exported, for those who load models and not graphs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders.peer import PeerError
from benchmarks.contenders.protocol import Subject
from runtime.artifact.manifest import Tower


def find_model_folder(subject: Subject, *, needs_layers: bool = False) -> Path:
    """Returns the folder of ``subject``'s model, if sentence-transformers makes the artifact's vectors of it.

    It pools and normalises as the folder says, and takes the mean where the folder says nothing.

    Args:
        subject: An artifact of texts.
        needs_layers: Whether the folder has to say, in the layout of sentence-transformers.

    Raises:
        PeerError: There is no such folder, or its vectors would be others.
    """
    weights = subject.weights or "unknown"
    if weights.partition(":")[0] in ("unknown", "pretrained", "random"):
        raise PeerError(f"it loads a model's folder, and the weights are {weights}; name the folder they came from")
    folder = Path(weights)
    has_layers = (folder / "modules.json").is_file()
    if not has_layers and not (folder / "config.json").is_file():
        raise PeerError(f"{folder} is no folder in the layout of sentence-transformers or transformers")
    if needs_layers and not has_layers:
        raise PeerError(f"{folder} has no modules.json, so its export would have neither pooling nor normalisation")
    if not _gives_same_vectors(subject.manifest.towers[subject.tower], has_layers):
        raise PeerError(
            f"the artifact's pooling or normalisation is not what sentence-transformers makes of {folder}; export it "
            "without --pooling and --normalize to compare"
        )
    return folder.resolve()


def _gives_same_vectors(tower: Tower, has_layers: bool) -> bool:
    if has_layers:
        return tower.decided_by == "checkpoint"
    return tower.pooling.method == "mean" and not tower.projections and not tower.normalized
