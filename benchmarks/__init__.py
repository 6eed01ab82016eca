"""Measures the runtime against torch and against what else people use. Nothing imports this package."""
