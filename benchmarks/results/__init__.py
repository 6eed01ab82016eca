"""Results of a benchmark: schema, statistics, prices."""
