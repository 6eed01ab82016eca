"""The command line of ``python -m runtime``."""
