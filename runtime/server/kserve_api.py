"""The REST interface of KServe's Open Inference Protocol, version 2, with binary tensors.

A model has one input for each kind of item: ``text``, ``image`` or ``mesh``, of the type BYTES. Its output is
``embedding``. In JSON, the bytes of a file are base64.

Source: https://github.com/kserve/open-inference-protocol and, for binary tensors,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard, get_args

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.array_types import Array
from runtime.artifact.manifest import TowerName
from runtime.server.admission import Ticket
from runtime.server.body import check_fields, read_digits, read_json, require_field, take_field
from runtime.server.call import read_call
from runtime.server.endpoint import Endpoint, embedded_headers, json_response
from runtime.server.items import ServerItem, check_count, decode_base64
from runtime.server.request_errors import RequestError
from runtime.server.served_model import ServedModel
from runtime.server.service import Embedded, EmbeddingService
from runtime.version import __version__

_HEADER_LENGTH = "inference-header-content-length"
_OUTPUT = "embedding"
_MESH_SUFFIX = ".glb"  # of meshes without another type in the parameter ``format``


def routes() -> list[Route]:
    """Return the routes. The name of a model may have slashes, so a longer path comes before those that it fits."""
    infer, models = Endpoint(_infer), ("/v2/models/{model:path}/versions/{version}", "/v2/models/{model:path}")
    return [
        Route("/v2", _server, methods=["GET"]),
        Route("/v2/health/live", _live, methods=["GET"]),
        Route("/v2/health/ready", _ready, methods=["GET"]),
        *(Route(f"{model}/ready", _ready, methods=["GET"]) for model in models),
        *(Route(f"{model}/infer", infer, methods=["POST"]) for model in models),
        *(Route(model, _model, methods=["GET"]) for model in models),
    ]


async def _live(request: Request) -> Response:
    return json_response(request.app.state.service, {"live": True})


async def _ready(request: Request) -> Response:
    service: EmbeddingService = request.app.state.service
    model = _find(service, request) if "model" in request.path_params else None
    await service.check_ready(model)
    return json_response(service, {"ready": True})


async def _server(request: Request) -> Response:
    content = {"name": "embedding-backbones", "version": __version__, "extensions": ["binary_tensor_data"]}
    return json_response(request.app.state.service, content)


async def _model(request: Request) -> Response:
    service: EmbeddingService = request.app.state.service
    model = _find(service, request)
    content = {
        "name": request.path_params["model"],
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": kind, "datatype": "BYTES", "shape": [-1]} for kind in model.towers],
        "outputs": [{"name": _OUTPUT, "datatype": "FP32", "shape": [-1, model.manifest.output_dim]}],
    }
    return json_response(service, content)


def _find(service: EmbeddingService, request: Request) -> ServedModel:
    if request.path_params.get("version", "1") != "1":
        raise RequestError(404, "every model has the version 1 only", param="version")
    return service.find_model(request.path_params["model"])[0]


async def _infer(service: EmbeddingService, request: Request, raw: bytes, ticket: Ticket) -> Response:
    _find(service, request)  # before the body is parsed
    header, binary = _split(request, raw, ticket)
    check_fields(header, "id", "parameters", "inputs", "outputs")
    request_id, options = take_field(header, "id", str), take_field(header, "parameters", dict) or {}
    check_fields(options, "prompt_name", "normalize", "dimensions", "binary_data_output")
    items = _read_inputs(header, binary, service.settings.max_items)
    call = read_call(service, {**options, "model": request.path_params["model"]}, items, param="inputs")
    as_binary = _wants_binary(header, options)
    embedded = await service.embed(call, ticket)
    return _respond(service, request.path_params["model"], request_id, embedded, as_binary=as_binary)


def _split(request: Request, raw: bytes, ticket: Ticket) -> tuple[dict[str, Any], memoryview]:
    """Return the JSON of a body, and the binary tensors behind it, without a copy."""
    length = read_digits(request.headers.get(_HEADER_LENGTH, str(len(raw))))
    if length is None or length > len(raw):
        raise RequestError(400, f"the header {_HEADER_LENGTH} must be a number of bytes of the body")
    return read_json(raw[:length], ticket), memoryview(raw)[length:]


def _read_inputs(header: Mapping[str, Any], binary: memoryview, limit: int) -> list[ServerItem]:
    items: list[ServerItem] = []
    inputs = require_field(header, "inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(each, dict) for each in inputs):
        raise RequestError(400, "inputs must be a list of tensors", param="inputs")
    at = 0
    for tensor in inputs:
        check_fields(tensor, "name", "shape", "datatype", "parameters", "data")
        parameters = take_field(tensor, "parameters", dict) or {}
        check_fields(parameters, "binary_data_size", "format")
        size = take_field(parameters, "binary_data_size", int)
        if size is None:
            elements = _json_elements(tensor)
        else:
            elements = _binary_elements(binary[at : at + size], size, limit)
            at += size
        check_count(len(items) + len(elements), limit, "inputs")
        items += _read_tensor(tensor, parameters, elements)
    if at != len(binary):
        raise RequestError(400, f"the tensors have {at} bytes, and {len(binary)} follow the JSON", param="inputs")
    return items


def _read_tensor(tensor: Mapping[str, Any], parameters: Mapping[str, Any], elements: list[Any]) -> list[ServerItem]:
    name, shape = take_field(tensor, "name", str), require_field(tensor, "shape")
    if not _is_tower(name) or tensor.get("datatype") != "BYTES":
        raise RequestError(
            400, f"the input {name!r:.80} must be text, image or mesh, of the datatype BYTES", param="inputs"
        )
    if shape not in ([len(elements)], [len(elements), 1]) or not elements:
        raise RequestError(
            400, f"the shape of {name} must be [{len(elements)}], its number of elements", param="inputs"
        )
    suffix = take_field(parameters, "format", str, _MESH_SUFFIX) if name == "mesh" else ""
    return [_read_element(name, element, suffix or "") for element in elements]


def _is_tower(name: str | None) -> TypeGuard[TowerName]:
    return name in get_args(TowerName)


def _json_elements(tensor: Mapping[str, Any]) -> list[Any]:
    """Return the elements, which may be nested as ``[[a], [b]]``."""
    data = take_field(tensor, "data", list) or []
    elements = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in data]
    if not all(isinstance(each, str) for each in elements):
        raise RequestError(400, "data must be a list of strings", param="inputs")
    return elements


def _binary_elements(data: memoryview, size: int, limit: int) -> list[bytes]:
    """Return the elements of a BYTES tensor, each with its length in four bytes before it."""
    elements, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        elements.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
        check_count(len(elements), limit, "inputs")
    if at != size or len(data) != size:
        raise RequestError(400, "a binary tensor has another size than it announces", param="inputs")
    return elements


def _read_element(name: TowerName, element: str | bytes, suffix: str) -> ServerItem:
    try:
        if name == "text":
            content: Any = element if isinstance(element, str) else element.decode()
        else:
            content = decode_base64(element) if isinstance(element, str) else element
    except ValueError as exc:
        raise RequestError(400, f"an element of {name} cannot be decoded ({exc})", param="inputs") from exc
    return ServerItem(kind=name, content=content, suffix=suffix)


def _wants_binary(header: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Return whether the output shall be binary. Its own parameter counts more than that of the request."""
    wanted = bool(take_field(options, "binary_data_output", bool, False))
    outputs = take_field(header, "outputs", list) or []
    for output in outputs:
        if not isinstance(output, dict) or output.get("name") != _OUTPUT:
            raise RequestError(400, f"outputs may name {_OUTPUT} only", param="outputs")
        check_fields(output, "name", "parameters")
        parameters = take_field(output, "parameters", dict) or {}
        check_fields(parameters, "binary_data")
        wanted = bool(take_field(parameters, "binary_data", bool, wanted))
    return wanted


def _respond(
    service: EmbeddingService, name: str, request_id: str | None, embedded: Embedded, *, as_binary: bool
) -> Response:
    vectors: Array = np.ascontiguousarray(embedded.vectors, dtype="<f4")
    output: dict[str, Any] = {"name": _OUTPUT, "datatype": "FP32", "shape": list(vectors.shape)}
    content: dict[str, Any] = {"model_name": name, "model_version": "1", "outputs": [output]}
    if request_id is not None:
        content["id"] = request_id
    if embedded.truncated:
        content["parameters"] = {"truncated": ",".join(map(str, embedded.truncated))}  # no lists in KServe
    if not as_binary:
        output["data"] = vectors.ravel()
        return json_response(service, content, embedded)
    data = vectors.tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    header = orjson.dumps(content)
    headers = {_HEADER_LENGTH: str(len(header)), **embedded_headers(embedded)}
    return Response(header + data, headers=headers, media_type="application/octet-stream")
