"""The version of this project. All its packages are released together."""

__version__ = "0.1.0"
