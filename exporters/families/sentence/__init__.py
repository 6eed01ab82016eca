"""Text encoders of sentence-transformers and transformers."""
