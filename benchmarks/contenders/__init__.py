"""Contenders: this project's runtime, torch, and other libraries that embed. Each has its own module."""
