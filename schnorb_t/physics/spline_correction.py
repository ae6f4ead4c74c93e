"""Learnable corrections to tabulated functions: uniform cubic B-splines that vanish smoothly at both ends.

What is added to a published table starts at zero, has value, slope and curvature zero at both ends of its range, and is
a cubic between its knots, so that files of cubics hold it exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class SplineCorrection(nn.Module):
    """Sum of B-splines of each table, zero at first.

    Args:
        starts, ends: [T], Bohr, the range of each table.
        spacing: Bohr, between knots.
        channels: functions per table.

    Attributes:
        coefficients: parameter [T, n, channels].

    Raises:
        ValueError: a range is shorter than the four intervals of one B-spline.
    """

    starts: Tensor
    inside: Tensor

    def __init__(self, starts: Sequence[float], ends: Sequence[float], spacing: float, channels: int):
        super().__init__()
        first, last = np.asarray(starts, dtype=np.float64), np.asarray(ends, dtype=np.float64)
        counts = np.floor((last - first) / spacing + 1e-9).astype(int) - 3
        if len(counts) and counts.min() < 1:
            raise ValueError(f"knots {spacing:g} Bohr apart leave none in a range of {(last - first).min():.3g} Bohr")
        n = int(counts.max(initial=1))
        self.spacing = spacing
        self.coefficients = nn.Parameter(torch.zeros(len(counts), n, channels, dtype=torch.float64))
        self.register_buffer("starts", torch.tensor(first), persistent=False)
        inside = torch.arange(n) < torch.tensor(counts).unsqueeze(-1)
        self.register_buffer("inside", inside.to(torch.float64).unsqueeze(-1), persistent=False)

    def padded(self) -> Tensor:
        """Coefficients with three zeros on either side, [T, n + 6, channels]."""
        return nn.functional.pad(self.coefficients * self.inside, (0, 0, 3, 3))

    def forward(self, table: Tensor, distance: Tensor) -> Tensor:
        """Values [P, channels] of tables [P] (-1: none, zero) at distances [P], Bohr."""
        padded = self.padded()
        n = padded.shape[1]
        row = table.clamp_min(0)
        t = (distance - self.starts[row]) / self.spacing
        there = (table >= 0) & (t.detach() > 0) & (t.detach() < n - 3)
        t = torch.where(there, t, 0.0)
        k = t.detach().floor().long().clamp(0, n - 4)
        x = (t - k).unsqueeze(-1)
        y = 1 - x
        flat, at = padded.flatten(0, 1), row * n + k
        value = (
            y**3 * flat[at]
            + (4 - 6 * x**2 + 3 * x**3) * flat[at + 1]
            + (4 - 6 * y**2 + 3 * y**3) * flat[at + 2]
            + x**3 * flat[at + 3]
        )
        return torch.where(there.unsqueeze(-1), value / 6, 0.0)

    def curvature(self) -> Tensor:
        """Second derivative at all knots, [T, n + 4, channels], Bohr^-2; linear in between."""
        c = self.padded()
        return (c[:, 2:] - 2 * c[:, 1:-1] + c[:, :-2]) / self.spacing**2

    def roughness(self) -> Tensor:
        """Integral of the squared curvature over all tables and channels, a scalar, Bohr^-3 times units squared.

        Of a piecewise linear curvature the integral is h (a^2 + a b + b^2) / 3 per interval.
        """
        k = self.curvature()
        a, b = k[:, :-1], k[:, 1:]
        return self.spacing * (a * a + a * b + b * b).sum() / 3

    def knots(self, table: int) -> np.ndarray:
        """Of one table, Bohr, both ends of its range included."""
        n = int(self.inside[table].sum())
        return float(self.starts[table]) + self.spacing * np.arange(n + 4)

    @torch.no_grad()
    def values(self, table: int, distance: np.ndarray) -> np.ndarray:
        """Of one table, [len(distance), channels]."""
        r = torch.as_tensor(distance, dtype=torch.float64)
        return self(torch.full((len(r),), table), r).numpy()

    @torch.no_grad()
    def cubics(self, table: int) -> tuple[np.ndarray, np.ndarray]:
        """Intervals of one table: starts [n + 3] (Bohr) and coefficients [n + 3, 4, channels] of (r - start)^k."""
        knots, h = self.knots(table), self.spacing
        c = self.padded()[table].numpy()
        c0, c1, c2, c3 = (c[k : k + len(knots) - 1] for k in range(4))
        powers = [
            (c0 + 4 * c1 + c2) / 6,
            (c2 - c0) / (2 * h),
            (c0 - 2 * c1 + c2) / (2 * h**2),
            (c3 - 3 * c2 + 3 * c1 - c0) / (6 * h**3),
        ]
        return knots[:-1], np.stack(powers, 1)
