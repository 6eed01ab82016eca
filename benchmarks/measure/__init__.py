"""Measure contenders: the plan, the rounds, the worker processes."""
