"""The server as a deployment of Ray Serve: each replica is the same application, with its own models and batches.

``serve.run(app({"artifacts": {"minilm": "/shared/artifacts/minilm"}, "replicas": 4}))`` runs it, or the command
``serve run runtime.server.ray_serve:app artifacts=/shared/artifacts/minilm``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from runtime.artifact.reader import read_manifest
from runtime.errors import MissingDependencyError, UsageError
from runtime.server.app import build_app
from runtime.server.run import build_service, open_models, prepare_process
from runtime.server.settings import ServerSettings

# Ray's own limit is 5, which would leave nothing to batch. The admission of each replica is the bound.
_MOST_REQUESTS = 10_000
_KNOWN = ("artifacts", "replicas", "threads", "memory", "settings", "session", "options")


def app(arguments: Mapping[str, Any]) -> Any:
    """Return the application for ``serve.run``, and for the field ``import_path`` of Ray Serve's configuration.

    Args:
        arguments: The artifacts and their settings.

            - ``artifacts``: a folder, or folders by the names that clients know. All machines must see them.
            - ``replicas``: number of replicas; by default 1, and ``auto`` for Ray's autoscaling.
            - ``threads``: CPUs and threads of each replica; by default 1.
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
    if unknown := sorted(set(arguments) - set(_KNOWN)):
        raise UsageError(f"{', '.join(unknown)} is unknown; known are {', '.join(_KNOWN)}")
    threads, memory = int(arguments.get("threads", 1)), arguments.get("memory")
    settings = ServerSettings(**{"memory_limit": memory and int(memory), **arguments.get("settings", {})})
    session = {"threads": threads, **arguments.get("session", {})}
    replicas = arguments.get("replicas", 1)
    resources = {"num_cpus": threads} | ({"memory": int(memory)} if memory else {})
    deployment = serve.deployment(
        name="embedding-backbones",
        num_replicas=replicas if replicas == "auto" else int(replicas),
        max_ongoing_requests=_MOST_REQUESTS,
        ray_actor_options=resources,
        **arguments.get("options", {}),
    )
    return deployment(serve.ingress(_builder(_name(arguments.get("artifacts")), settings, session))()).bind()


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
        return build_app(build_service(open_models(artifacts, settings, **session), settings))

    return build
