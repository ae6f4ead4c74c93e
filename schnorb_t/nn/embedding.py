"""Learned vectors of elements and radial functions of distances."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schnorb_t.nn.constants import Constants, today


class AtomEmbedding(nn.Module):
    """A learned vector per element (SchNet, Schütt et al., J. Chem. Phys. 148, 241722 (2018)): [N] -> [N, C] 0e."""

    def __init__(self, n_elements: int, channels: int):
        super().__init__()
        self.table = nn.Embedding(n_elements, channels)

    def forward(self, element: Tensor) -> Tensor:
        """Index of the element [N] -> 0e channels [N, C]."""
        return self.table(element)


def polynomial_cutoff(distance: Tensor, cutoff: float, p: int) -> Tensor:
    """1 at 0 and 0 from the cutoff on, with p - 1 vanishing derivatives there (Gasteiger et al., ICLR 2020, eq. 8)."""
    x = (distance / cutoff).clamp(max=1.0)
    return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)


def smooth_end(distance: Tensor, cutoff: float, width: float) -> Tensor:
    """1 up to ``cutoff - width``, then 1 - 10 t^3 + 15 t^4 - 6 t^5 down to 0 at the cutoff, with continuous curvature.

    A width of 0 is a step that no pair within the cutoff sees.
    """
    if width <= 0:
        return torch.ones_like(distance)
    t = ((distance - (cutoff - width)) / width).clamp(0.0, 1.0)
    return 1 - t**3 * (10 - 15 * t + 6 * t * t)


class BesselBasis(nn.Module):
    """sin(n pi r / c) / r (Gasteiger et al., ICLR 2020, eq. 7): [P] distances in Å -> [P, n_radial]."""

    def __init__(self, n_radial: int, cutoff: float):
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("frequency", torch.arange(1, n_radial + 1) * torch.pi / cutoff, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Distances [P], Å -> radial functions [P, n], without a cutoff."""
        r = distance[:, None]
        return (2 / self.cutoff) ** 0.5 * torch.sin(self.frequency.to(r.dtype) * r) / r


class RadialMLP(nn.Module):
    """Continuous filters: distance and the two elements of an ordered pair -> [P, n_out] weights.

    Args:
        n_elements: rows of the table of elements.
        cutoff: Å, of the Bessel functions.
        n_radial: how many of these.
        hidden: width of the network.
        n_out: weights per pair.
        constants: ``filter_channels``.
    """

    def __init__(
        self,
        n_elements: int,
        cutoff: float,
        n_radial: int,
        hidden: int,
        n_out: int,
        constants: Constants | None = None,
    ):
        super().__init__()
        channels = (constants or today()).filter_channels
        self.bessel = BesselBasis(n_radial, cutoff)
        self.pair = nn.Embedding(n_elements * n_elements, channels)
        self.n_elements = n_elements
        self.mlp = nn.Sequential(
            nn.Linear(n_radial + channels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.out = nn.Linear(hidden, n_out)

    def forward(self, element_i: Tensor, element_j: Tensor, distance: Tensor) -> Tensor:
        """Indices of both elements [P], distance [P], Å -> weights [P, n_out], without a cutoff."""
        pair = self.pair(element_i * self.n_elements + element_j)
        return self.out(self.mlp(torch.cat((self.bessel(distance), pair), 1)))
