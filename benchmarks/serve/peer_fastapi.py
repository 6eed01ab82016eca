"""The server that tutorials build of FastAPI and sentence-transformers, as a peer for ``python -m benchmarks serve``.

``MODEL=FOLDER uvicorn benchmarks.serve.peer_fastapi:app --port 8081`` runs it where both are installed.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(os.environ["MODEL"], device="cpu")


class Body(BaseModel):
    """A request in OpenAI's interface."""

    input: str | list[str]


def embed(body: Body) -> dict[str, Any]:
    """Return the vectors of texts."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors = model.encode(texts, show_progress_bar=False)
    return {"data": [{"index": at, "embedding": vector.tolist()} for at, vector in enumerate(vectors)]}


def models() -> dict[str, Any]:
    """Return the only model."""
    return {"data": [{"id": "model"}]}


app = FastAPI()
app.add_api_route("/v1/embeddings", embed, methods=["POST"])
app.add_api_route("/v1/models", models)
