"""The same rule as a mask function of torch's flex attention; needs torch, which nothing else here does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hwattn.sim.gna.axis import Axis
from hwattn.sim.gna.pattern import Pattern
from hwattn.spec.errors import RefusedError

if TYPE_CHECKING:
    import torch


def _axis_visible(axis: Axis, query: Any, key: Any) -> Any:
    """Visibility along one axis, from index tensors of one shape (or broadcastable)."""
    group, position = query % axis.dilation, query // axis.dilation
    members = (axis.length - group + axis.dilation - 1) // axis.dilation
    first = position // axis.stride * axis.stride
    target = key // axis.dilation
    same = key % axis.dilation == group
    if axis.causal:
        leader = (first + axis.stride - 1).minimum(members - 1)
        return same & (target > leader - axis.window) & (target <= position)
    leader = (first + axis.stride // 2).minimum(members - 1)
    start = (leader - axis.window // 2).clamp(min=0).minimum(members - axis.window)
    return same & (target >= start) & (target < start + axis.window)


def mask_function(pattern: Pattern) -> Callable[[Any, Any, Any, Any], Any]:
    """``mask_mod`` for ``torch.nn.attention.flex_attention.create_block_mask`` over row-major tokens."""

    def visible(batch: Any, head: Any, query: Any, key: Any) -> Any:
        result = None
        for axis in reversed(pattern.axes):
            seen = _axis_visible(axis, query % axis.length, key % axis.length)
            result = seen if result is None else result & seen
            query, key = query // axis.length, key // axis.length
        return result

    return visible


def flex_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pattern: Pattern
) -> torch.Tensor:
    """Attention through torch's flex attention.

    Parameters
    ----------
    query, key, value : torch.Tensor, shape (batch, *layout, heads, dim)
        On any device that flex attention knows; fewer KV heads than heads are allowed.
    pattern : Pattern

    Returns
    -------
    torch.Tensor, shape (batch, *layout, heads, dim of value)
    """
    try:
        from torch.nn.attention.flex_attention import create_block_mask
        from torch.nn.attention.flex_attention import flex_attention as run
    except ImportError:
        raise RefusedError(
            "no torch with flex attention", "torch 2.5 or newer", "pip install torch"
        ) from None
    tokens, device = pattern.tokens, query.device
    block_mask = create_block_mask(mask_function(pattern), None, None, tokens, tokens, device=str(device))
    batch, heads = query.shape[0], query.shape[-2]

    def heads_first(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(batch, tokens, *tensor.shape[-2:]).transpose(1, 2)

    grouped = key.shape[-2] != heads
    output = run(
        heads_first(query), heads_first(key), heads_first(value), block_mask=block_mask, enable_gqa=grouped
    )
    assert not isinstance(output, tuple)
    return output.transpose(1, 2).reshape(batch, *pattern.layout, heads, value.shape[-1])
