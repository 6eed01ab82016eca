"""The record of how the vectors of a file were made: their space, and the inputs. The file itself holds it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.array_types import Array
from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import Tower, TowerName
from runtime.artifact.space import list_facts, parent_space
from runtime.errors import ManifestError, SpaceError, UsageError
from runtime.inference.options import EmbedOptions
from runtime.inference.prompts import applied_prompt
from runtime.jobs.items import ItemValue
from runtime.jobs.parquet import open_parquet
from runtime.jobs.read_vectors import read_entry
from runtime.postprocess import Dtype
from runtime.session.provider_options import ProviderOptions, find_reduced_precision

if TYPE_CHECKING:
    from runtime.inference.embedder import Embedder

ORIGIN, SPACE = "origin", "space"  # arrays of a .npz; keys of the metadata of a .parquet


@dataclass(frozen=True, kw_only=True)
class VectorOrigin:
    """How vectors were made.

    A new field needs a default that describes older files.

    Attributes:
        space: Name of the vector space.
        facts: The facts that determine the space, see :func:`runtime.artifact.space.list_facts`.
        artifact: Name of the artifact.
        variant: Graphs that ran.
        towers: Towers that were loaded.
        prompt: Text that was put before each text; may be empty.
        normalize: Whether vectors were scaled to unit length after the graph.
        truncate_dim: Number of leading dimensions that were kept; ``None``: all.
        dtype: Type of the stored vectors.
        inputs: The inputs as the user named them.
        column: Column of the inputs that held the items; ``None``: the name of the tower.
        precision: Type in which the provider computed: ``float32``, or less, such as ``bf16``.
    """

    space: str
    facts: dict[str, str]
    artifact: str
    variant: str
    towers: tuple[TowerName, ...]
    prompt: str
    normalize: bool
    truncate_dim: int | None
    dtype: Dtype
    inputs: tuple[str, ...]
    column: str | None
    precision: str = "float32"

    def to_text(self) -> dict[str, str]:
        """Return what a file holds: the name of the space, and this record as JSON."""
        return {SPACE: self.space, ORIGIN: json.dumps(asdict(self))}


def describe_origin(
    model: Embedder, options: EmbedOptions, *, inputs: Iterable[str], column: str | None, dtype: Dtype = "float32"
) -> VectorOrigin:
    """Return the record of vectors that ``model`` makes with ``options``."""
    return VectorOrigin(
        space=model.space,
        facts=list_facts(model.manifest),
        artifact=model.manifest.name,
        variant=model.variant,
        precision=name_precision(model.provider_options),
        **list_settings(options, model.loaded_towers(), inputs=inputs, column=column, dtype=dtype),
    )


def name_precision(options: ProviderOptions) -> str:
    """Return the :attr:`VectorOrigin.precision` of a provider with ``options``."""
    reduced = find_reduced_precision(options)
    return reduced.name if reduced else "float32"


def list_settings(
    options: EmbedOptions, towers: Mapping[TowerName, Tower], *, inputs: Iterable[str], column: str | None, dtype: Dtype
) -> dict[str, Any]:
    """Return the fields of an origin that the user of a job chooses."""
    return {
        "towers": tuple(towers),
        "prompt": applied_prompt(options, towers),
        "normalize": options.normalize,
        "truncate_dim": options.truncate_dim,
        "dtype": dtype,
        "column": column,
        "inputs": tuple(inputs),
    }


def read_origin(path: Path) -> VectorOrigin | None:
    """Return the record in a .npz or .parquet file, or in a folder of a Ray job; ``None`` if there is none.

    Raises:
        UsageError: The file cannot be read, or its record is damaged.
        SpaceError: The parts in a folder are of different spaces.
        MissingDependencyError: The file is .parquet, and pyarrow is not installed.
    """
    if path.is_dir():
        return _read_folder(path)
    try:
        text = read_entry(path, ORIGIN)
        return None if text is None else decode(VectorOrigin, json.loads(str(text)), ORIGIN, fill_defaults=True)
    except ManifestError as exc:
        way_out = "write it again with `embed`, or use the version that wrote it"
        raise UsageError(f"the record of the job in {path} cannot be read ({exc}); {way_out}") from exc
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise UsageError(f"{path} cannot be read as vectors ({exc}); write it again with `embed`") from exc


def check_space(model: Embedder, path: Path, origin: VectorOrigin | None) -> str | None:
    """Check that the vectors of ``path``, whose record is ``origin``, are of the space in which ``model`` embeds.

    Returns:
        A doubt, if the file names no space; ``None`` if both are of the same space.

    Raises:
        SpaceError: They are of another space.
    """
    if origin is None:
        return f"{path} names no vector space, so nothing tells whether this artifact made these vectors"
    if origin.space == model.space:
        return None
    way_out = "use that artifact, or embed the file again with this one"
    if parent_space(origin.space) == parent_space(model.space):
        way_out = f"run the graph that made them, with --variant {origin.variant}, or embed the file again"
    raise SpaceError(
        f"{path} holds vectors of the space {origin.space} ({origin.artifact}, {origin.variant}), and "
        f"{model.manifest.name} ({model.variant}) embeds in {model.space}; {way_out}. "
        "`python -m runtime compat` tells what differs"
    )


def digest_item(item: ItemValue) -> int:
    """Return 64 bits of the SHA-256 of a text, of bytes or of the bytes of a file; 0 if it cannot be read."""
    if isinstance(item, Path):
        try:
            with item.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
        except OSError:
            return 0
    elif isinstance(item, str | bytes):
        digest = hashlib.sha256(item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item)
    else:
        return 0
    return int.from_bytes(digest.digest()[:8], "little")


def _read_folder(folder: Path) -> VectorOrigin | None:
    found = [read_origin(part) for part in sorted(folder.glob("*.parquet"))]
    if len({origin.space if origin else None for origin in found}) > 1:
        raise SpaceError(f"the parts in {folder} are of different spaces; embed them again in one job")
    return found[0] if found else None


def read_digests(path: Path) -> Array | None:
    """Return the digest of the item of each row of a .npz or .parquet file; ``None`` if it has none."""
    if path.suffix != ".parquet":
        return read_entry(path, "digests")
    with open_parquet(str(path), str(path)) as file:
        has_digests = "digest" in file.schema_arrow.names
        digests: Array | None = file.read(["digest"])["digest"].to_numpy() if has_digests else None
    return digests
