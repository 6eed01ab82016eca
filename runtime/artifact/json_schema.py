"""Decode JSON into frozen dataclasses, strictly.

An error names the path of a member that is missing, unknown or of the wrong type. A document must contain every field,
unless an older schema wrote it: then the defaults of the dataclasses stand for the fields that it did not have.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from runtime.errors import ManifestError, UsageError

T = TypeVar("T")
_SHOWN_NAMES = 5


def decode(kind: type[T], value: object, where: str, *, fill_defaults: bool = False) -> T:
    """Decode ``value`` as an instance of ``kind``.

    Args:
        kind: A dataclass, ``str``, ``int``, ``float``, ``bool``, a ``Literal``, a union, ``tuple[X, ...]``,
            a fixed-length ``tuple``, or ``dict[str, X]``.
        value: A result of ``json.loads``.
        where: Path of ``value`` in its document, for error messages.
        fill_defaults: Whether fields with a default may be missing, as in documents of an older schema.

    Raises:
        ManifestError: ``value`` does not fit ``kind``.
    """
    return typing.cast(T, _decode(kind, value, where, fill_defaults))


def _decode(kind: Any, value: object, where: str, fill: bool) -> object:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where, fill)
    if origin is typing.Literal:
        return _one_of(typing.get_args(kind), value, where)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), value, where, fill)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), value, where, fill)
    if origin is dict:
        members = _expect(dict, value, where)
        names, inner = typing.get_args(kind)
        if typing.get_origin(names) is typing.Literal:
            for key in members:  # before the members are decoded: there may be very many
                _one_of(typing.get_args(names), key, f"a name in {where}")
        return {key: _decode(inner, member, f"{where}.{_show([key])}", fill) for key, member in members.items()}
    if kind is float:
        return _to_float(_expect(int | float, value, where), where)
    return _expect(kind, value, where)


def _decode_dataclass(kind: Any, value: object, where: str, fill: bool) -> object:
    members = _expect(dict, value, where)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = {name for name, field in fields.items() if not (fill and _has_default(field))}
    unknown, missing = sorted(members.keys() - fields.keys()), sorted(needed - members.keys())
    if unknown or missing:
        faults = [f"lacks {_show(missing)}"] * bool(missing) + [f"has unknown {_show(unknown)}"] * bool(unknown)
        raise ManifestError(f"{where} {' and '.join(faults)}")
    kinds = typing.get_type_hints(kind)
    decoded = {name: _decode(kinds[name], member, f"{where}.{name}", fill) for name, member in members.items()}
    try:
        return kind(**decoded)
    except UsageError as exc:
        raise ManifestError(f"{where}: {exc}") from exc


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _decode_union(kinds: tuple[Any, ...], value: object, where: str, fill: bool) -> object:
    """Decode as the first member that fits, or as the dataclass with the same ``kind`` as the value."""
    records = {typing.get_args(typing.get_type_hints(kind)["kind"])[0]: kind for kind in kinds if _has_kind(kind)}
    if records:
        stated = _expect(dict, value, where).get("kind")
        return _decode(records[_one_of(tuple(records), stated, f"{where}.kind")], value, where, fill)
    faults = []
    for kind in kinds:
        try:
            return _decode(kind, value, where, fill)
        except ManifestError as exc:
            faults.append(str(exc))
    raise ManifestError("; or ".join(faults))


def _has_kind(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) and any(field.name == "kind" for field in dataclasses.fields(kind))


def _decode_tuple(kinds: tuple[Any, ...], value: object, where: str, fill: bool) -> tuple[object, ...]:
    members = _expect(list, value, where)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(members)
    if len(members) != len(kinds):
        raise ManifestError(f"{where} has {len(members)} members instead of {len(kinds)}")
    return tuple(
        _decode(kind, member, f"{where}[{i}]", fill)
        for i, (kind, member) in enumerate(zip(kinds, members, strict=True))
    )


def _one_of(allowed: tuple[Any, ...], value: object, where: str) -> Any:
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise ManifestError(f"{where} is {value!r:.80} instead of {' or '.join(map(repr, allowed))}")
    return value


def _to_float(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ManifestError(f"{where} is too large a number")
    return number


def _expect(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ManifestError(f"{where} is {value!r:.80} instead of {getattr(kind, '__name__', kind)}")
    return value


def _show(names: list[str]) -> str:
    """Return names for an error message. Foreign ones may be endless or contain control characters."""
    shown = [name if name.isprintable() and len(name) <= 80 else f"{name!r:.80}" for name in names[:_SHOWN_NAMES]]
    return ", ".join(shown) + f" and {len(names) - _SHOWN_NAMES} more" * (len(names) > _SHOWN_NAMES)
