"""The torch modules that end up in the graph around a backbone."""
