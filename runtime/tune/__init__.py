"""Measure which provider, variant, number of threads and batch size is the fastest on this machine."""
