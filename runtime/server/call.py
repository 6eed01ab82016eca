"""Make the call of a request from the fields that all interfaces share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.server.body import take_field
from runtime.server.items import ServerItem
from runtime.server.preparation import EmbedCall
from runtime.server.request_errors import RequestError
from runtime.server.served_model import ServedModel
from runtime.server.service import EmbeddingService


def read_call(
    service: EmbeddingService,
    fields: Mapping[str, Any],
    items: Sequence[ServerItem],
    *,
    param: str,
    last: str | None = None,
    normalize: bool | None = None,
) -> EmbedCall:
    """Return the call of ``items`` with the options in ``fields``.

    The fields are ``model``, ``prompt_name``, ``truncate``, ``dimensions`` and ``normalize``. The interface has refused
    those that it does not know. ``param`` and ``last`` are those of :class:`EmbedCall`. ``normalize`` counts if the
    field is missing.

    Raises:
        RequestError: A field has another type, there is no such model or prompt, or two prompts are named.
    """
    model, prompt = read_model(service, fields)
    return EmbedCall(
        model=model,
        items=items,
        prompt=prompt,
        truncate=bool(take_field(fields, "truncate", bool, service.settings.truncate == "count")),
        normalize=take_field(fields, "normalize", bool, normalize),
        dimensions=take_field(fields, "dimensions", int),
        param=param,
        last=last,
    )


def read_model(service: EmbeddingService, fields: Mapping[str, Any]) -> tuple[ServedModel, str]:
    """Return the model that the field ``model`` names, and the text of the prompt that it or ``prompt_name`` names.

    Raises:
        RequestError: A field has another type, there is no such model or prompt, or two prompts are named.
    """
    name, prompt_name = take_field(fields, "model", str), take_field(fields, "prompt_name", str)
    model, alias_prompt = service.find_model(name)
    if alias_prompt is None:
        return model, model.prompt(prompt_name)
    if prompt_name not in (None, alias_prompt):
        raise RequestError(
            400,
            f"prompt_name is {prompt_name!r:.80}, and the model {name!r:.80} names another prompt; leave one out",
            param="prompt_name",
        )
    return model, model.prompt(alias_prompt)
