"""Upload a layout to the Hugging Face hub."""

from __future__ import annotations

import shlex
from pathlib import Path

from exporters.errors import PublishError
from runtime.errors import needs_extra, one_line

# The graphs of all layouts. Those of an earlier upload would stay beside the new tokenizer.
_GRAPHS = ("*.onnx", "*.onnx_data", "openvino/*")


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload the files of a layout to ``ORG/NAME`` on the hub, and return the address.

    A repository that does not exist is made: ``private``, or by default as the owner's settings say, often public.
    The graphs in a repository that exists are deleted, unless the layout replaces them.

    Raises:
        PublishError: The hub refuses, or cannot be reached.
        MissingDependencyError: huggingface-hub is not installed.
    """
    with needs_extra("publish", "--push"):
        from huggingface_hub import HfApi
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            commit_message="Publish by embedding-backbones",
            delete_patterns=list(_GRAPHS),
        )
    except Exception as exc:  # the hub's client raises a dozen types
        deletions = [word for pattern in _GRAPHS for word in ("--delete", pattern)]
        words = ["hf", "upload", repository, str(folder), ".", *["--private"] * private, *deletions]
        raise PublishError(
            f"{folder} is written, and cannot be pushed to {repository} ({one_line(exc)}); log in by `hf auth login`, "
            f"and upload it by `{shlex.join(words)}`"
        ) from exc
    return str(address)
