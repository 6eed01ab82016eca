"""Compare two results and judge each case."""
