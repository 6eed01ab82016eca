"""Facts about the machine: CPU, GPU driver, threads, memory limits, child processes."""
