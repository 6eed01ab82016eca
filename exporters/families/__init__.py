"""Model families: each folder loads its models and builds their towers."""
