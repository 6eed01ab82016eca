"""The artifact that is published."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporters.errors import PublishError
from exporters.graph.onnx_file import load_graph
from exporters.publish.int8 import use_unsigned_weights
from runtime.array_types import Array
from runtime.artifact.manifest import ImagePreprocessing, Manifest, TextPreprocessing, Tower, TowerName
from runtime.artifact.parity import Tolerance, variant_tolerance
from runtime.artifact.variants import VARIANT_NAMES, VariantName
from runtime.loading.golden_file import read_golden


@dataclass(frozen=True, kw_only=True)
class Source:
    """The artifact that is published, and the wishes of the user.

    Attributes:
        folder: Folder of the artifact.
        manifest: Its manifest.
        variants: The variants to publish, each once; empty for all that a layout takes.
        token_types: Whether text graphs get an input ``token_type_ids``, which they ignore.
    """

    folder: Path
    manifest: Manifest
    variants: tuple[VariantName, ...] = ()
    token_types: bool = False

    @property
    def text(self) -> TextPreprocessing:
        """Preprocessing of the text tower."""
        recipe = self.manifest.towers["text"].preprocessing
        if not isinstance(recipe, TextPreprocessing):
            raise TypeError("the manifest checks the kind of each tower")
        return recipe

    @property
    def image(self) -> ImagePreprocessing:
        """Preprocessing of the image tower."""
        recipe = self.manifest.towers["image"].preprocessing
        if not isinstance(recipe, ImagePreprocessing):
            raise TypeError("the manifest checks the kind of each tower")
        return recipe

    def choose(self, name: TowerName, known: Collection[VariantName] = VARIANT_NAMES) -> list[VariantName]:
        """Return the variants of a tower to publish, of the ``known`` ones that the layout has a place for.

        They have the order in which the user names them; by default, fp32 is the first.

        Raises:
            PublishError: The user asks for one that the layout or the tower does not have.
        """
        tower = self.manifest.towers[name]
        has = [each for each in VARIANT_NAMES if each in known and (each == "fp32" or each in tower.variants)]
        portable = [each for each in has if not self._is_bound(tower, each)]
        for asked in self.variants:
            if asked not in portable:
                reason = "is laid out for the CPU that made it" if asked in has else "is not one of them"
                raise PublishError(
                    f"it can hold {', '.join(portable)} of the {name} tower, and {asked} {reason}; name others by "
                    "--variant"
                )
        return list(self.variants) or portable

    def choose_one(self, name: TowerName) -> VariantName:
        """Return the only variant of a tower to publish: the one that the user asks for, or ``fp32``.

        Raises:
            PublishError: The user asks for several, or for one that the tower does not have.
        """
        if len(self.variants) > 1:
            raise PublishError("it holds one graph of each tower; name one by --variant, not several")
        return self.choose(name)[0]

    def load_graph(self, name: TowerName, variant: VariantName) -> ir.Model:
        """Return a graph of a tower with all of its weights."""
        tower = self.manifest.towers[name]
        graph = tower.graph if variant == "fp32" else tower.variants[variant].graph
        return load_graph(self.folder / graph)

    def load_exact_graph(self, name: TowerName, variant: VariantName) -> ir.Model:
        """Return a graph of a tower that is exact in sessions with default settings, with all of its weights."""
        model = self.load_graph(name, variant)
        use_unsigned_weights(model)
        return model

    def tolerance(self, name: TowerName, variant: VariantName) -> Tolerance:
        """Return the bounds that the vectors of a variant keep.

        Raises:
            PublishError: The artifact records none.
        """
        tower = self.manifest.towers[name]
        if variant != "fp32":
            return variant_tolerance(tower.variants[variant])
        if tower.parity is None:
            raise PublishError(f"{self.folder} records no parity to hold a layout to; export it again")
        return tower.parity.tolerance

    def golden(self, name: TowerName) -> tuple[list[Any], Array]:
        """Return the golden items of a tower, and their vectors."""
        return read_golden(self.folder, self.manifest, name)

    @staticmethod
    def _is_bound(tower: Tower, variant: VariantName) -> bool:
        return variant != "fp32" and bool(tower.variants[variant].cpu_features)
