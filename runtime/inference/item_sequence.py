"""Take what users pass as several items, and refuse what is one item or has no order."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, cast

import numpy as np

from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError

_ITEM_AXES = {"image": 3, "mesh": 2}  # of an item that is an array
_TABLE_ATTRIBUTES = ("columns", "column_names")  # of DataFrames, Arrow tables and datasets
_COLUMN_METHODS = ("to_pylist", "to_list")  # of Arrow arrays, and of a Series of pandas or polars


def check_items(items: Iterable[Any], tower: TowerName) -> Iterable[Any]:
    """Return several ``items`` for ``tower``, an array or a column of items as a list.

    Raises:
        UsageError: It is one item for ``tower``, or a collection that has no order or several columns.
    """
    name = type(items).__name__
    if any(hasattr(type(items), attribute) for attribute in _TABLE_ATTRIBUTES):
        raise UsageError(f"give a sequence of items, not a {name} of several columns: one of its columns")
    if isinstance(items, AsyncIterable):
        raise UsageError("give a sequence of items, not an asynchronous iterator: [item async for item in items]")
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Iterable):
        raise UsageError(f"give several items, not one {name}: put it in a list, [item]")
    if isinstance(items, set | frozenset):
        raise UsageError(f"the order of the items is kept, and a {name} has none; give a list")
    if isinstance(items, Mapping):
        raise UsageError(f"give a sequence of items, not a {name}: its values as a list")
    for method in _COLUMN_METHODS:
        if callable(getattr(type(items), method, None)):
            return cast("list[Any]", getattr(items, method)())
    if isinstance(items, np.ndarray):
        if items.ndim == 0:
            raise UsageError("give several items, not an array without axes: put the item in a list, [item]")
        if items.ndim == _ITEM_AXES.get(tower):
            raise UsageError(f"give several items, not one {list(items.shape)} array: put it in a list, [array]")
        return list(items)
    return items
