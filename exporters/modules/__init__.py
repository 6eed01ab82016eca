"""Torch modules that surround a backbone in the graph."""
