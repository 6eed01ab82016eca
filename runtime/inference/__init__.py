"""Turn items into vectors: batching, towers, the pipeline, workers, and the Embedder."""
