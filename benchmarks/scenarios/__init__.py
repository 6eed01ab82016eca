"""Measurements of their own: installation footprint, memory growth."""
