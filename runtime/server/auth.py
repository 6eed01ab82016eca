"""Check the keys of clients."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from runtime.errors import UsageError
from runtime.server.request_errors import RequestError

OPEN_PATHS = ("/", "/docs", "/health", "/openapi.json", "/v2/health/live", "/v2/health/ready")  # with GET


class Keys:
    """The keys of which a client must have one. Without keys, everybody may in."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Keep hashes of ``keys``, so that every comparison takes as long as any other."""
        self._hashes = [_hash(key.encode()) for key in keys]

    def check(self, method: str, path: str, authorization: bytes) -> None:
        """Raise :class:`RequestError` unless the header ``Authorization`` has a key, or the page is for everybody."""
        if not self._hashes or (method in ("GET", "HEAD") and path in OPEN_PATHS):
            return
        scheme, _, key = authorization.partition(b" ")
        given = _hash(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._hashes]  # all of them, whichever fits
        if scheme.lower() != b"bearer" or not any(matches):
            raise RequestError(401, "the API key is missing or wrong; send the header Authorization: Bearer KEY")


def read_keys(path: Path) -> list[str]:
    """Return the keys in a file, one in each line. Empty lines and those that begin with ``#`` are left out.

    Raises:
        UsageError: The file cannot be read, or has no key.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]  # Windows editors begin with a mark
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"the file of API keys {path} cannot be read ({exc})") from exc
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"the file of API keys {path} has no key")
    return keys


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
