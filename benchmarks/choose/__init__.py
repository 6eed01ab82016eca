"""Choose hardware from results of several machines."""
