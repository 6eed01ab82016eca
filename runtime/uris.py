"""Tell URIs from paths, and show them without their secrets."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from runtime.errors import UsageError

SCHEMES = "s3://, gs://, abfs:// or hdfs://"


def is_uri(place: str) -> bool:
    """Return whether ``place`` is a URI rather than a path."""
    return "://" in place


def starts_like_uri(text: str) -> bool:
    """Return whether ``text`` begins with the scheme of a URI; other texts may have one inside."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def refuse_uri(name: str, way_out: str) -> None:
    """Raise a :class:`UsageError` if ``name`` begins like a URI, where only a path can be used."""
    if starts_like_uri(name):
        raise UsageError(f"{public_name(name)} is a URI, and a local job takes paths of this machine; {way_out}")


def public_name(place: str) -> str:
    """Return ``place`` in valid UTF-8, to be printed and recorded; a URI without credentials, query and quoting."""
    if not is_uri(place):
        return place.encode("utf-8", "backslashreplace").decode()
    try:
        parts = urlsplit(place)
    except ValueError:  # the host has brackets, or letters that Unicode makes others of
        return f"{place.partition('://')[0]}://..."
    if "@" not in parts.netloc and ":" in parts.netloc and "@" in place:
        return f"{parts.scheme}://..."  # an unquoted /, # or ? in a secret ends the host too early
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"
