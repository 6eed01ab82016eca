"""From an item, as a user has it, to the array that a graph takes."""
