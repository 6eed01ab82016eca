"""The server as a deployment of Ray Serve: each replica is the same application, with its own models and batches.

``serve.run(app({"artifacts": {"minilm": "/shared/artifacts/minilm"}, "replicas": 4}))`` runs it, or the command
``serve run runtime.server.ray_serve:app artifacts=/shared/artifacts/minilm``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from runtime.artifact.reader import read_manifest
from runtime.errors import MissingDependencyError, UsageError
from runtime.server.app import build_app
from runtime.server.request_errors import RequestError
from runtime.server.run import build_service, open_models, prepare_process
from runtime.server.service import EmbeddingService
from runtime.server.settings import ServerSettings
from runtime.session.provider_options import resolve_options
from runtime.session.providers import find_provider

# Ray's own limit is 5, which would leave nothing to batch. The admission of each replica is the bound.
_MOST_REQUESTS = 10_000
_KNOWN = ("artifacts", "replicas", "threads", "gpus", "memory", "settings", "session", "options")
_OF_RAY = ("host", "port", "drain_seconds", "hang_seconds", "max_header_bytes")  # its proxy and its controller do these
_SETTINGS = tuple(field.name for field in fields(ServerSettings) if field.name not in _OF_RAY)


def app(arguments: Mapping[str, Any]) -> Any:
    """Return the application for ``serve.run``, and for the field ``import_path`` of Ray Serve's configuration.

    Args:
        arguments: The artifacts and their settings.

            - ``artifacts``: a folder, or folders by the names that clients know. All machines must see them.
            - ``replicas``: number of replicas; by default 1, and ``auto`` for Ray's autoscaling.
            - ``threads``: CPUs and threads of each replica; by default 1.
            - ``gpus``: GPUs of each replica, or a share of one; by default 1 if ``session`` names a provider for GPUs,
              else 0.
            - ``memory``: bytes of memory of each replica; by default those of the machine.
            - ``settings``: fields of the server's settings, such as ``truncate``.
            - ``session``: other keyword arguments of ``load``, such as ``variant``.
            - ``options``: other options of the deployment, such as ``autoscaling_config``.

    Raises:
        MissingDependencyError: Ray Serve is not installed.
        UsageError: An argument is unknown or wrong.
    """
    try:
        from ray import serve
    except ImportError as exc:
        raise MissingDependencyError(f"{exc}; pip install 'embedding-backbones[ray-serve]'") from exc
    _check_names(arguments, _KNOWN, "")
    _check_names(arguments.get("settings", {}), _SETTINGS, "settings: ")
    threads, memory = int(arguments.get("threads", 1)), int(arguments.get("memory") or 0)
    settings = ServerSettings(**{"memory_limit": memory or None, **arguments.get("settings", {})})
    session = {"threads": threads, **arguments.get("session", {})}
    replicas = arguments.get("replicas", 1)
    options = {
        "name": "embedding-backbones",
        "num_replicas": replicas if replicas == "auto" else int(replicas),
        "max_ongoing_requests": _MOST_REQUESTS,
        "ray_actor_options": replica_resources(threads, memory, arguments.get("gpus"), session),
    }
    further = arguments.get("options", {})
    if twice := sorted(options.keys() & further):
        raise UsageError(f"options: {twice[0]} is set by the server; use replicas, threads, gpus and memory")
    deployment = serve.deployment(**options, **further)
    ingress = serve.ingress(_builder(_name(arguments.get("artifacts")), settings, session))
    return deployment(ingress(Replica)).bind()


class Replica:
    """One replica, alone in its process. Ray replaces it if its models fail.

    Attributes:
        service: The service of the application.
    """

    service: EmbeddingService

    async def check_health(self) -> None:
        """Raise an error that Ray can send between processes if a model cannot embed. Ray calls this."""
        try:
            await Replica.service.health.check()
        except RequestError as exc:
            raise RuntimeError(str(exc)) from None


def replica_resources(threads: int, memory: int, gpus: object, session: Mapping[str, Any]) -> dict[str, float]:
    """Return the resources that Ray reserves for each replica. ``gpus`` is ``None`` if the provider decides.

    Raises:
        UsageError: The session has no such provider, or ``gpus`` is no number from 0 up.
    """
    if gpus is None:
        provider, _ = resolve_options(session.get("provider", "auto"), session.get("provider_options"))
        gpus = int(provider != "auto" and find_provider(provider).device == "cuda")
    reserved = {"num_cpus": threads, "num_gpus": _parse_share(gpus), "memory": memory}
    return {name: amount for name, amount in reserved.items() if amount}


def _parse_share(gpus: object) -> float:
    try:
        share = float(str(gpus))
    except ValueError:
        share = -1
    if not 0 <= share < math.inf:
        raise UsageError(f"gpus is {gpus!r}, it must be a number from 0 up")
    return share


def _check_names(given: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"{place}{', '.join(unknown)} has no effect here; known are {', '.join(known)}")


def _name(artifacts: object) -> dict[str, Path]:
    if isinstance(artifacts, str):
        return {read_manifest(Path(artifacts)).name: Path(artifacts)}
    if isinstance(artifacts, Mapping) and artifacts:
        return {name: Path(folder) for name, folder in artifacts.items()}
    raise UsageError("artifacts must be a folder, or folders by name")


def _builder(
    artifacts: Mapping[str, Path], settings: ServerSettings, session: Mapping[str, Any]
) -> Callable[[], ASGIApp]:
    """Return the function that each replica calls."""

    def build() -> ASGIApp:
        prepare_process(settings)
        Replica.service = build_service(open_models(artifacts, settings, **session), settings)
        return build_app(Replica.service)

    return build
