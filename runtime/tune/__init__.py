"""What is fastest on this machine: every variant, number of threads and batch size, measured and remembered."""
