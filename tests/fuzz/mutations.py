"""Damage valid inputs: bytes, the members of a JSON document, or the document inside a GLB file.

The caller passes the random numbers: hypothesis a source that it can shrink, the atheris harness a seed.
"""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

# Values for headers and for members of documents: huge, empty, negative, not finite or not printable.
CLAIMS = (-1, 0, 1, 3, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 10**9)
HARD: tuple[Any, ...] = (
    *(10**400, -1, 0, 1, 2, 7, 10**9, 2**63, 0.5, 1e308, 5e-324, float("inf"), True, False, None),
    *("", "\ud800", "a\nb", "\x1b[2J", "../x", "x" * 5000, "VEC3", "SCALAR", "data:,", "image", "gem", [], {}, [[]]),
)
_GLB_HEAD = 20


def mutate_bytes(data: bytes, other: bytes, random: Random) -> bytes:
    """Return ``data`` with bytes replaced, inserted or removed, its end cut or exchanged, or a number made huge."""
    start = random.randint(0, len(data))
    end = min(len(data), start + random.randint(0, 8))
    match random.randrange(6):
        case 0:
            return data[:start] + random.randbytes(end - start) + data[end:]
        case 1:
            return data[:start] + random.randbytes(4) + data[start:]
        case 2:
            return data[:start]
        case 3:
            return data[:start] + data[end:]
        case 4:
            return data[:start] + other[random.randint(0, len(other)) :]
        case _:
            return _replace_number(data, start, random)


def _replace_number(data: bytes, start: int, random: Random) -> bytes:
    """Return ``data`` with the first decimal number after ``start``, or four bytes there, replaced by a claim."""
    claim = random.choice(CLAIMS)
    digits = re.compile(rb"-?[0-9]+").search(data, start)
    if digits and random.random() < 0.5:
        return data[: digits.start()] + str(claim).encode() + data[digits.end() :]
    return data[:start] + struct.pack(random.choice("<>") + "I", claim % 2**32) + data[start + 4 :]


def mutate_document(document: Any, random: Random) -> Any:
    """Return a copy of a JSON document with a member changed, removed, added or copied from another place."""
    changed = copy.deepcopy(document)
    places = list(_places(changed))
    if not places:
        return random.choice(HARD)
    holder, key = random.choice(places)
    match random.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice(["", "a\nb", "\ud800", "x" * 3000, "uri", "extras"])] = random.choice(HARD)
        case 2:
            other, name = random.choice(places)
            holder[key] = copy.deepcopy(other[name])
        case 3:
            holder[key] = _nest(random.choice((1, 3, 60)), holder[key])
        case _:
            holder[key] = random.choice(HARD)
    return changed


def _nest(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the holder and the key of every member of every object and array, at any depth."""
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def mutate_json(data: bytes, random: Random) -> bytes:
    """Return a JSON text after :func:`mutate_document`; data that is not JSON is returned unchanged."""
    try:
        return json.dumps(mutate_document(json.loads(data), random)).encode()
    except (ValueError, RecursionError):
        return data


def mutate_glb(data: bytes, random: Random) -> bytes:
    """Return a GLB file with a mutated document and correct lengths; data that is not GLB is returned unchanged."""
    if len(data) < _GLB_HEAD:
        return data
    end = _GLB_HEAD + int.from_bytes(data[12:16], "little")
    text = mutate_json(data[_GLB_HEAD:end], random)
    text += b" " * (-len(text) % 4)
    rest = data[end:]
    return data[:8] + struct.pack("<II", _GLB_HEAD + len(text) + len(rest), len(text)) + data[16:20] + text + rest
