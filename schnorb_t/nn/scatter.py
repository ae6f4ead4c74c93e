"""Sum over neighbours: through torch-scatter where it is installed (extra ``scatter``), native torch elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

try:
    from torch_scatter import scatter_sum as _scatter_sum
except ImportError:
    _scatter_sum = None


def scatter_sum(source: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum rows of ``source`` [P, ...] with equal ``index`` [P] into [size, ...]."""
    if _scatter_sum is not None:
        return _scatter_sum(source, index, dim=0, dim_size=size)
    return torch.zeros(size, *source.shape[1:], dtype=source.dtype, device=source.device).index_add_(0, index, source)
