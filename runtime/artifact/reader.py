"""Read the manifest of an artifact, and check its files against the manifest."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Collection
from pathlib import Path
from textwrap import shorten

from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import MANIFEST_FILE, OLDEST_READABLE, SCHEMA_VERSION, SEAL, FileRecord, Manifest, seal
from runtime.artifact.protobuf import map_file
from runtime.errors import ArtifactError, IntegrityError, ManifestError, SchemaVersionError
from runtime.uris import is_uri, public_name

MAX_MANIFEST_BYTES = 2**24  # a thousand times the largest one known
_LONGEST_REASON = 500
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_UNREADABLE = "check its permissions, or copy or export the artifact again"


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``folder/manifest.json``. Open no other file.

    Raises:
        ArtifactError: There is no such folder.
        ManifestError: The manifest is missing, unreadable, or does not follow the schema.
        SchemaVersionError: This runtime does not read the schema version of the manifest.
        IntegrityError: The manifest has changed since export.
    """
    path = folder / MANIFEST_FILE
    try:
        if folder.is_file():
            is_part = (folder.parent / MANIFEST_FILE).is_file()
            way_out = f"give its folder, {folder.parent}" if is_part else "make one with `python -m exporters NAME`"
            raise ArtifactError(f"{folder} is a file, and an artifact is a folder; {way_out}")
        if not folder.is_dir():
            place = str(folder).replace(":/", "://", 1)  # pathlib made one slash of two
            way_out = "copy it here first" if is_uri(place) else _suggest_artifact(folder)
            raise ArtifactError(f"there is no folder {public_name(place)}; {way_out}")
        document = json.loads(_read_text(path), parse_constant=_refuse_constant)
        _check_schema_version(document, path)
        stated = document.pop(SEAL, None)
        intact = stated == seal(document)
    except FileNotFoundError:
        inner = sorted(path.parent for path in folder.glob(f"*/{MANIFEST_FILE}"))
        way_out = f"did you mean {inner[0]}?" if inner else "make one with `python -m exporters NAME`"
        raise ManifestError(f"{folder} contains no {MANIFEST_FILE}, so it is not an artifact; {way_out}") from None
    except OSError as exc:
        raise ManifestError(f"{path} cannot be read ({exc.strerror}); {_UNREADABLE}") from exc
    except (ValueError, RecursionError) as exc:
        raise ManifestError(f"{path} cannot be read ({exc}); export the artifact again") from exc
    if not intact:
        raise IntegrityError(f"{path} has changed since export; copy or export the whole artifact again")
    try:
        older = document["schema_version"] < SCHEMA_VERSION
        manifest = decode(Manifest, document | {"schema_version": SCHEMA_VERSION}, "manifest", fill_defaults=older)
    except (ManifestError, RecursionError) as exc:  # RecursionError: it is nested too deep to be shown
        reason = shorten(str(exc), _LONGEST_REASON)
        raise ManifestError(
            f"{path} does not follow schema {SCHEMA_VERSION}: {reason}; export the artifact again"
        ) from exc
    vars(manifest)[SEAL] = stated  # fills the cached property: the identity of an artifact is the seal in its file
    return manifest


def _suggest_artifact(folder: Path) -> str:
    exported = Path("artifacts", folder.name)  # where an export goes, unless it is told otherwise
    found = (exported / MANIFEST_FILE).is_file()
    return f"did you mean {exported}?" if found else "export one with `python -m exporters NAME`"


def check_files(folder: Path, manifest: Manifest, unused: Collection[str] = ()) -> None:
    """Compare every file of the artifact, except those that are ``unused``, with its size and SHA-256 in the manifest.

    Raises:
        IntegrityError: A file is missing, unreadable or different.
    """
    for name, record in manifest.files.items():
        if name in unused:
            continue
        path = folder / name
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):
                raise IntegrityError(f"{path} is not a regular file; copy or export the whole artifact again")
            same_size = state.st_size == record.size_bytes
            actual = record_file(path) if same_size else FileRecord(sha256="not computed", size_bytes=state.st_size)
        except FileNotFoundError:
            raise IntegrityError(f"{path} is missing; copy or export the whole artifact again") from None
        except OSError as exc:
            raise IntegrityError(f"{path} cannot be read ({exc.strerror}); {_UNREADABLE}") from exc
        if actual != record and _is_lfs_pointer(path):
            raise IntegrityError(f"{path} is a pointer of Git LFS, without the file; run `git lfs pull` in its folder")
        if actual != record:
            raise IntegrityError(
                f"{path} has changed since export: {actual.size_bytes} bytes, sha256 {actual.sha256[:12]}..., the "
                f"manifest has {record.size_bytes} bytes, {record.sha256[:12]}...; copy or export it again"
            )


def _read_text(path: Path) -> str:
    """Return the text of a manifest. A pipe could wait forever, and a device or a huge file could fill the memory."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is not a regular file")
    if state.st_size > MAX_MANIFEST_BYTES:
        raise ValueError(f"it has {state.st_size} bytes, more than {MAX_MANIFEST_BYTES}")
    return path.read_text("utf-8")


def _is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is the text that Git keeps in place of a large file.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def record_file(path: Path) -> FileRecord:
    """Return the hash and size of a file.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with map_file(path) as content:
            # A single call releases the GIL while it hashes, so that onnxruntime can load the graph at the same time.
            return FileRecord(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    except ValueError:  # it is empty
        return FileRecord(sha256=hashlib.sha256().hexdigest(), size_bytes=0)


def _check_schema_version(document: object, path: Path) -> None:
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise ManifestError(f"{path} has no schema_version, so it is not the manifest of an artifact; export it again")
    if not OLDEST_READABLE <= version <= SCHEMA_VERSION:
        remedy = "upgrade embedding-backbones" if version > SCHEMA_VERSION else "export the artifact again"
        readable = " to ".join(map(str, sorted({OLDEST_READABLE, SCHEMA_VERSION})))
        raise SchemaVersionError(f"{path} has schema {str(version)[:20]}, this runtime reads {readable}; {remedy}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
