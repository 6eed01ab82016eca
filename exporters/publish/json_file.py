"""Write a JSON file."""

from __future__ import annotations

import json
from pathlib import Path


def write_json(path: Path, document: object) -> None:
    """Write a JSON file, indented, in UTF-8."""
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
