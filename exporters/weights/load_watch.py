"""Watch other libraries load a model: which weights were missing, and which settings they ignore with a warning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from exporters.errors import WeightsError
from exporters.weights.model_folder import check_load_report, quiet_transformers
from exporters.weights.parsing import summarize_error

_LOGGERS = ("sentence_transformers", "transformers", "peft")
# Words of warnings that a setting of the checkpoint has no effect, in the libraries' own messages.
_IGNORING = ("falling back", "gnoring ", "be ignored", "nrecognized ", "missing keys", "unexpected keys")


@dataclass(frozen=True)
class LoadWatch:
    """The models that transformers loaded in a block of :func:`watch_loading`, with its reports, and all warnings."""

    reports: list[tuple[PreTrainedModel, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def check(self, source: str, ignored: tuple[str, ...]) -> None:
        """Check that no setting was ignored, and that all weights were there and found their place.

        Raises:
            WeightsError: The library warned that it ignores a setting; the message is the library's.
            WeightsMismatchError: As for :func:`exporters.weights.model_folder.check_load_report`.
        """
        for warning in self.warnings:
            if any(words in warning for words in _IGNORING):
                raise WeightsError(f"{source} has a setting that its library does not honour: {warning}")
        for model, report in self.reports:
            check_load_report(model, report, source, ignored)


@contextmanager
def watch_loading() -> Iterator[LoadWatch]:
    """Keep the reports of transformers and the warnings of the libraries in the block, and print none of them."""
    watch, original = LoadWatch(), PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, /, *args: Any, output_loading_info: bool = False, **keywords: Any) -> Any:
        loaded = original.__func__(cls, *args, output_loading_info=True, **keywords)
        watch.reports.append(loaded)
        return loaded if output_loading_info else loaded[0]

    with (
        quiet_transformers(),
        _listening(_WarningList(watch.warnings)),
        replaced_method(PreTrainedModel, "from_pretrained", from_pretrained),
    ):
        yield watch


@contextmanager
def replaced_method(owner: type, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace the class method ``name`` of ``owner`` in the block."""
    original = owner.__dict__[name]
    setattr(owner, name, classmethod(function))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Keep libraries from printing their notes among the stages."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.ERROR))
    try:
        yield
    finally:
        logging.disable(disabled)


class _WarningList(logging.Handler):
    """A handler that appends the first line of each warning to a list."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(summarize_error(ValueError(record.getMessage())))


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Send the warnings of the libraries only to ``handler`` in the block."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    states = [(logger, logger.level, logger.handlers, logger.propagate) for logger in loggers]
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.NOTSET)  # a caller may have silenced all warnings
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
            logger.setLevel(logging.WARNING)
        yield
    finally:
        logging.disable(disabled)
        for logger, level, handlers, propagate in states:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
