"""Measure the most that a machine can do."""
