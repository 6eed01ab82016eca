"""Put models into the cache of the Hugging Face hub, in its own layout."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
from huggingface_hub.hf_api import RepoFile

REVISION = "0123456789abcdef0123456789abcdef01234567"


def add_to_cache(
    hub: Path, model_id: str, folder: Path, revision: str = REVISION, *, as_main: bool = True, listed: bool = True
) -> Path:
    """Copy the model in ``folder`` into the cache ``hub``, and return the copy.

    With ``as_main``, the branch ``main`` is at ``revision``. Without ``listed``, there is no listing of the model's
    files, as after downloads of single files.
    """
    repository = _repository(hub, model_id)
    snapshot = Path(shutil.copytree(folder, repository / "snapshots" / revision))
    if as_main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
    if listed:
        entries = {name: TreeCacheEntry(size=1, blob_id="0" * 40) for name in _names(folder)}
        write_tree_cache(str(repository), revision, entries)
    return snapshot


@contextmanager
def online(folder: Path, revision: str = REVISION, *, newer: str | None = None) -> Iterator[None]:
    """Let the hub have the model in ``folder`` in the block: its client downloads, and fills its own cache.

    With ``newer``, the branch is at that commit after the first look.
    """
    siblings = [SimpleNamespace(rfilename=name) for name in _names(folder)]
    commits = iter([revision])

    def download(repo_id: str, filename: str, *, revision: str, cache_dir: str, **_: object) -> str:
        target = _repository(Path(cache_dir), repo_id) / "snapshots" / revision / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copyfile(folder / filename, target))

    def describe(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(sha=next(commits, newer or revision), siblings=siblings)

    def list_tree(*_: object, **__: object) -> list[RepoFile]:
        return [RepoFile(path=name, size=1, oid="0" * 40) for name in _names(folder)]  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HfApi, "model_info", describe)
        patch.setattr(HfApi, "list_repo_tree", list_tree)
        patch.setattr("huggingface_hub._snapshot_download.hf_hub_download", download)
        yield


def _repository(hub: Path, model_id: str) -> Path:
    return hub / f"models--{model_id.replace('/', '--')}"


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
