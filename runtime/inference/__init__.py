"""Turn items into vectors: batching, towers, the pipeline, worker processes, and the Embedder."""
