"""The catalogue of backbones: records, registry and tables."""
