"""Turn items, as users have them, into the arrays that a graph takes; a module for each kind of item."""
