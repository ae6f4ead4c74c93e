"""Two-centre (Slater-Koster) functions: sigma, pi, delta integrals of each shell pair as functions of distance.

Slater and Koster, Phys. Rev. 94, 1498 (1954). ``TwoCentre`` holds learnable ones with a closed-form least-squares
start; ``OverlapTable`` the exact ones of Gaussian functions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from schnorb_t.basis import Basis
from schnorb_t.linalg import ridge_regression
from schnorb_t.nn.constants import Constants, today
from schnorb_t.nn.gaussian_overlap import overlap_table, slater_koster_components
from schnorb_t.units import BOHR


class BondFrameBlocks(nn.Module):
    """Between Slater-Koster numbers, blocks in the bond frame, and blocks in the molecule's frame."""

    def __init__(self, basis: Basis):
        super().__init__()
        k, at = basis.n_slots, basis.layout_offsets
        components = slater_koster_components(basis)
        place = torch.zeros(len(components), k, k, dtype=torch.float64)
        for c, (a, b, m) in enumerate(components):
            for sign in {-1, 1} if m else {1}:
                place[c, at[a] + basis.layout[a] + sign * m, at[b] + basis.layout[b] + sign * m] = 1.0
        self.register_buffer("place", place.reshape(len(components), k * k), persistent=False)
        self.n_slots = k

    def from_components(self, values: Tensor) -> Tensor:
        """Slater-Koster numbers [P, n] -> bond-frame blocks [P, K, K]."""
        return (values @ self.place.to(values.dtype)).reshape(len(values), self.n_slots, self.n_slots)

    def to_components(self, blocks: Tensor) -> Tensor:
        """The nearest Slater-Koster numbers [P, n] of bond-frame blocks: the mean over +m and -m."""
        place = self.place.to(blocks.dtype)
        return blocks.flatten(1) @ (place / place.sum(1, keepdim=True)).T

    @staticmethod
    def to_molecule(blocks: Tensor, rotation: Tensor) -> Tensor:
        """D^T B D of blocks [..., P, K, K] and D [P, K, K]: bond frame -> molecule."""
        if blocks.dim() == 3:
            return rotation.mT @ blocks @ rotation
        # of several matrices: per pair two products of wide matrices, not two of small ones for each matrix
        wide = blocks.flatten(0, -4).permute(1, 2, 0, 3)
        p, k, n, _ = wide.shape
        left = (rotation.mT @ wide.reshape(p, k, n * k)).reshape(p, k * n, k)
        return (left @ rotation).reshape(p, k, n, k).permute(2, 0, 1, 3).unflatten(0, blocks.shape[:-3])

    @staticmethod
    def to_bond(blocks: Tensor, rotation: Tensor) -> Tensor:
        """D B D^T: molecule -> bond frame."""
        return rotation @ blocks @ rotation.mT


def weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """sum_k weights[p, k] table[rows[p, k]]: [R, n], [P, K], [P, K] -> [P, n], without anything of size [P, K, n]."""
    return nn.functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


class OverlapTable(nn.Module):
    """Exact two-centre overlaps by 6-point interpolation of a table in distance: as fast for any contraction.

    Args:
        basis: with functions.
        cutoff: Å; the table ends there, and pairs beyond have no block.
        constants: ``overlap_step``.
    """

    def __init__(self, basis: Basis, cutoff: float, constants: Constants | None = None):
        super().__init__()
        self.step = (constants or today()).overlap_step
        grid = torch.arange(int(cutoff / BOHR / self.step) + 8, dtype=torch.float64) * self.step
        table = overlap_table(basis, grid)
        self.register_buffer("table", table.reshape(-1, table.shape[-1]), persistent=False)
        self.n_grid, self.n_elements = len(grid), len(basis.elements)
        # Lagrange weights of 6 points -2..3 are products of (t - k)
        points = torch.arange(-2, 4, dtype=torch.float64)
        others = torch.stack([points[points != k] for k in points])
        denominator = (points[:, None] - others).prod(1)
        self.register_buffer("others", others, persistent=False)
        self.register_buffer("denominator", denominator, persistent=False)

    def forward(self, element_i: Tensor, element_j: Tensor, distance: Tensor) -> Tensor:
        """Slater-Koster overlaps [P, n], float64, of pairs of element rows at distances [P] in Å."""
        x = distance.double() / (BOHR * self.step)
        left = x.floor().clamp(2, self.n_grid - 4)
        t = (x - left)[:, None, None]
        weights = (t - self.others).prod(-1) / self.denominator
        start = (element_i * self.n_elements + element_j) * self.n_grid + left.long() - 2
        rows = start[:, None] + torch.arange(6, device=start.device)
        return weighted_rows(self.table, rows, weights)


class BondFunctions(nn.Module):
    """Functions of distance that linear fits of two-centre integrals are made of: [P] in Å -> [P, n], float64.

    Gaussians times exp(-r / decay) under a smooth cutoff; one alone is the constant 1. The exponential makes the ridge
    of a fit a prior that falls as integrals do: without it functions swing wildly where an element pair has no data
    (20 eV on a nitrile whose far H...N distance was never seen).

    Args:
        cutoff: Å.
        n: how many.
        shortest: Å, centre of the first Gaussian; the last stands at the cutoff.
        width: of the Gaussians, relative to their distances.
        decay: Å.
    """

    def __init__(self, cutoff: float, n: int, shortest: float, width: float, decay: float):
        super().__init__()
        self.cutoff, self.n, self.decay = cutoff, n, decay
        # denser where bonds are: centres evenly spaced in sqrt(r)
        centres = torch.linspace(shortest**0.5, cutoff**0.5, n, dtype=torch.float64) ** 2
        widths = torch.gradient(centres)[0] * width if n > 1 else torch.ones_like(centres)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("widths", widths, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """[P, n] of distances [P] in Å."""
        d = distance.double()[:, None]
        if self.n == 1:
            return torch.ones_like(d)
        envelope = 0.5 * (1 + torch.cos(torch.pi * (d / self.cutoff).clamp(max=1.0)))
        return torch.exp(-(((d - self.centres) / self.widths) ** 2) - (d - 1.0) / self.decay) * envelope


class TwoCentre(nn.Module):
    """On-site means per element and two-centre functions per element pair; what a Slater-Koster file can hold.

    Each function is a sum of ``BondFunctions``; ``n_radial = 1`` gives the mean block. Values are float64:
    they carry core levels of -10..-25 Eh.

    Args:
        basis: shells per element.
        cutoff: Å.
        n_radial: Gaussians per function.
        constants: those that begin with ``two_centre``.
    """

    def __init__(self, basis: Basis, cutoff: float, n_radial: int = 24, constants: Constants | None = None):
        super().__init__()
        constants = constants or today()
        self.n_radial, self.ridge = n_radial, constants.two_centre_ridge
        self.functions = BondFunctions(
            cutoff, n_radial, constants.two_centre_shortest, constants.two_centre_width, constants.two_centre_decay
        )
        self.frame = BondFrameBlocks(basis)
        n, c = len(basis.elements), len(slater_koster_components(basis))
        self.n_elements = n
        self.coefficients = nn.Parameter(torch.zeros(n * n, n_radial, c, dtype=torch.float64))
        self.onsite = nn.Parameter(torch.zeros(n, basis.n_slots, basis.n_slots, dtype=torch.float64))
        # invariant directions of an on-site block: one number per pair of shells of equal l
        invariant = []
        for a, la in enumerate(basis.layout):
            for b, lb in enumerate(basis.layout):
                if la == lb:
                    block = torch.zeros(basis.n_slots, basis.n_slots, dtype=torch.float64)
                    for k in range(2 * la + 1):
                        block[basis.layout_offsets[a] + k, basis.layout_offsets[b] + k] = 1.0
                    invariant.append(block / (2 * la + 1) ** 0.5)
        self.register_buffer("invariant", torch.stack(invariant).reshape(len(invariant), -1), persistent=False)

    def components(self, element_i: Tensor, element_j: Tensor, distance: Tensor) -> Tensor:
        """Slater-Koster numbers [P, n]."""
        pair = element_i * self.n_elements + element_j
        radial = self.functions(distance)
        if torch.is_grad_enabled() and self.coefficients.requires_grad:
            # neither weighted_rows nor an einsum: their gradients are four times slower
            return (radial[:, :, None] * self.coefficients.index_select(0, pair)).sum(1)
        rows = pair[:, None] * self.n_radial + torch.arange(self.n_radial, device=pair.device)
        return weighted_rows(self.coefficients.flatten(0, 1), rows, radial)

    def onsite_means(self) -> Tensor:
        """[elements, K, K], their invariant part: gradients of p blocks are not isotropic, and training must not turn
        the parameter into something that depends on the orientation of molecules."""
        return (self.onsite.flatten(1) @ self.invariant.T @ self.invariant).reshape(self.onsite.shape)

    def bond_blocks(self, element_i: Tensor, element_j: Tensor, distance: Tensor) -> Tensor:
        """[P, K, K] in the bond frame."""
        return self.frame.from_components(self.components(element_i, element_j, distance))

    @torch.no_grad()
    def fit(
        self,
        samples: Iterable[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]],
    ) -> None:
        """Least squares of functions and on-site means to blocks.

        Args:
            samples: of each batch (element of each atom [N], on-site blocks [N, K, K], element_i [P], element_j [P],
                distance [P], bond-frame blocks [P, K, K]).
        """
        n2, k, c = self.coefficients.shape
        normal, right = self.coefficients.new_zeros(n2, k, k), self.coefficients.new_zeros(n2, k, c)
        total, count = torch.zeros_like(self.onsite), self.onsite.new_zeros(self.n_elements)
        for element, onsite, element_i, element_j, distance, blocks in samples:
            pair = element_i * self.n_elements + element_j
            g = self.functions(distance)
            y = self.frame.to_components(blocks.double())
            normal.index_add_(0, pair, g[:, :, None] * g[:, None, :])
            right.index_add_(0, pair, g[:, :, None] * y[:, None, :])
            total.index_add_(0, element, onsite.double())
            count.index_add_(0, element, torch.ones_like(element, dtype=count.dtype))
        self.coefficients.copy_(ridge_regression(normal, right, self.ridge))
        mean = (total / count.clamp(min=1)[:, None, None]).reshape(self.n_elements, -1)
        self.onsite.copy_((mean @ self.invariant.T @ self.invariant).reshape(self.onsite.shape))
