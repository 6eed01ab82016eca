"""Measure the limits of a machine: matrix multiplication and memory bandwidth."""
