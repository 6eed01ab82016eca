"""Prepare STL files for trimesh.

Source: https://www.fabbers.com/tech/STL_Format
"""

from __future__ import annotations

import re

from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.text import clean_text

_HEADER, _TRIANGLE = 84, 50  # bytes: a title of 80 bytes and a count; a normal, three corners and two bytes


def prepare_stl(data: bytes) -> tuple[bytes, int]:
    """Return a file that trimesh reads rightly, and its number of triangles.

    Bytes behind the triangles of a binary file are cut off, if they are padding or too few for another triangle.
    The solids of a text file are joined, because trimesh takes minutes for thousands of solids.

    Raises:
        UnusableItemError: The file is truncated, or may have more triangles than it states.
    """
    count = int.from_bytes(data[80:84], "little")
    end = _HEADER + _TRIANGLE * count
    if len(data) >= _HEADER and end <= len(data):  # the count of a text file would be gigabytes of triangles
        if len(data) - end >= _TRIANGLE and data[end:].strip(b"\0 \r\n"):
            raise UnusableItemError(
                f"it announces {count} triangles, and {len(data) - end} bytes follow them; export it again"
            )
        return data[:end], count
    return _prepare_text(clean_text(data, comments=False))


def _prepare_text(text: bytes) -> tuple[bytes, int]:
    if not re.search(rb"(?i)\bendsolid\b", text):
        raise UnusableItemError("it is truncated or not STL: it does not have the length that its header states")
    facets = re.sub(rb"(?mi)^[ \t]*(?:endsolid|solid)\b[^\n]*", b"", text)
    return b"solid\n" + facets + b"\nendsolid\n", len(re.findall(rb"(?i)\bendfacet\b", facets))
