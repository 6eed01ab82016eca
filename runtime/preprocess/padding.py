"""Pad lengths to a multiple."""

from __future__ import annotations


def round_up(number: int, multiple: int) -> int:
    """Returns the smallest multiple of ``multiple`` that is at least ``number``."""
    return -(-number // multiple) * multiple
