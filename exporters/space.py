"""Describe the vector space of a new artifact, so that another export of the same model gives it the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from exporters.samples.texts import TEXTS
from runtime.array_types import Float32Array
from runtime.artifact.manifest import Manifest, Space, TextPreprocessing, TowerName, seal
from runtime.artifact.space import list_facts, name_space

ITEMS = 4  # first sample items of a tower, whose vectors count
_BLOCKS = 8
UNNAMED = Space(id=f"vs1-{'0' * 16}", weights={}, directions={})  # of a manifest whose space is not described yet


def describe_space(
    manifest: Manifest, folder: Path, weights: Mapping[TowerName, str], references: Mapping[TowerName, Float32Array]
) -> Space:
    """Return the space of an artifact.

    Args:
        manifest: The manifest, with any space.
        folder: The artifact, which holds the tokenizer.
        weights: Hash of the weights of each tower.
        references: Vectors of the reference for the sample items of each tower: ``[items, output_dim]``.
    """
    recipe = manifest.towers["text"].preprocessing if "text" in manifest.towers else None
    space = replace(
        UNNAMED,
        weights=dict(weights),
        directions={name: sign_differences(vectors[:ITEMS]) for name, vectors in references.items()},
        tokenizer=hash_tokens(folder, recipe) if isinstance(recipe, TextPreprocessing) else None,
    )
    return replace(space, id=name_space(list_facts(replace(manifest, space=space))))


def sign_differences(vectors: Float32Array) -> str:
    """Return signs as hexadecimal digits: of the difference of each vector to the next, summed over eight blocks.

    A configuration that computes something else with the same weights, such as another number of heads, changes some
    of the signs. Rounding flips a sign only if a sum is as small as the rounding. By the margins of eight models, that
    happens in less than one of 1,000 exports on other machines.

    Args:
        vectors: ``[items, output_dim]``.
    """
    differences = np.diff(vectors.astype(np.float64), axis=0)
    sums = [block.sum(axis=1) for block in np.array_split(differences, _BLOCKS, axis=1)]
    return np.packbits(np.stack(sums) > 0).tobytes().hex()


def hash_tokens(folder: Path, recipe: TextPreprocessing) -> str:
    """Return the hash of a tokenizer's vocabulary and of the tokens that it makes of the sample texts.

    The bytes of its file do not count: they change with the version of the library that wrote it.
    """
    tokenizer = Tokenizer.from_file(str(folder / recipe.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encodings = tokenizer.encode_batch(list(TEXTS), add_special_tokens=recipe.add_special_tokens)
    content = [sorted(tokenizer.get_vocab().items()), [encoding.ids for encoding in encodings]]
    return seal(content)
