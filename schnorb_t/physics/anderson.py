"""Anderson mixing of many fixed-point problems at once.

Anderson, J. ACM 12, 547 (1965); Eyert, J. Comput. Phys. 124, 271 (1996).
"""

from __future__ import annotations

import torch
from torch import Tensor


class AndersonMixer:
    """Next guesses for x = f(x), every row its own problem.

    Args:
        mixing: share of the residual that is added.
        depth: how many past steps are combined.
    """

    def __init__(self, mixing: float = 0.3, depth: int = 8):
        self.mixing, self.depth = mixing, depth
        self.points: list[Tensor] = []
        self.residuals: list[Tensor] = []

    def keep(self, rows: Tensor) -> None:
        """Forget the problems (rows) that are not in ``rows`` [r] int64 or bool."""
        self.points = [x[rows] for x in self.points]
        self.residuals = [x[rows] for x in self.residuals]

    def step(self, point: Tensor, residual: Tensor) -> Tensor:
        """Next points from points [B, A] and f(x) - x [B, A]; entries that never move (padding) have residual 0."""
        self.points = [*self.points, point][-self.depth - 1 :]
        self.residuals = [*self.residuals, residual][-self.depth - 1 :]
        simple = point + self.mixing * residual
        if len(self.points) == 1:
            return simple
        dx = torch.stack([point - x for x in self.points[:-1]], -1)
        df = torch.stack([residual - f for f in self.residuals[:-1]], -1)
        scale = df.norm(dim=1, keepdim=True).clamp_min(1e-300)
        dx, df = dx / scale, df / scale
        # columns have unit length; the ridge settles the ones that (nearly) depend on each other
        normal = df.mT @ df + 1e-12 * torch.eye(df.shape[-1], dtype=df.dtype, device=df.device)
        factor, _ = torch.linalg.cholesky_ex(normal)
        theta = torch.cholesky_solve(df.mT @ residual.unsqueeze(-1), factor)
        best = simple - ((dx + self.mixing * df) @ theta).squeeze(-1)
        return torch.where(best.isfinite().all(-1, keepdim=True), best, simple)
