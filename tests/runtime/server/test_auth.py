from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UsageError
from runtime.server.auth import read_keys
from runtime.server.served_model import ServedModel
from runtime.server.settings import ServerSettings
from tests.runtime.server.conftest import CLIENT, serving


def test_only_clients_with_a_key_are_answered(toy_models: list[ServedModel]) -> None:
    with serving(toy_models, api_keys=("one", "zwei-ü")) as server:
        for key in ("one", "zwei-ü"):
            headers = {b"authorization": f"Bearer {key}".encode()}
            assert CLIENT.post(f"{server.url}/embed", json={"inputs": "a"}, headers=headers).status_code == 200
        for given in ("", "Bearer", "Bearer on", "Bearer one two", "Basic one", "one"):
            refused = server.post("/v1/embeddings", {"input": "a"}, headers={"authorization": given})
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
            assert refused.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/info", "/v1/models", "/v2", "/tokenize"):
            assert server.get(path).status_code == 401
        assert server.post("/", {"inputs": "a"}).status_code == 401
        for path in ("/", "/docs", "/health", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
            assert server.get(path).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"api_keys": ("one", "")}, "an API key is empty"),
        ({"api_keys": ("one ",)}, "a space at its end"),
        ({"api_keys": "secret"}, "api_keys is one string; give a list"),
        ({"truncate": "cut"}, "truncate is 'cut', it must be count or error"),
    ],
)
def test_settings_that_would_let_others_in_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ServerSettings(**wrong)


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the team\none\n\n two \n")
    assert read_keys(path) == ["one", "two"]
    path.write_text("one\ntwo\n", "utf-8-sig")  # as Windows editors write it
    assert read_keys(path) == ["one", "two"]
    path.write_text("# none\n")
    for wrong in (path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="API keys"):
            read_keys(wrong)


def test_other_pages_may_call_the_server_only_if_allowed(toy_models: list[ServedModel]) -> None:
    origin = {"origin": "https://a.example"}
    with serving(toy_models) as closed, serving(toy_models, cors_origins=("https://a.example",)) as opened:
        assert "access-control-allow-origin" not in closed.get("/health", headers=origin).headers
        headers = opened.get("/health", headers=origin).headers
    assert headers["access-control-allow-origin"] == "https://a.example"
    exposed = headers["access-control-expose-headers"].split(", ")
    assert {"x-truncated", "x-vector-space", "x-request-id", "retry-after"} <= set(exposed)
