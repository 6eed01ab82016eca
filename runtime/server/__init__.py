"""Serve artifacts over HTTP, to clients of OpenAI, text-embeddings-inference and KServe: the extra ``serve``."""
