"""Options of an embedding call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.whole_number import is_whole

_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """Options of an embedding call, shared by :class:`runtime.Embedder`, jobs, Ray workers and the command line.

    Attributes:
        tower: Tower that embeds the items; ``None``: choose by the type of each item.
        batch_size: Maximum items per batch; ``None``: choose by a budget of tokens, images or points.
        on_error: ``raise`` stops at the first unusable item; ``skip`` leaves it out and reports it.
        truncate: ``count`` cuts texts that are too long and counts them; ``error`` treats them as unusable.
        prompt_name: Name of the artifact's prompt that is put before each text; ``None``: its default prompt, if any.
            ``document`` also finds ``passage`` and ``corpus``.
        prompt: The prompt itself, in place of a name; an empty one switches the default prompt off.
        normalize: Whether to scale vectors to unit length.
        truncate_dim: Number of leading dimensions to keep; ``None``: all.
    """

    tower: TowerName | None = None
    batch_size: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    truncate: Literal["count", "error"] = "count"
    prompt_name: str | None = None
    prompt: str | None = None
    normalize: bool = False
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if a value is out of range."""
        for name, number in (("batch_size", self.batch_size), ("truncate_dim", self.truncate_dim)):
            if number is None:
                continue
            if not is_whole(number, 1, _LARGEST):
                raise UsageError(f"{name} is {number!r}, it must be a whole number from 1 to {_LARGEST}")
            object.__setattr__(self, name, int(number))  # JSON cannot hold numpy's
        if self.on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is {self.on_error!r}, it must be 'raise' or 'skip'")
        if self.truncate not in ("count", "error"):
            raise UsageError(f"truncate is {self.truncate!r}, it must be 'count' or 'error'")
        for name, text in (("prompt_name", self.prompt_name), ("prompt", self.prompt)):
            if not isinstance(text, str | None):
                raise UsageError(f"{name} is {text!r:.80}, it must be a string")
        if self.prompt_name is not None and self.prompt is not None:
            raise UsageError("prompt_name and prompt exclude each other; leave one of them out")
