"""Find the model folder from which an artifact was exported, for contenders that load models instead of graphs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders.peer import PeerError
from benchmarks.contenders.protocol import Target
from runtime.artifact.manifest import Tower


def find_model_folder(target: Target, *, needs_layers: bool = False) -> Path:
    """Return the model folder of ``target`` if sentence-transformers makes the same vectors from it.

    sentence-transformers pools and normalizes as ``modules.json`` says; without this file it pools by the mean.

    With ``needs_layers``, the folder must have a ``modules.json``.

    Raises:
        PeerError: The folder is unknown, or its vectors would differ.
    """
    weights = target.weights or "unknown"
    if weights.partition(":")[0] in ("unknown", "pretrained", "random"):
        raise PeerError(f"it loads a model folder, but the weights are {weights}; name the folder with --weights")
    folder = Path(weights)
    has_layers = (folder / "modules.json").is_file()
    if not has_layers and not (folder / "config.json").is_file():
        raise PeerError(
            f"{folder} has neither modules.json nor config.json; name a folder of sentence-transformers or transformers"
        )
    if needs_layers and not has_layers:
        raise PeerError(f"{folder} has no modules.json, so its export would have neither pooling nor normalization")
    if not _gives_same_vectors(target.manifest.towers[target.tower], has_layers):
        raise PeerError(
            f"pooling or normalization of the artifact differs from that of sentence-transformers for {folder}; "
            "export it without --pooling and --normalize to compare"
        )
    return folder.resolve()


def _gives_same_vectors(tower: Tower, has_layers: bool) -> bool:
    if has_layers:
        return tower.decided_by == "checkpoint"
    others = tower.projections or tower.layers[1:]  # after the pooling
    return tower.pooling.method == "mean" and not others and not tower.normalized
