"""Write the folder of an artifact, completely or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from exporters.errors import DestinationError
from runtime.array_types import Float32Array
from runtime.artifact.describe import weight_warnings
from runtime.artifact.manifest import GOLDEN_FILE, MANIFEST_FILE, FileRecord, Manifest, Tower, TowerName
from runtime.artifact.reader import read_manifest, record_file
from runtime.artifact.signature import SIGNATURE_FILE
from runtime.atomic_write import NO_SPACE, find_leftovers, finish_replacement, partial_path, replace_folder
from runtime.file_lock import locked

README_FILE = "README.md"
_GRAPHS = {f"{name}.onnx" for name in get_args(TowerName)}
_FILES = {MANIFEST_FILE, GOLDEN_FILE, README_FILE, "tokenizer.json", *_GRAPHS, *(f"{name}.data" for name in _GRAPHS)}
_EXAMPLES: Mapping[TowerName, str] = {
    "text": 'embed_text(["a text", "another one"])',
    "image": 'embed_image(["a.jpg", "b.jpg"])',
    "mesh": 'embed(["a.obj", "b.stl"])',
}
_LOCKED_BY_THEN_S = 10  # age of a partial folder by which the export that made it has locked it
_ELSEWHERE = "use --output for another folder"


def check_destination(destination: Path, *, force: bool, elsewhere: str = _ELSEWHERE) -> None:
    """Check, before the export, that ``destination`` can be written. First finish a replacement that was killed.

    Args:
        destination: The folder to write or to replace.
        force: Whether to replace an artifact.
        elsewhere: How the user writes to another folder; empty if the command can only replace the artifact.

    Raises:
        DestinationError: The destination exists and ``force`` is not given. Or it is the current folder, holds other
            files than those of an artifact, or cannot be written.
    """
    destination = _absolute(destination)
    with writing(destination, elsewhere=elsewhere):
        finish_replacement(destination)
        if not os.path.lexists(destination):
            _check_writable(destination.parent)
            return
        if not force:
            raise DestinationError(f"{destination} exists; use --force to replace it, or --output for another folder")
        obstacle, remedy = _find_obstacle(destination)
        if obstacle:
            raise DestinationError(f"{destination} {obstacle}, so it is not replaced; {_either(remedy, elsewhere)}")


def _absolute(path: Path) -> Path:
    """Return ``path`` without ``..`` and without links to its parent. Its last part may be a link."""
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def _either(*advice: str) -> str:
    return ", or ".join(filter(None, advice))


def _check_writable(folder: Path) -> None:
    """Check that ``folder`` exists or can be made, and is writable."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file")
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, f"{folder} is read-only")


def _find_obstacle(destination: Path) -> tuple[str, str]:
    """Return why ``destination`` cannot be replaced, and what the user can do; both are empty if it can."""
    if destination.is_symlink():
        return f"is a symbolic link to {destination.readlink()}", "name that folder itself"
    if Path.cwd().is_relative_to(destination):
        return "is the current folder or holds it", "run the command in another folder"
    try:
        document = json.loads((destination / MANIFEST_FILE).read_text("utf-8"))
        written = {MANIFEST_FILE, *document["files"]} if document["schema_version"] else set()
    except (OSError, ValueError, KeyError, TypeError):  # a damaged artifact may be replaced if it holds no other files
        names = {path.name for path in destination.iterdir()} if destination.is_dir() else set()
        written = names if GOLDEN_FILE in names and names <= _FILES else set()
    if not written:
        return "is not an artifact", ""
    others = sorted({path.name for path in destination.iterdir()} - written)
    if not others:
        return "", ""
    remedy = "remove it and sign again afterwards" if others == [SIGNATURE_FILE] else "move them away"
    return f"holds {', '.join(others)} beside the artifact", remedy


@contextmanager
def new_artifact(destination: Path, *, force: bool, elsewhere: str = _ELSEWHERE) -> Iterator[Path]:
    """Yield an empty folder that becomes ``destination`` if the block succeeds, and is deleted if the block fails.

    The folder lies beside ``destination``, so moving it there is one rename. The manifest is written last, so a killed
    process leaves no folder that ``runtime.load`` accepts. The arguments are those of :func:`check_destination`.

    Raises:
        DestinationError: The destination exists, or cannot be written.
    """
    destination = _absolute(destination)
    check_destination(destination, force=force, elsewhere=elsewhere)
    made = [parent for parent in destination.parents if not parent.exists()]
    with writing(destination, elsewhere=elsewhere):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(destination)
        folder = partial_path(destination)
        folder.mkdir()
    try:
        with locked(folder):
            yield folder
            with writing(destination, elsewhere=elsewhere):
                check_destination(destination, force=force, elsewhere=elsewhere)  # again: an export takes minutes
                replace_folder(folder, destination)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a folder is not empty
            for parent in made:
                parent.rmdir()


def _remove_leftovers(destination: Path) -> None:
    """Remove the partial folders of exports to ``destination`` that were killed; not on Windows."""
    for folder in find_leftovers(destination, "partial"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _LOCKED_BY_THEN_S:
                continue
            with locked(folder) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(destination: Path, *, elsewhere: str = _ELSEWHERE) -> Iterator[None]:
    """Report errors of the operating system in the block. ``elsewhere`` is that of :func:`check_destination`.

    Raises:
        DestinationError: The disk is full, the folder is read-only, or another system call fails.
    """
    try:
        yield
    except OSError as exc:
        full = f"free some disk space, there and in {tempfile.gettempdir()}"
        remedy = full if exc.errno in NO_SPACE else "check its folder and its disk"
        advice = _either(remedy, elsewhere)
        raise DestinationError(f"cannot write {destination} ({exc.strerror or exc}); {advice}") from exc


def write_golden(folder: Path, towers: Mapping[TowerName, tuple[Sequence[Any], Float32Array]]) -> None:
    """Write the golden items of each tower as arrays, with torch's embeddings of them."""
    arrays = {f"{name}_embedding": vectors for name, (_, vectors) in towers.items()}
    for name, (items, _) in towers.items():
        arrays |= {f"{name}_{index}": np.asarray(item) for index, item in enumerate(items)}
    with (folder / GOLDEN_FILE).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def write_readme(folder: Path, manifest: Manifest, summary: str) -> None:
    """Write the artifact's README. ``summary`` describes the manifest, which has no record of the README yet."""
    warnings = "".join(f"> **WARNING: {warning}.**\n\n" for warning in weight_warnings(manifest))
    cleaned = any(getattr(tower.preprocessing, "cleaning", "none") != "none" for tower in manifest.towers.values())
    extras = "cpu" + ",mesh" * ("mesh" in manifest.towers) + ",openclip" * cleaned
    shape = f"[2, {manifest.output_dim}] float32"
    examples = "\n".join(f"vectors = model.{_EXAMPLES[name]}  # {shape}" for name in manifest.towers)
    files = "\n".join(
        f"| {file} | {_describe_file(file, tower)} of the {name} tower |"
        for name, tower in manifest.towers.items()
        for file in tower.files()
    )
    (folder / README_FILE).write_text(
        f"""# {manifest.name}

{warnings}This folder holds an embedding model for the task {manifest.task}, exported to ONNX. Its embeddings have
{manifest.output_dim} dimensions.

```python
import runtime  # pip install 'embedding-backbones[{extras}]'

model = runtime.load("path/to/this/folder")
{examples}
```

`python -m runtime verify path/to/this/folder` checks the hashes of the files. It also embeds a few inputs on your
machine and compares the embeddings with those of torch.

```text
{summary}
```

| file | content |
|---|---|
{files}
| {GOLDEN_FILE} | a few inputs, and torch's embeddings of them |
| {MANIFEST_FILE} | the description of the artifact, for programs |
""",
        "utf-8",
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Record the files of ``folder`` and write ``manifest.json``, which makes the folder an artifact.

    Raises:
        ManifestError: The runtime could not read it, for example because a field has a value of the wrong type.
    """
    (folder / MANIFEST_FILE).write_text(replace(manifest, files=record_files(folder)).to_json(), "utf-8")
    read_manifest(folder)  # before the folder replaces another artifact


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Return the record of every file in ``folder``, by name."""
    return {path.name: record_file(path) for path in sorted(folder.iterdir())}


def _describe_file(file: str, tower: Tower) -> str:
    contents = {tower.graph: "the graph", tower.external_data: "weights of the graph"}
    for name, variant in tower.variants.items():
        contents[variant.graph] = f"the variant {name}"
        weights = contents.get(variant.external_data)
        contents[variant.external_data] = f"{weights} and of {name}" if weights else f"weights of the variant {name}"
    return contents.get(file, "the tokenizer")
