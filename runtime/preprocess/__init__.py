"""From items, as users have them, to the arrays that a graph takes; a module for each kind of item."""

from __future__ import annotations


class UnusableItemError(ValueError):
    """The item cannot be embedded; the message is the reason."""
