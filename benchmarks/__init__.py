"""Benchmark the runtime against torch and other libraries. No other package imports this one."""
