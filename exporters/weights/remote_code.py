"""Python code that a model folder brings: found in its settings, and never run unasked."""

from __future__ import annotations

from pathlib import Path

from exporters.errors import WeightsError
from exporters.weights.parsing import parsing, read_json

_OWN = "sentence_transformers."
_CONFIGURATIONS = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


def refuse_code(folder: Path, advice: str = "save the model without it") -> None:
    """Check that a folder brings no code.

    Raises:
        WeightsError: It does; the message ends with ``advice``.
    """
    if code := find_code(folder):
        raise WeightsError(f"{folder} brings code of its own ({code}), which is not run unasked; {advice}")


def find_code(folder: Path) -> str:
    """Return the first name of code outside the libraries that the folder's settings ask for; empty if there is none.

    A class of the library whose weights happen to fit is not taken for the checkpoint's own.
    """
    modules = folder / "modules.json"
    folders = [folder]
    if modules.is_file():
        with parsing(modules):
            entries = [(str(module["type"]), str(module["path"])) for module in read_json(modules)]
        for kind, path in entries:
            if not kind.startswith(_OWN):
                return f"modules.json: {kind}"
            folders.append(folder / path)
    for file in (place / name for place in folders for name in _CONFIGURATIONS):
        if file.is_file():
            with parsing(file):
                document = read_json(file)
            if isinstance(document, dict) and document.get("auto_map"):
                return f"auto_map in {file.relative_to(folder)}"
    return ""
