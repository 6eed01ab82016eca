"""Hash the weights that a traced module uses, so that the same weights have the same hash after every export."""

from __future__ import annotations

import hashlib

import torch
from torch.export.graph_signature import InputKind

_KINDS = (InputKind.PARAMETER, InputKind.BUFFER)


def hash_used_weights(program: torch.export.ExportedProgram, origin: str) -> str:
    """Return the SHA-256 of the shapes and values of all weights that a vector depends on.

    Names and order do not count, because a new version of a library may change them; a tensor under two names counts
    once. Weights without a use, such as a pooler that no checkpoint holds, do not count either. Values count as
    float32.

    Args:
        program: The traced module.
        origin: Origin of the weights. If they are ``random``, statistics of batch norms do not count: an export
            computes them from photos.
    """
    used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    kinds = _KINDS[:1] if origin == "random" else _KINDS
    names = [
        spec.target for spec in program.graph_signature.input_specs if spec.kind in kinds and spec.arg.name in used
    ]
    values = (program.state_dict[name] for name in names if name in program.state_dict)
    digests = {_hash(value.detach()) for value in values if value.is_floating_point()}
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _hash(value: torch.Tensor) -> bytes:
    array = value.float().contiguous().numpy()
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(array.data)
    return digest.digest()
