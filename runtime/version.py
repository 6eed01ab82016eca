"""The version of all three packages: they are released as one distribution."""

__version__ = "0.1.0"
