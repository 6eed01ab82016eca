"""Measure contenders: plan the cases, run rounds in worker processes, compare vectors, count work."""
