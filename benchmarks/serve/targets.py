"""Read which servers to measure, and open them: those of URLs, and those that are started for artifacts."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measure.cpu_time import resident_bytes
from benchmarks.serve.connection import ask_once, format_request
from benchmarks.serve.interfaces import PATHS, Endpoint, make_endpoint
from benchmarks.serve.measure import Server, ServerError
from benchmarks.serve.process import serve_command, split_server_options, start_server
from benchmarks.serve.schema import ServedArtifact
from runtime.artifact.reader import read_manifest
from runtime.errors import UsageError

_ABOUT_TIMEOUT_S = 30
_OWN_HEADERS = ("host", "content-length", "content-type")  # that every request has anyway


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server to measure, as the user names it."""

    name: str
    place: str  # URL of a server, or folder of an artifact to serve.
    model: str | None  # to ask for; `None` for the first that the server lists.
    pid: int | None  # of a server that runs already on this machine.
    headers: tuple[tuple[str, str], ...]  # to send with each request.

    @property
    def is_artifact(self) -> bool:
        """Whether the benchmark starts the server."""
        return "://" not in self.place


def read_targets(options: argparse.Namespace) -> tuple[Target, ...]:
    """Return the servers to measure.

    Raises:
        UsageError: Two have the same name, ``--model`` or ``--pid`` fits none of them, or a header is wrong.
    """
    places = _split_names(options.servers)
    models = _by_server(options.model, list(places), "--model")
    pids = _by_server(options.pid, list(places), "--pid")
    if "" in pids and len(places) > 1:
        raise UsageError(f"--pid {pids['']:.80} could be of any server; write it with {_any_of(places)}=")
    headers = _read_headers(options)
    targets = tuple(
        Target(
            name=name,
            place=place,
            model=models.get(name, models.get("")),
            pid=_read_pid(pids.get(name, pids.get(""))),
            headers=headers,
        )
        for name, place in places.items()
    )
    _check_models(targets, models, options)
    for target in targets:
        if target.is_artifact and target.pid is not None:
            raise UsageError(f"--pid names {target.name}, which the benchmark starts; leave it out")
    return targets


def _split_names(words: Sequence[str]) -> dict[str, str]:
    """Return the places of the servers by name; a URL or a path may hold an equals sign, too."""
    pairs = []
    for word in words:
        name, equals, place = word.partition("=")
        has_name = name and equals and "/" not in name and not Path(word).exists()
        place = place if has_name else word
        pairs.append((name if has_name else place if "://" in place else Path(place).name, place))
    if len(dict(pairs)) < len(pairs):
        raise UsageError(f"servers need different names: {', '.join(name for name, _ in pairs)}; write NAME=URL")
    return dict(pairs)


def _by_server(words: Sequence[str], names: Sequence[str], option: str) -> dict[str, str]:
    """Return the values of ``[NAME=]VALUE`` by the name of the server. A value without a name has the name ``""``."""
    found: dict[str, str] = {}
    for word in words:
        owner = max((name for name in names if word.startswith(f"{name}=")), key=len, default="")
        if not owner and "=" in word:
            raise UsageError(f"{option} {word!r:.200} names none of the servers; write it with {_any_of(names)}=")
        if owner in found or (found and len(names) == 1):
            raise UsageError(f"{option} has two values for {owner or 'all servers'}; give one")
        found[owner] = word.removeprefix(f"{owner}=") if owner else word
    return found


def _any_of(names: Iterable[str]) -> str:
    return "= or ".join(names)


def _check_models(targets: Sequence[Target], models: dict[str, str], options: argparse.Namespace) -> None:
    """Check that each value of ``--model`` is one that some server is asked for; TEI's interface has no models."""
    takers = {target.name for target in targets if _interface(target, options) == "openai"}
    for owner, model in models.items():
        if not (takers & {owner} if owner else takers - models.keys()):
            raise UsageError(f"--model {model!r:.200} is asked of no server with OpenAI's interface; leave it out")


def _interface(target: Target, options: argparse.Namespace) -> str:
    url = "http://127.0.0.1" if target.is_artifact else target.place
    return make_endpoint(url, interface=options.interface, encoding=options.encoding).interface


def _read_pid(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise UsageError(f"--pid is {text!r:.80}; it must be a number")
    if not (int(text) and resident_bytes(int(text))):  # 0 is the parent of all
        raise UsageError(f"--pid {text} is no process on this machine; leave it out")
    return int(text)


def _read_headers(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    headers = [_split_header(header) for header in options.header]
    if options.api_key_file:
        headers.append(("Authorization", f"Bearer {_read_key(options.api_key_file)}"))
    names = [name.lower() for name, _ in headers]
    for name in names:
        if name in _OWN_HEADERS:
            raise UsageError(f"--header must not be {name}, which the benchmark sends itself; leave it out")
        if names.count(name) > 1:
            raise UsageError(f"the header {name} is given twice; give --header or --api-key-file once")
    return tuple(headers)


def _split_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not text.isprintable():
        raise UsageError("--header must have the form NAME:VALUE, without control characters")
    return name.strip(), value.strip()


def _read_key(path: Path) -> str:
    try:
        return path.read_text("utf-8").split()[0]
    except (OSError, ValueError, IndexError) as exc:
        raise UsageError(f"{path} holds no key ({exc})") from exc


@contextlib.contextmanager
def open_server(target: Target, options: argparse.Namespace) -> Iterator[Server]:
    """Yield the server at a URL, or one that is started for an artifact."""
    if not target.is_artifact:
        yield Server(name=target.name, endpoint=_endpoint(target, target.place, options), pid=target.pid)
        return
    folder = Path(target.place)
    read_manifest(folder)  # an error here is clearer than that of a server
    with start_server(serve_command(folder, split_server_options(options.server_options))) as started:
        endpoint = _endpoint(target, started.url, options)
        yield Server(name=target.name, endpoint=endpoint, pid=started.pid, check=started.check)


def _endpoint(target: Target, url: str, options: argparse.Namespace) -> Endpoint:
    endpoint = make_endpoint(url, interface=options.interface, encoding=options.encoding, headers=target.headers)
    if endpoint.interface == "tei":
        return endpoint
    return replace(endpoint, model=target.model or _first_model(target.name, endpoint))


def _first_model(name: str, endpoint: Endpoint) -> str:
    """Return the first model that a server lists."""
    path = endpoint.path.removesuffix("/embeddings") + "/models"
    try:
        return str(_get(endpoint, path)["data"][0]["id"])
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, TimeoutError) as exc:
        raise ServerError(
            f"{name} at {endpoint.address}{path} lists no models ({type(exc).__name__}: {exc}); name one with --model, "
            "or use --interface tei"
        ) from exc


def find_artifact(endpoint: Endpoint) -> ServedArtifact | None:
    """Return the artifact that ``/info`` names for the model of requests; ``None`` if it names none."""
    try:
        info = _get(endpoint, endpoint.path.removesuffix(PATHS[endpoint.interface]) + "/info")
        name = str(endpoint.model or info["model_id"])
        models = info["models"]
        served = name if name in models else name.rpartition(":")[0]  # an alias is the name, a colon and a prompt
        model = models[served]
        space, variant, provider = (str(model[key]) for key in ("vector_space", "variant", "provider"))
        return ServedArtifact(name=served, space=space, variant=variant, provider=provider)
    except (OSError, EOFError, ValueError, KeyError, TypeError, TimeoutError):
        return None  # a server of another project


def _get(endpoint: Endpoint, path: str) -> Any:
    request = format_request("GET", endpoint.address, path, dict(endpoint.headers))
    _, body = asyncio.run(ask_once(endpoint.address, request, _ABOUT_TIMEOUT_S))
    return json.loads(body)
