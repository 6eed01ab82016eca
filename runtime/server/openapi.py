"""The description of the interfaces, for ``/docs`` and for programs that make clients or tests from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from runtime.server.auth import OPEN_PATHS
from runtime.server.items import MESH_SUFFIXES
from runtime.version import __version__

Schema: TypeAlias = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": ["boolean", "null"]}
_NAME: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": ["integer", "null"], "minimum": 1}
_NUMBERS: Schema = {"type": "array", "items": {"type": "number"}}
_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_POINT: Schema = {**_NUMBERS, "minItems": 3, "maxItems": 3}
_OPTIONS: dict[str, Schema] = {
    "model": {**_NAME, "description": "Name of a model, or NAME:PROMPT. By default, the first model."},
    "prompt_name": {**_NAME, "description": "Name of the model's prompt that is put before each text."},
    "dimensions": {**_COUNT, "description": "Leading dimensions to keep. They are scaled to unit length."},
}


def describe_api() -> Schema:
    """Return the OpenAPI description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "embedding-backbones", "version": __version__},
        "paths": {path: _describe_path(path, operations) for path, operations in _PATHS.items()},
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {
                name: {"description": text, "content": _json({"type": "object", "required": ["error"]})}
                for name, text in _ERRORS.items()
            },
        },
    }


_ERRORS = {
    "400": "The request is wrong; the message says where.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The body took too long to arrive.",
    "413": "The request is larger than the server takes.",
    "415": "The body is compressed.",
    "429": "The server is full. The header Retry-After has the seconds to wait.",
    "503": "The server is stopping.",
}


def _object(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _closed(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """Return an object of a request: its other fields are refused."""
    return {**_object(required, **properties), "additionalProperties": False}


def _list_of(schema: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": schema, **limits}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


_INDICES: Schema = {**_TEXT, "description": "Indices of the texts that were cut, with commas between them."}
_TRUNCATED: Schema = {**_list_of({"type": "integer"}), "description": "Indices of the texts that were cut."}

_SCHEMAS: dict[str, Schema] = {
    "Item": {
        "description": "A text, token ids, or an object with one of text, image, mesh and points. Files are data URLs.",
        "oneOf": [
            _TEXT,
            _IDS,
            *(
                _closed((key,), **{key: schema})
                for key, schema in (
                    ("text", _TEXT),
                    ("image", _TEXT),
                    ("mesh", _TEXT),
                    ("points", _list_of(_POINT, minItems=2)),
                )
            ),
        ],
    },
    "Items": {"anyOf": [_ref("Item"), _list_of(_ref("Item"), minItems=1)]},
    "Embeddings": _object(
        ("object", "data", "model", "usage"),
        object={"const": "list"},
        data=_list_of(
            _object(
                ("object", "index", "embedding"),
                object={"const": "embedding"},
                index={"type": "integer"},
                embedding={"oneOf": [_NUMBERS, {**_TEXT, "description": "base64 of float32, little-endian"}]},
            )
        ),
        model=_TEXT,
        usage=_object(
            ("prompt_tokens", "total_tokens"),
            prompt_tokens={"type": "integer"},
            total_tokens={"type": "integer"},
            truncated=_TRUNCATED,
        ),
    ),
    "Tensor": _closed(
        ("name", "datatype", "shape"),
        name={"enum": ["text", "image", "mesh"]},
        datatype={"const": "BYTES"},
        shape=_list_of({"type": "integer", "minimum": 1}, minItems=1, maxItems=2),
        data=_list_of(_TEXT),
        parameters=_closed(binary_data_size={"type": "integer"}, format={"enum": [*MESH_SUFFIXES.values()]}),
    ),
}
_TEI_OPTIONS: dict[str, Schema] = {
    **_OPTIONS,
    "truncate": _FLAG,
    "truncation_direction": {"enum": ["Left", "Right", "left", "right", None]},
}
_EMBED = _closed(
    ("inputs",), inputs=_ref("Items"), normalize=_FLAG, encoding_format={"enum": ["float", None]}, **_TEI_OPTIONS
)
_TOKEN = _object(
    ("id", "text", "special", "start", "stop"),
    id={"type": "integer"},
    text=_TEXT,
    special={"type": "boolean"},
    start={"type": ["integer", "null"]},
    stop={"type": ["integer", "null"]},
)
_INFER = _closed(
    ("inputs",),
    id=_TEXT,
    inputs=_list_of(_ref("Tensor"), minItems=1),
    outputs=_list_of(
        _closed(("name",), name={"const": "embedding"}, parameters=_closed(binary_data={"type": "boolean"}))
    ),
    parameters=_closed(prompt_name=_NAME, dimensions=_COUNT, normalize=_FLAG, binary_data_output=_FLAG),
)


def _get(summary: str, media_type: str | None = "application/json") -> Schema:
    content: Schema = {"content": {media_type: {}}} if media_type else {}
    return {"get": {"summary": summary, "responses": {"200": {"description": "OK", **content}}}}


def _post(summary: str, body: Schema, answer: Schema, form: Schema | None = None) -> Schema:
    content = _json(body) | ({"multipart/form-data": {"schema": form}} if form else {})
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": {"200": {"description": "OK", "content": _json(answer)}},
        }
    }


_FORM = _object(files=_list_of({**_TEXT, "format": "binary"}), inputs=_list_of(_TEXT), **_OPTIONS)
_PATHS: Mapping[str, Schema] = {
    "/v1/embeddings": _post(
        "OpenAI: embed texts, token ids, images or meshes",
        _closed(
            ("input",),
            input=_ref("Items"),
            encoding_format={"enum": ["float", "base64", None]},
            user=_NAME,
            **_OPTIONS,
        ),
        _ref("Embeddings"),
    ),
    "/v1/models": _get("OpenAI: list the models"),
    "/v1/models/{model}": _get("OpenAI: describe a model"),
    "/embed": _post("TEI: embed texts or files; vectors have unit length", _EMBED, _list_of(_NUMBERS), _FORM),
    "/similarity": _post(
        "TEI: cosine similarities of one text to others",
        _closed(
            ("inputs",),
            inputs=_closed(("source_sentence", "sentences"), source_sentence=_ref("Item"), sentences=_ref("Items")),
            parameters={**_closed(**_TEI_OPTIONS), "type": ["object", "null"]},
        ),
        _NUMBERS,
    ),
    "/tokenize": _post(
        "TEI: split texts into tokens",
        _closed(
            ("inputs",),
            inputs={"anyOf": [_TEXT, _list_of(_TEXT, minItems=1)]},
            add_special_tokens=_FLAG,
            model=_OPTIONS["model"],
            prompt_name=_NAME,
        ),
        _list_of(_list_of(_TOKEN)),
    ),
    "/info": _get("TEI: describe the server"),
    "/health": _get("TEI: 200 while the server takes requests and all models can embed", None),
    "/metrics": _get("Metrics for Prometheus", "text/plain"),
    "/v2": _get("KServe: describe the server"),
    "/v2/health/live": _get("KServe: 200 while the process lives"),
    "/v2/health/ready": _get("KServe: 200 while the server takes requests and all models can embed"),
    "/v2/models/{model}": _get("KServe: describe a model"),
    "/v2/models/{model}/ready": _get("KServe: 200 while a model takes requests and can embed"),
    "/v2/models/{model}/infer": _post(
        "KServe: embed a tensor of texts, images or meshes",
        _INFER,
        _object(("outputs",), outputs={"type": "array"}, parameters=_object(truncated=_INDICES)),
    ),
}


def _describe_path(path: str, operations: Schema) -> Schema:
    """Return the operations of a path with what most have in common: its model, the key, and errors."""
    described: Schema = {}
    if "{model}" in path:
        described["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": _TEXT}]
    for method, operation in operations.items():
        codes = list(_ERRORS) if method == "post" else ["400", "401", "404", "503"]
        errors = {code: {"$ref": f"#/components/responses/{code}"} for code in codes}
        security: list[Schema] = [{}] if path in OPEN_PATHS else [{}, {"key": []}]
        described[method] = {**operation, "responses": operation["responses"] | errors, "security": security}
    return described
