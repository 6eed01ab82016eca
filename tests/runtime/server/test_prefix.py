"""Under a prefix, as with Ray Serve's ``route_prefix``, keys, errors and metrics are those of the path without it."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest

from runtime.server.middleware import relative_location, route_path
from runtime.server.served_model import ServedModel
from tests.runtime.server.conftest import serving

KEY = {"authorization": "Bearer one"}


@pytest.mark.parametrize(
    ("root_path", "path", "expected"),
    [
        ("", "/embed", "/embed"),
        ("/models", "/models/embed", "/embed"),
        ("/models", "/models", "/"),
        ("/models", "/models/", "/"),
        ("/models", "/models2", "/models2"),
        ("/models", "/embed", "/embed"),
    ],
)
def test_the_prefix_is_cut_off(root_path: str, path: str, expected: str) -> None:
    assert route_path({"root_path": root_path, "path": path}) == expected


@pytest.mark.parametrize(
    ("asked", "location", "expected"),
    [
        ("/v1/embeddings/", "http://host/v1/embeddings?a=b", "../embeddings?a=b"),
        ("/models/embed//", "http://host/models/embed", "../../embed"),
        ("/models", "http://host/models/", "models/"),  # as Ray Serve asks for the root under its prefix
    ],
)
def test_a_redirect_stays_under_the_prefix_of_a_proxy(asked: str, location: str, expected: str) -> None:
    assert relative_location(asked, location) == expected
    for prefix in ("", "/prefix"):
        target = urlsplit(location)
        resolved = prefix + target.path + f"?{target.query}" * bool(target.query)
        assert "//" in asked or urljoin(f"https://proxy{prefix}{asked}", expected) == f"https://proxy{resolved}"


def test_keys_errors_and_metrics_do_not_depend_on_the_prefix(toy_models: list[ServedModel]) -> None:
    with serving(toy_models, prefix="/models", api_keys=("one",)) as server:
        for path in ("/", "/health", "/v2/health/ready"):
            assert server.get(path).status_code == 200
        assert server.get("/v1/models").json()["error"]["code"] == "invalid_api_key"
        assert server.post("/v1/embeddings", {}, headers=KEY).json()["error"]["param"] == "input"
        assert server.get("/v1/other", headers=KEY).json()["error"]["code"] == "not_found"
        assert set(server.post("/v2/models/toy/infer", {}, headers=KEY).json()) == {"error"}
        moved = server.post("/v1/embeddings/?a=b", {}, headers=KEY)  # and a proxy may have taken it by https
        assert (moved.status_code, moved.headers["location"]) == (307, "../embeddings?a=b")
        assert server.get("/openapi.json").json()["servers"] == [{"url": "/models"}]
        page = server.get("/metrics", headers=KEY).text
    assert 'te_request_count{path="/health",status="200"} 1.0' in page
    assert 'te_request_success{path="other"}' not in page
    assert 'te_request_count{path="/v1/embeddings",status="400"} 1.0' in page
