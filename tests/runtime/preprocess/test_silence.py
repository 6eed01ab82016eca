"""Test the suppression of warnings."""

from __future__ import annotations

import warnings

import pytest

from runtime.preprocess.silence import SuppressWarnings


def test_warnings_are_suppressed_until_the_last_thread_leaves() -> None:
    """With ``catch_warnings``, the first thread that leaves would bring back the warnings for the second."""
    before = list(warnings.filters)
    suppressed = SuppressWarnings("PIL", "trimesh")
    with suppressed:
        with suppressed:
            assert len(warnings.filters) == len(before) + 1
        for module in ("PIL.Image", "trimesh.exchange"):
            warnings.warn_explicit("damaged", UserWarning, "x.py", 1, module=module)
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="runtime.inference.embedder")
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="damaged"):
        warnings.warn_explicit("damaged", UserWarning, "x.py", 1, module="PIL.Image")


def test_a_replaced_list_of_filters_is_not_changed() -> None:
    suppressed = SuppressWarnings("PIL")
    with warnings.catch_warnings():
        outer = list(warnings.filters)
        suppressed.__enter__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            suppressed.__exit__(None, None, None)
        assert list(warnings.filters) == outer
