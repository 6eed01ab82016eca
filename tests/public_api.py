"""The public API as text, a line for each name: what ``tests/public_api.txt`` holds.

``python -m tests.public_api`` prints it. Compare before you write it there: a line that changes or goes is a change for
users, and belongs into CHANGELOG.md.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType

MODULES = ("runtime", "runtime.finetuner", "exporters", "exporters.finetuner", "exporters.fit")


def describe(module: str) -> Iterator[str]:
    """Yield a line for each public name of ``module``, and for each public member of its classes."""
    package = importlib.import_module(module)
    for name in sorted(public_names(package)):
        yield from describe_thing(f"{module}.{name}", getattr(package, name))


def public_names(package: ModuleType) -> list[str]:
    """Return the names in ``__all__``, or those that the module defines itself."""
    own = [name for name, thing in vars(package).items() if getattr(thing, "__module__", None) == package.__name__]
    return list(getattr(package, "__all__", [name for name in own if not name.startswith("_")]))


def describe_thing(name: str, thing: object) -> Iterator[str]:
    """Yield the lines of one name."""
    if inspect.isclass(thing):
        bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
        yield f"class {name}({bases})"
        fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
        for field in fields:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            yield f"  field {field.name}: {field.type}{'' if required else ' (optional)'}"
        for member, value in sorted(vars(thing).items()):
            if not member.startswith("_") and isinstance(value, property | cached_property):
                yield f"  property {member}"
            elif not member.startswith("_") and inspect.isfunction(value):
                yield f"  def {member}{signature(value)}"
    elif callable(thing):
        yield f"def {name}{signature(thing)}"
    else:
        yield f"{name}: {type(thing).__name__}"


def signature(function: object) -> str:
    """Return a signature without quotes around annotations, and without addresses."""
    text = str(inspect.signature(function))  # type: ignore[arg-type]
    return re.sub(r" at 0x[0-9a-f]+", "", text.replace("'", ""))


def main() -> None:
    """Print the public API of all modules."""
    for module in MODULES:
        print("\n".join(describe(module)))


if __name__ == "__main__":
    main()
