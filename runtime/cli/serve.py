"""The command ``serve``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, get_args

from runtime.arguments import parse_path
from runtime.artifact.reader import read_manifest
from runtime.cli.options import NUMBER, add_session_options, session_keywords, take_options
from runtime.errors import UsageError, needs_extra
from runtime.server.settings import ServerJob, ServerSettings, Truncate

_DEFAULTS = ServerSettings()
_SIZE = re.compile(r"(\d+)([KMGT]?)(i?B)?", re.IGNORECASE)


def add_commands(commands: Any) -> None:
    """Add the command ``serve``."""
    summary = "Serve artifacts over HTTP, to clients of OpenAI, text-embeddings-inference and KServe"
    serve = commands.add_parser("serve", help=summary, description=f"{summary}.")
    serve.add_argument(
        "artifacts",
        nargs="+",
        metavar="ARTIFACT",
        help="Folder of an artifact, or NAME=FOLDER to serve it under another name. The first one answers requests "
        "that name no model.",
    )
    _add_listening(serve)
    _add_limits(serve)
    add_session_options(serve)
    serve.set_defaults(command=_serve)


def _add_listening(serve: argparse.ArgumentParser) -> None:
    _add_setting(serve, "--host", "Listen on this address")
    _add_setting(serve, "--port", "Listen on this port; 0 is any free one", type=int, metavar="N")
    serve.add_argument(
        "--workers",
        default=1,
        help="Run N processes, each with its own copy of the models and its share of --threads, --memory-limit and "
        "--max-queue-tokens. One that dies is replaced. On Linux only (default: %(default)s)",
        **NUMBER,
    )
    serve.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="Answer only clients with this key; repeat it for several keys. Others on this machine can see it, so a "
        "file is better (default: answer everybody)",
    )
    serve.add_argument(
        "--api-key-file",
        type=parse_path,
        metavar="FILE",
        help="Read such keys from FILE, one in each line (default: none)",
    )
    serve.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        dest="cors_origins",
        metavar="ORIGIN",
        help="Let web pages of ORIGIN call the server; repeat it for several (default: none)",
    )


def _add_limits(serve: argparse.ArgumentParser) -> None:
    _add_setting(
        serve,
        "--truncate",
        "Treatment of texts that exceed the model's token limit: error refuses the request, count cuts the text and "
        "says so in the response",
        choices=get_args(Truncate),
    )
    _add_setting(
        serve, "--max-wait-ms", "Let an item wait this long for others to fill its batch", type=float, metavar="MS"
    )
    serve.add_argument(
        "--max-batch-tokens",
        help="Put up to N tokens into a batch of texts, padding included (default: 512 on a CPU, 65536 on a GPU)",
        **NUMBER,
    )
    _add_setting(serve, "--max-queue-tokens", "Refuse requests while N tokens wait or run", **NUMBER)
    _add_setting(serve, "--max-items", "Refuse requests of more than N items", **NUMBER)
    _add_setting(serve, "--max-image-pixels", "Refuse images of more than N pixels", **NUMBER)
    serve.add_argument(
        "--max-body-bytes",
        type=_parse_size,
        default=_DEFAULTS.max_body_bytes,
        metavar="SIZE",
        help=f"Refuse requests with a larger body (default: {_DEFAULTS.max_body_bytes >> 20}M)",
    )
    serve.add_argument(
        "--memory-limit",
        type=_parse_size,
        metavar="SIZE",
        help="Refuse requests that could take the process above SIZE of memory, such as 4G (default: the limit of the "
        "container, or the memory of the machine)",
    )
    for flag, meaning in (
        ("--client-seconds", "Cut off clients that take longer than S to send a request or to read a response"),
        ("--drain-seconds", "After SIGTERM, give requests in flight S to end"),
        ("--hang-seconds", "Replace a process of --workers that stands still, or whose model fails, for S"),
    ):
        _add_setting(serve, flag, meaning, type=float, metavar="S")


def _add_setting(serve: argparse.ArgumentParser, flag: str, meaning: str, **options: Any) -> None:
    """Add an option with the default of its setting."""
    default = getattr(_DEFAULTS, flag.removeprefix("--").replace("-", "_"))
    serve.add_argument(flag, default=default, help=f"{meaning} (default: %(default)s)", **options)


def _parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give bytes, or a number with K, M or G, such as 4G")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


def _serve(arguments: argparse.Namespace) -> int:
    with needs_extra("serve", "the server"):
        from runtime.server import run
    from runtime.server.auth import read_keys
    from runtime.server.supervisor import Supervisor

    keys = arguments.api_key + (read_keys(arguments.api_key_file) if arguments.api_key_file else [])
    settings = take_options(ServerSettings, arguments, api_keys=tuple(keys), cors_origins=tuple(arguments.cors_origins))
    artifacts, session = _name_artifacts(arguments.artifacts), session_keywords(arguments)
    job = ServerJob(artifacts=artifacts, settings=settings, session=session)
    run.configure_logs()
    if arguments.workers != 1:
        return Supervisor(job, arguments.workers).run()
    run.build_server(run.load_service(job)).run()
    return 0


def _name_artifacts(words: list[str]) -> dict[str, Path]:
    artifacts: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).is_dir():
            name, folder = read_manifest(Path(word)).name, word
        if not name or not folder:
            raise UsageError(f"{word!r} has no {'folder' if name else 'name'}; give NAME=FOLDER, or the folder alone")
        if name in artifacts:
            raise UsageError(f"two artifacts are called {name}; name one of them as in NAME={folder}")
        artifacts[name] = Path(folder)
    return artifacts
