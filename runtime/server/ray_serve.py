"""The server as a deployment of Ray Serve: each replica is the same application, with its own models and batches.

``serve.run(app({"artifacts": "/shared/artifacts/minilm", "options": {"num_replicas": 4}}))`` runs it, or the command
``serve run runtime.server.ray_serve:app artifacts=/shared/artifacts/minilm``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from runtime.artifact.reader import read_manifest
from runtime.artifact.space import space_of
from runtime.errors import UsageError, needs_extra
from runtime.server.app import build_app
from runtime.server.request_errors import RequestError
from runtime.server.run import load_service
from runtime.server.service import EmbeddingService
from runtime.server.settings import ServerJob, ServerSettings

# Ray's own limit is 5, which would leave nothing to batch. The admission of each replica is the bound.
_MOST_REQUESTS = 10_000
_KNOWN = ("artifacts", "threads", "settings", "session", "options")
_OF_RAY = ("host", "port", "drain_seconds", "hang_seconds")  # its proxy and its controller do these
_SESSION = ("provider", "provider_options", "concurrent_batches", "variant", "tower", "check_hashes")
_SETTINGS = tuple(field.name for field in fields(ServerSettings) if field.name not in _OF_RAY)


def app(arguments: Mapping[str, Any]) -> Any:
    """Return the application for ``serve.run``, and for the field ``import_path`` of Ray Serve's configuration.

    Args:
        arguments: The artifacts and their settings.

            - ``artifacts``: a folder, or folders by the names that clients know. All machines must see them.
            - ``threads``: CPUs and threads of each replica; by default 1.
            - ``settings``: fields of the server's settings, such as ``truncate``.
            - ``session``: other keyword arguments of ``load``, such as ``variant``. It is ``fp32`` by default, so that
              different machines give vectors that can be compared.
            - ``options``: options of ``serve.deployment``, such as ``num_replicas`` and ``ray_actor_options``. The
              ``memory`` that Ray reserves for a replica is also its ``memory_limit``, unless ``settings`` has one.

    Raises:
        MissingDependencyError: Ray Serve is not installed.
        UsageError: An argument is unknown or wrong.
    """
    with needs_extra("ray-serve", "this deployment"):
        from ray import serve
    _check_names(arguments, _KNOWN, "")
    _check_names(arguments.get("settings", {}), _SETTINGS, "settings: ")
    _check_names(arguments.get("session", {}), _SESSION, "session: ")
    threads, options = int(arguments.get("threads", 1)), arguments.get("options", {})
    reserved = dict(options.get("ray_actor_options", {}))
    if reserved.setdefault("num_cpus", threads) != threads:
        raise UsageError(
            f"ray_actor_options: num_cpus is {reserved['num_cpus']}, and threads is {threads}; set threads"
        )
    job = describe_job(arguments, memory_limit=int(reserved.get("memory") or 0) or None)
    defaults = {"name": "embedding-backbones", "max_ongoing_requests": _MOST_REQUESTS}
    try:
        deployment = serve.deployment(**{**defaults, **options, "ray_actor_options": reserved})
    except (TypeError, ValueError) as exc:
        raise UsageError(f"options: {exc}") from exc
    return deployment(serve.ingress(_builder(job))(Replica)).bind()


def describe_job(arguments: Mapping[str, Any], *, memory_limit: int | None) -> ServerJob:
    """Return the job of each replica for the ``arguments`` of :func:`app`.

    It names the spaces of the artifacts as they are now, so that no later replica embeds in another one. With the
    variant ``auto``, each machine chooses its space.

    Raises:
        EmbeddingBackbonesError: An argument or a manifest is wrong.
    """
    artifacts = _name(arguments.get("artifacts"))
    session = {"threads": int(arguments.get("threads", 1)), "variant": "fp32", **arguments.get("session", {})}
    fixed = artifacts if session["variant"] != "auto" else {}
    spaces = {name: _find_space(folder, session) for name, folder in fixed.items()}
    settings = ServerSettings(**{"memory_limit": memory_limit, **arguments.get("settings", {})})
    return ServerJob(artifacts=artifacts, settings=settings, session=session, spaces=spaces)


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


def _check_names(given: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"{place}{', '.join(unknown)} has no effect here; known are {', '.join(known)}")


def _name(artifacts: object) -> dict[str, Path]:
    if isinstance(artifacts, str):
        return {read_manifest(Path(artifacts)).name: Path(artifacts)}
    if isinstance(artifacts, Mapping) and artifacts:
        return {name: Path(folder) for name, folder in artifacts.items()}
    raise UsageError("artifacts must be a folder, or folders by name")


def _find_space(folder: Path, session: Mapping[str, Any]) -> str:
    manifest = read_manifest(folder)
    return space_of(manifest, dict.fromkeys(manifest.select_towers(session.get("tower")), session["variant"]))


def _builder(job: ServerJob) -> Callable[[], ASGIApp]:
    """Return the function that each replica calls."""

    def build() -> ASGIApp:
        Replica.service = load_service(job)
        return build_app(Replica.service)

    return build
