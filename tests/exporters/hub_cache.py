"""Put models into the cache of the Hugging Face hub, in its own layout."""

from __future__ import annotations

import shutil
from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"


def add_to_cache(hub: Path, model_id: str, folder: Path, revision: str = REVISION, *, as_main: bool = True) -> Path:
    """Copy the model in ``folder`` into the cache ``hub``, and return the copy.

    With ``as_main``, the branch ``main`` is at ``revision``.
    """
    repository = hub / f"models--{model_id.replace('/', '--')}"
    snapshot = Path(shutil.copytree(folder, repository / "snapshots" / revision))
    if as_main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
    return snapshot
