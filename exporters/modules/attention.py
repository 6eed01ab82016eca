"""Self-attention that ONNX Runtime can fuse, as a replacement of torch's packed attention."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Model = TypeVar("Model", bound=nn.Module)


class SelfAttention(nn.Module):
    """A :class:`torch.nn.MultiheadAttention` with separate matrix products for query, key and value.

    torch computes the three in one product, and splits it with five operations in each layer's graph. It also
    transposes the sequence to the front and back. That takes more time, and no fusion rule matches it.
    """

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        """Take the weights of ``packed``, for which :func:`is_plain` holds."""
        super().__init__()
        size = packed.embed_dim
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        for number, linear in enumerate((self.query, self.key, self.value)):
            linear.weight.data = packed.in_proj_weight.data[number * size : (number + 1) * size]
            linear.bias.data = packed.in_proj_bias.data[number * size : (number + 1) * size]
        self.out = packed.out_proj
        self.heads = packed.num_heads

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attend: ``[batch, sequence, dim]`` to the same shape, and ``None`` instead of the attention weights."""
        heads = [self._split(x) for x in (self.query(query), self.key(key), self.value(value))]
        mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=attn_mask)
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output, None

    def _split(self, x: Tensor) -> Tensor:
        """Return ``[batch, sequence, dim]`` as ``[batch, heads, sequence, dim / heads]``."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


def is_plain(packed: nn.MultiheadAttention) -> bool:
    """Tell whether ``packed`` is batch first, of one width, with biases, and without additions to the keys."""
    has_all = packed.in_proj_weight is not None and packed.in_proj_bias is not None
    return packed.batch_first and has_all and packed.bias_k is None and not packed.add_zero_attn


def unpack_attention(model: Model) -> Model:
    """Return a copy of ``model`` in which :class:`SelfAttention` replaces every attention that :func:`is_plain`."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MultiheadAttention) and is_plain(child):
                setattr(parent, name, SelfAttention(child))
    return model
