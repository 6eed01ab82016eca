"""Measure installation size, start time and memory growth."""
