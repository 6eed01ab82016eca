"""A model in training: as a SentenceTransformer, as a checkpoint, and as towers for the export."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from torch import nn

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import BackboneSpec, FolderSource, HubModelSource, OpenClipModelSource, OpenClipSource
from exporters.errors import WeightsError
from exporters.export import export
from exporters.export_towers import export_towers
from exporters.families.cnn.tower import CnnTower
from exporters.families.load import load_towers
from exporters.families.sentence.adapter import merge_adapters
from exporters.families.sentence.tower import SentenceTower
from exporters.families.tower import ExportableTower
from exporters.fit.options import FitOptions
from exporters.fit.tower_module import TowerModule
from exporters.progress import Stage
from exporters.weights.model_folder import quiet_transformers
from exporters.weights.state_dict import seeded
from runtime.artifact.manifest import TowerName, Weights
from runtime.artifact.reader import record_file
from runtime.errors import UsageError

# Names of the layers after the pooling, in the modules of a CLIP and of PointNet++.
_LAST_LAYERS = (".text_projection.", ".visual_projection.", "._projector.")


class Learner(ABC):
    """A model that can be trained, saved and exported.

    Attributes:
        model: The model for the trainer.
        towers: Kinds of items that it takes.
        prepare: For each kind, a function that raises an ``UnusableItemError`` for a bad item.
        learning_rate: The usual highest learning rate.
        fingerprint: A hash of the weights, the preprocessing and the tokenizer before the training.
    """

    model: SentenceTransformer
    towers: tuple[TowerName, ...]
    prepare: Mapping[TowerName, Callable[[str], object]]
    learning_rate: float
    fingerprint: str

    @abstractmethod
    def save(self, path: Path) -> Path:
        """Write the trained model, and return the checkpoint: ``path``, or a file of that name."""

    @abstractmethod
    def export(self, checkpoint: Path, destination: Path, stage: Stage) -> Path:
        """Export the trained model, which :meth:`save` has written to ``checkpoint``."""

    @abstractmethod
    def head(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the layers after the pooling."""

    def choose_parameters(self, options: FitOptions) -> None:
        """Freeze what is not to be trained, and add the adapters.

        Raises:
            UsageError: Nothing would be left to train, or there are no linear layers for adapters.
        """
        head = self.head()
        if options.lora:
            _add_adapters(self.model[0], head, options.lora)
            self.learning_rate *= 10
        if options.freeze:
            self.model.requires_grad_(False)
            self.learning_rate = 1e-3
            if not head:
                raise UsageError(
                    "--freeze leaves nothing to train: the model has no layer after its pooling; add --output-dim"
                )
        for parameter in head:
            parameter.requires_grad_(True)


class TextLearner(Learner):
    """A text encoder of sentence-transformers: its own modules are trained."""

    def __init__(
        self, spec: BackboneSpec, tower: SentenceTower, options: ExportOptions, *, output_dim: int | None
    ) -> None:
        """Merge adapters, and add a linear layer if ``output_dim`` asks for one."""
        self._spec, self._options = spec, options
        self.model, self.towers, self.prepare = tower.sentences, ("text",), {"text": str}
        self.learning_rate = 5e-5  # the default of the Trainer
        self.fingerprint = _hash_towers([tower])
        merge_adapters(self.model)
        if output_dim is not None:
            _add_dense(self.model, output_dim)

    def head(self) -> Sequence[nn.Parameter]:
        """Return the parameters of linear layers."""
        return [parameter for module in self.model if isinstance(module, Dense) for parameter in module.parameters()]

    def save(self, path: Path) -> Path:
        """Write a folder in the layout of sentence-transformers, with adapters merged."""
        self.model.cpu().eval()
        merge_adapters(self.model)
        shutil.rmtree(path, ignore_errors=True)  # of an earlier training, perhaps with other modules
        with quiet_transformers():
            self.model.save_pretrained(str(path), create_model_card=False)
        return path

    def export(self, checkpoint: Path, destination: Path, stage: Stage) -> Path:
        """Export the folder as the exporter exports any folder."""
        by_folder = isinstance(self._spec.source, FolderSource | HubModelSource)
        weights = "pretrained" if by_folder else str(checkpoint)
        return export(
            str(checkpoint) if by_folder else self._spec.name,
            output=destination.parent,
            artifact_name=destination.name,
            options=replace(
                self._options, weights=weights, select_model=None, tokenizer=None, revision=None, max_length=None
            ),
            stage=stage,
        )


class TowerLearner(Learner):
    """Towers of any family, whose tensors are trained in place."""

    def __init__(self, spec: BackboneSpec, towers: list[ExportableTower], options: ExportOptions) -> None:
        """Wrap the towers. Batch norms of weights that were trained keep their statistics."""
        self._spec, self._towers, self._options = spec, towers, options
        untrained = towers[0].weights.seed is not None
        self._module = TowerModule(towers, fixed_statistics=not untrained)
        self.model = SentenceTransformer(modules=[self._module], device="cpu")
        self.towers, self.prepare = tuple(tower.name for tower in towers), self._module.prepare
        self.fingerprint = _hash_towers(towers)
        self.learning_rate = 1e-3 if untrained else 1e-5 if len(towers) > 1 else 1e-4

    def head(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the projections."""
        if isinstance(self._towers[0], CnnTower):
            backbone: Any = self._module.networks["image"].backbone
            return list(backbone[1:].parameters())
        named = self._module.networks.named_parameters()
        return [parameter for name, parameter in named if any(layer in name for layer in _LAST_LAYERS)]

    def save(self, path: Path) -> Path:
        """Write the state dict of the library's own model."""
        merge_adapters(self._module)
        self._module.return_to_model()
        tensors = {name: value for tower in self._towers for name, value in tower.state_dict().items()}
        file = path.with_name(f"{path.name}.safetensors")
        save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, file)
        return file

    def export(self, checkpoint: Path, destination: Path, stage: Stage) -> Path:
        """Export the towers, whose library has been trained with them."""
        weights = Weights(
            origin="file",
            description=f"{self._spec.name}, fine-tuned",
            file=checkpoint.name,
            sha256=record_file(checkpoint).sha256,
        )
        for tower in self._towers:
            tower.weights = weights
        return export_towers(self._spec, self._towers, destination, options=self._options, stage=stage)


def load_learner(spec: BackboneSpec, options: ExportOptions, fit: FitOptions) -> Learner:
    """Load a model for training.

    Raises:
        WeightsError: The model cannot be loaded or trained.
        UsageError: An option does not fit the model.
    """
    towers = load_towers(spec, options)
    with seeded(fit.seed):
        if isinstance(towers[0], SentenceTower):
            learner: Learner = TextLearner(spec, towers[0], options, output_dim=fit.output_dim)
        else:
            _check_trainable(spec, towers)
            learner = TowerLearner(spec, _with_projection(spec, towers, options, fit.output_dim), options)
        learner.choose_parameters(fit)
    return learner


def _hash_towers(towers: Sequence[ExportableTower]) -> str:
    digest = hashlib.sha256()
    for tower in towers:
        # Random weights round differently with another number of threads, so their seed identifies them.
        weights = tower.weights.sha256 if tower.weights.seed is None else tower.weights.seed
        digest.update(f"{weights} {tower.record}".encode())
        with tempfile.TemporaryDirectory() as folder:
            tower.write_files(Path(folder))
            for file in sorted(Path(folder).iterdir()):
                digest.update(record_file(file).sha256.encode())
    return digest.hexdigest()


def _check_trainable(spec: BackboneSpec, towers: list[ExportableTower]) -> None:
    of_open_clip = isinstance(spec.source, OpenClipSource | OpenClipModelSource)
    if of_open_clip or towers[0].record.reference == "open_clip":
        raise WeightsError(
            f"{spec.name} is a model of open_clip, whose graph holds copies of its weights, so it cannot be trained "
            "here; train it with open_clip, and export the checkpoint"
        )


def _with_projection(
    spec: BackboneSpec, towers: list[ExportableTower], options: ExportOptions, output_dim: int | None
) -> list[ExportableTower]:
    if output_dim is None:
        return towers
    tower = towers[0]
    if len(towers) > 1 or not isinstance(tower, CnnTower):
        raise UsageError(
            f"--output-dim adds a layer to text encoders of sentence-transformers and to CNNs of the catalogue, and "
            f"{spec.name} is neither; leave it out"
        )
    return [tower.with_projection(_build_linear(tower.output_dim, output_dim), options)]


def _add_dense(model: SentenceTransformer, output_dim: int) -> None:
    """Add a linear layer after the pooling, before the scaling to unit length."""
    layer = _build_linear(int(model.get_embedding_dimension() or 0), output_dim)
    dense = Dense(layer.in_features, layer.out_features, activation_function=nn.Identity())
    dense.linear = layer
    model.insert(len(model) - isinstance(model[-1], Normalize), dense)


def _build_linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a layer that keeps similarities as well as a layer can that was not trained."""
    layer = nn.Linear(in_features, out_features)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _add_adapters(model: nn.Module, head: Sequence[nn.Parameter], rank: int) -> None:
    """Add adapters to all linear layers but those of the head, which is trained itself."""
    from peft import LoraConfig, inject_adapter_in_model

    last = {id(parameter) for parameter in head}
    layers = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    linear = [name for name, module in layers if id(module.weight) not in last]
    if not linear:
        raise UsageError("--lora adapts the linear layers of transformers, and this model has none; leave it out")
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear), model)
