"""Transforms of a finished graph, one per file."""
