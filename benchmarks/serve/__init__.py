"""Load an embedding server with requests, and report its throughput and latency."""
