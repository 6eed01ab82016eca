"""Results of a benchmark: the schema, statistics, prices."""
