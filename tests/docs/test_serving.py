"""The statements of docs/serving.md about the interfaces agree with their description."""

from __future__ import annotations

import pytest

from runtime.server.openapi import Schema, describe_api
from tests.docs.pages import DOCS

PAGE = (DOCS / "serving.md").read_text("utf-8")
COLUMNS = {
    "/v1/embeddings": "/v1/embeddings",
    "/embed": "/embed",
    "/similarity": "/similarity",
    "/tokenize": "/tokenize",
    "/infer": "/v2/models/{model}/infer",
}


def fields(path: str) -> set[str]:
    """Return the fields of a request without its items: those of the object ``parameters``, if there is one."""
    body = describe_api()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    properties: dict[str, Schema] = body["properties"]
    return set(properties.get("parameters", body)["properties"]) - {"input", "inputs"}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_table_has_the_fields_of_each_interface(column: str) -> None:
    table = PAGE[PAGE.index("| field |") :].split("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip(" `") for cell in row.split("|")] for row in table]
    at = head.index(column)
    assert {row[1] for row in rows if row[at] == "yes"} == fields(COLUMNS[column])
