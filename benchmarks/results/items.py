"""Tell whether results have the same items. Times of other texts are no comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from benchmarks.results.schema import OwnItems, Results, ResultsError
from runtime.artifact.manifest import TowerName


def check_items(results: Mapping[str, Results], towers: Collection[TowerName]) -> None:
    """Check that all ``results`` have the same items for each of the ``towers``.

    Results of an older schema do not record their items, and count as equal to all others.

    Args:
        results: Results by their names in the error.
        towers: The towers that are compared.

    Raises:
        ResultsError: The items of a tower differ.
    """
    plans = {name: each.plan for name, each in results.items() if each.plan is not None}
    for tower in sorted(towers):
        found = {name: plan.items.get(tower) for name, plan in plans.items()}
        first = next(iter(found), "")
        for name, items in found.items():
            if items != found[first]:
                raise ResultsError(
                    f"the items of the {tower} tower differ: those of {first} are {_describe(found[first])}, those of "
                    f"{name} are {_describe(items)}; measure with the same --items"
                )


def doubt_texts(results: Iterable[Results]) -> str:
    """Return a warning if the built-in texts of ``results`` are docstrings of different versions of Python."""
    with_texts = [each for each in results if any(case.tower == "text" for case in each.cases)]
    built_in = [each for each in with_texts if _has_built_in(each, "text")]
    pythons = sorted({each.machine.python for each in built_in})
    if len(pythons) < 2:
        return ""
    return (
        f"the built-in texts are docstrings of Python, and those of Python {' and '.join(pythons)} differ. To compare "
        "the same texts, measure with one version, or with the same --items"
    )


def _has_built_in(results: Results, tower: TowerName) -> bool:
    """Tell whether the items of a tower are the built-in ones, as far as older results tell."""
    return results.plan is None or tower not in results.plan.items


def warn_of_built_in(results: Iterable[Results], tower: TowerName) -> str:
    """Return a warning if times of a tower are those of the built-in items, with the sizes of these if known."""
    built_in = [each for each in results if _has_built_in(each, tower)]
    if not built_in:
        return ""
    known = [each.timed_items[tower].description for each in built_in if tower in each.timed_items]
    return (
        f"the times of the {tower} tower are those of built-in items{f': {known[0]}' if known else ''}. Yours may be "
        f"smaller or larger, and take other times: measure them with --items {tower}=PATH"
    )


def _describe(items: OwnItems | None) -> str:
    return f"{items.source} (hash {items.sha256[:12]})" if items else "built-in"
