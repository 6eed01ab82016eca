"""Tiny text checkpoints of every family and setting, in the layouts that the libraries write."""
