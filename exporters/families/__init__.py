"""Families of models: each folder loads its models and builds their towers. ``load.FAMILIES`` lists them."""
