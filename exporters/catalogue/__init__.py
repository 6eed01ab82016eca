"""The catalogue of backbones, and the options of an export."""
