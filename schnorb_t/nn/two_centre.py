"""Two-centre (Slater-Koster) functions: sigma, pi, delta integrals of each shell pair as functions of distance.

Slater and Koster, Phys. Rev. 94, 1498 (1954). ``TwoCentre`` holds learnable ones with a closed-form least-squares
start; ``OverlapTable`` the exact ones of Gaussian functions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from schnorb_t.basis import Basis
from schnorb_t.nn.gaussian_overlap import overlap_table, slater_koster_components
from schnorb_t.units import BOHR


class BondFrameBlocks(nn.Module):
    """Between Slater-Koster numbers, blocks in the bond frame, and blocks in the molecule's frame."""

    def __init__(self, basis: Basis):
        super().__init__()
        self.layout = basis.layout
        k, at = basis.n_slots, basis.layout_offsets
        components = slater_koster_components(basis)
        place = torch.zeros(len(components), k, k, dtype=torch.float64)
        for c, (a, b, m) in enumerate(components):
            for sign in {-1, 1} if m else {1}:
                place[c, at[a] + basis.layout[a] + sign * m, at[b] + basis.layout[b] + sign * m] = 1.0
        self.register_buffer("place", place.reshape(len(components), k * k), persistent=False)
        self.n_slots = k

    def slot_rotation(self, wigner: list[Tensor]) -> Tensor:
        """[P, K, K] block-diagonal D of an atom's slots from the D^l of ``harmonics.wigner_d``."""
        p = wigner[0].shape[0]
        out = wigner[0].new_zeros(p, self.n_slots, self.n_slots)
        at = 0
        for l in self.layout:
            out[:, at : at + 2 * l + 1, at : at + 2 * l + 1] = wigner[l]
            at += 2 * l + 1
        return out

    def from_components(self, values: Tensor) -> Tensor:
        """Slater-Koster numbers [P, n] -> bond-frame blocks [P, K, K]."""
        return (values @ self.place.to(values.dtype)).reshape(len(values), self.n_slots, self.n_slots)

    def to_components(self, blocks: Tensor) -> Tensor:
        """The nearest Slater-Koster numbers [P, n] of bond-frame blocks: the mean over +m and -m."""
        place = self.place.to(blocks.dtype)
        return blocks.flatten(1) @ (place / place.sum(1, keepdim=True)).T

    @staticmethod
    def to_molecule(blocks: Tensor, rotation: Tensor) -> Tensor:
        """D^T B D: bond frame -> molecule."""
        return rotation.mT @ blocks @ rotation

    @staticmethod
    def to_bond(blocks: Tensor, rotation: Tensor) -> Tensor:
        """D B D^T: molecule -> bond frame."""
        return rotation @ blocks @ rotation.mT


def element_lookup(basis: Basis) -> Tensor:
    """[119] int64: atomic number -> row of tables over the basis's elements; unknown elements give 0."""
    table = torch.zeros(119, dtype=torch.int64)
    table[list(basis.elements)] = torch.arange(len(basis.elements))
    return table


def weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """sum_k weights[p, k] table[rows[p, k]]: [R, n], [P, K], [P, K] -> [P, n], without anything of size [P, K, n]."""
    return nn.functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


class OverlapTable(nn.Module):
    """Exact two-centre overlaps by 6-point interpolation of a table in distance: as fast for any contraction.

    The grid of 0.02 Bohr leaves 1e-9; the table ends where the cutoff does, and pairs beyond it have no block.
    """

    STEP = 0.02

    def __init__(self, basis: Basis, cutoff: float):
        super().__init__()
        grid = torch.arange(int(cutoff / BOHR / self.STEP) + 8, dtype=torch.float64) * self.STEP
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
        x = distance.double() / (BOHR * self.STEP)
        left = x.floor().clamp(2, self.n_grid - 4)
        t = (x - left)[:, None, None]
        weights = (t - self.others).prod(-1) / self.denominator
        start = (element_i * self.n_elements + element_j) * self.n_grid + left.long() - 2
        rows = start[:, None] + torch.arange(6, device=start.device)
        return weighted_rows(self.table, rows, weights)


class TwoCentre(nn.Module):
    """On-site means per element and two-centre functions per element pair; what a Slater-Koster file can hold.

    Each function is a sum of Gaussians in distance times exp(-r / 1 Å) under a smooth cutoff; ``n_radial = 1`` gives
    the mean block. The exponential makes the ridge of the fit a prior that falls as integrals do: without it functions
    swing wildly where an element pair has no data (20 eV on a nitrile whose far H...N distance was never seen).
    Values are float64: they carry core levels of -10..-25 Eh.

    Args:
        basis: shells per element.
        cutoff: Å.
        n_radial: Gaussians per function.
        shortest: Å, centre of the first Gaussian.
        decay: Å, instead of ``DECAY``.
    """

    #: Å
    DECAY = 1.0

    def __init__(
        self, basis: Basis, cutoff: float, n_radial: int = 24, shortest: float = 0.7, decay: float | None = None
    ):
        super().__init__()
        self.cutoff, self.n_radial, self.decay = cutoff, n_radial, decay or self.DECAY
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
        # denser where bonds are: centres evenly spaced in sqrt(r)
        centres = torch.linspace(shortest**0.5, cutoff**0.5, n_radial, dtype=torch.float64) ** 2
        widths = torch.gradient(centres)[0] * 1.3 if n_radial > 1 else torch.ones_like(centres)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("widths", widths, persistent=False)

    def radial(self, distance: Tensor) -> Tensor:
        """[P, n_radial] of distances [P] in Å."""
        d = distance.double()[:, None]
        if self.n_radial == 1:
            return torch.ones_like(d)
        envelope = 0.5 * (1 + torch.cos(torch.pi * (d / self.cutoff).clamp(max=1.0)))
        return torch.exp(-(((d - self.centres) / self.widths) ** 2) - (d - 1.0) / self.decay) * envelope

    def components(self, element_i: Tensor, element_j: Tensor, distance: Tensor) -> Tensor:
        """Slater-Koster numbers [P, n]."""
        pair = element_i * self.n_elements + element_j
        radial = self.radial(distance)
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
        ridge: float = 1e-4,
    ) -> None:
        """Least squares of functions and on-site means to blocks.

        Args:
            samples: of each batch (element of each atom [N], on-site blocks [N, K, K], element_i [P], element_j [P],
                distance [P], bond-frame blocks [P, K, K]).
            ridge: added to the normal matrix, relative to its mean diagonal.
        """
        n2, k, c = self.coefficients.shape
        normal, right = self.coefficients.new_zeros(n2, k, k), self.coefficients.new_zeros(n2, k, c)
        total, count = torch.zeros_like(self.onsite), self.onsite.new_zeros(self.n_elements)
        for element, onsite, element_i, element_j, distance, blocks in samples:
            pair = element_i * self.n_elements + element_j
            g = self.radial(distance)
            y = self.frame.to_components(blocks.double())
            normal.index_add_(0, pair, g[:, :, None] * g[:, None, :])
            right.index_add_(0, pair, g[:, :, None] * y[:, None, :])
            total.index_add_(0, element, onsite.double())
            count.index_add_(0, element, torch.ones_like(element, dtype=count.dtype))
        size = normal.diagonal(dim1=1, dim2=2).mean(1)
        eye = torch.eye(k, dtype=normal.dtype, device=normal.device)
        seen = size > 0
        normal = normal + (ridge * size + (~seen).to(size)).reshape(-1, 1, 1) * eye
        self.coefficients.copy_(torch.linalg.solve(normal, right))
        mean = (total / count.clamp(min=1)[:, None, None]).reshape(self.n_elements, -1)
        self.onsite.copy_((mean @ self.invariant.T @ self.invariant).reshape(self.onsite.shape))
