"""Say how to install the project if it runs in a clone without its requirements. ``runtime`` imports this early."""

try:
    import numpy as np  # noqa: F401
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        f"{exc.name} is not installed; run `pip install '.[cpu]'` in the clone of embedding-backbones, or "
        "`pip install '.[export,cpu]'` to export, too",
        name=exc.name,
    ) from None
