"""Density of states, total and projected, and the Wasserstein loss on its frontier part.

Projected on a group p of orbitals (weights m, 0 or 1): D_p(E) = sum_i b_i w_pi g(E - e_i), with Mulliken's share
w_pi = C_i^T m S C_i and b_i = 1, or the band pass of ``frontier_window``. Groups that hold every orbital once add up to
the total.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from schnorb_t.physics.occupations import DEGENERATE, fill, level_mask
from schnorb_t.physics.state import ElectronicState

#: share of the reference's mass below which a predicted mass is not divided by
FLOOR = 0.1


@dataclass(frozen=True)
class Broadening:
    """Shape of a level, of area 1.

    Attributes:
        kind: ``gaussian`` or ``lorentzian``.
        width: Eh, standard deviation, or half width at half maximum.

    Raises:
        ValueError: unknown kind or width not positive.
    """

    kind: str = "gaussian"
    width: float = 0.01

    def __post_init__(self):
        if self.kind not in ("gaussian", "lorentzian") or not self.width > 0:
            raise ValueError(f"broadening {self.kind!r}, width {self.width}: gaussian or lorentzian, width above 0")

    def density(self, x: Tensor) -> Tensor:
        """g(x), 1/Eh, at distances x from a level, Eh, of any shape."""
        w = self.width
        if self.kind == "gaussian":
            return torch.exp(-0.5 * (x / w) ** 2) / (w * math.sqrt(2 * math.pi))
        return w / math.pi / (x * x + w * w)

    def density_slope(self, x: Tensor) -> Tensor:
        """dg/dx, 1/Eh^2, at x as in ``density``."""
        w = self.width
        if self.kind == "gaussian":
            return -x / w**2 * self.density(x)
        return -2 * x * w / math.pi / (x * x + w * w) ** 2

    def cumulative(self, x: Tensor) -> Tensor:
        """Integral of g up to x, 0..1, at x as in ``density``."""
        if self.kind == "gaussian":
            return 0.5 * torch.erfc(-x / (self.width * math.sqrt(2)))
        return 0.5 + torch.atan(x / self.width) / math.pi


def density_of_states(
    energies: Tensor, levels: Tensor, grid: Tensor, broadening: Broadening, cumulative: bool = False
) -> Tensor:
    """Total density of states; a closed-shell level counts once, so twice the integral is electrons.

    Args:
        energies: [B, M], Eh.
        levels: [B, M], weight of each level: ``occupations.level_mask`` for all, ``frontier_window`` for a band pass.
        grid: [E] or [B, E], Eh.
        cumulative: its integral up to E instead.

    Returns:
        [B, E], 1/Eh (or dimensionless).
    """
    weight = levels.to(energies.dtype)
    x = grid.unsqueeze(-1) - torch.where(weight != 0, energies, 0.0).unsqueeze(-2)
    shape = broadening.cumulative(x) if cumulative else broadening.density(x)
    return (shape * weight.unsqueeze(-2)).sum(-1)


def level_weights(overlap: Tensor, coefficients: Tensor, groups: Tensor) -> Tensor:
    """w_pi, share of group p in level i, [B, G, M].

    Differentiable like any function of eigenvectors; members of a degenerate level have meaning only in sum, so for
    training take ``projected_density_of_states``.

    Args:
        overlap, coefficients: [B, M, M].
        groups: [B, G, M] weights of orbitals in groups, bool or float.
    """
    return groups.to(coefficients.dtype) @ (coefficients * (overlap @ coefficients))


class _ProjectedDensityOfStates(torch.autograd.Function):
    """Exact gradient: dL = d sum_pi phi_p(e_i) w_pi with phi_p(e) = b sum_E dL/dD_p(E) g(E - e) held as a function."""

    @staticmethod
    def forward(ctx, hamiltonian, overlap, energies, coefficients, levels, groups, grid, broadening, cumulative):
        x = grid.unsqueeze(-1) - torch.where(levels != 0, energies, 0.0).unsqueeze(-2)
        shape = broadening.cumulative(x) if cumulative else broadening.density(x)
        shape = shape * levels.unsqueeze(-2)
        slope = -(broadening.density(x) if cumulative else broadening.density_slope(x)) * levels.unsqueeze(-2)
        ctx.save_for_backward(overlap, energies, coefficients, groups, shape, slope)
        ctx.resolution = min(1e-4 * broadening.width, DEGENERATE)
        return level_weights(overlap, coefficients, groups) @ shape.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        s, e, c, groups, shape, slope = ctx.saved_tensors
        phi, phi_slope = (groups.mT @ (grad @ x) for x in (shape, slope))  # [B, M, M]: orbital m, level i
        d = s @ c

        def half(t):  # sum_p t_pi W_p,ij with W_p the projector among levels, the left one carrying t
            return ((t * c).mT @ d + (t * d).mT @ c) / 2

        n, n_slope = half(phi), half(phi_slope)
        # sum_p phi_p[e_i, e_j] W_p,ij
        gap = e.unsqueeze(-1) - e.unsqueeze(-2)
        near = gap.abs() < ctx.resolution
        table = torch.where(near, (n_slope + n_slope.mT) / 2, (n - n.mT) / torch.where(near, 1.0, gap))
        mean = (e.unsqueeze(-1) + e.unsqueeze(-2)) / 2
        # normalisation of the orbitals, and S standing in the projector itself
        weighted = (n + n.mT) / 2 + mean * table
        grad_h = c @ table @ c.mT
        explicit = (phi * c) @ c.mT
        grad_s = -c @ weighted @ c.mT + (explicit + explicit.mT) / 2
        return (grad_h + grad_h.mT) / 2, (grad_s + grad_s.mT) / 2, *[None] * 7


def projected_density_of_states(
    state: ElectronicState,
    groups: Tensor,
    grid: Tensor,
    broadening: Broadening,
    levels: Tensor | None = None,
    cumulative: bool = False,
) -> Tensor:
    """D_p(E) of every group, differentiable with respect to H and S, exactly so at degeneracies.

    Args:
        state: orbitals of the molecules.
        groups: [B, G, M], weights of orbitals in groups: ``group_by``, or any masks.
        grid: [E] or [B, E], Eh.
        broadening: shape of a level.
        levels: [B, M], weights of levels (equal within a degenerate set), all real levels if left out.
        cumulative: the integral up to E instead.

    Returns:
        [B, G, E], 1/Eh (or dimensionless).
    """
    if levels is None:
        levels = level_mask(state.orbital_mask)
    real = state.orbital_mask.unsqueeze(1)
    return _ProjectedDensityOfStates.apply(
        state.hamiltonian,
        state.overlap,
        state.energies.detach(),
        state.coefficients.detach(),
        levels.to(state.energies.dtype),
        torch.where(real, groups.to(state.energies.dtype), 0.0),
        grid.to(state.energies.dtype),
        broadening,
        cumulative,
    )


def projected_levels(
    energies: Tensor, weights: Tensor, grid: Tensor, broadening: Broadening, cumulative: bool = False
) -> Tensor:
    """D_p(E) from levels and their shares: for a reference of any origin, a large-basis calculation for example.

    Args:
        energies: [B, L], Eh; anything finite in padding.
        weights: [B, G, L], share of each group in each level, times the band pass; 0 in padding.
        grid: [E] or [B, E], Eh.

    Returns:
        [B, G, E], 1/Eh (or dimensionless).
    """
    x = grid.unsqueeze(-1) - energies.unsqueeze(-2)
    shape = broadening.cumulative(x) if cumulative else broadening.density(x)
    return weights.to(shape.dtype) @ shape.mT


def group_by(label_of_orbital: Tensor, labels: Tensor) -> Tensor:
    """Groups [B, G, M] float64 of orbitals that carry each label.

    Args:
        label_of_orbital: [B, M] int64, anything: atom (``orbitals.atom_and_slot``), ``atomic_numbers[atom]``, shell,
            angular momentum (``orbitals.angular_momentum``); -1 in padding.
        labels: [G] int64.
    """
    return (label_of_orbital.unsqueeze(1) == labels.view(1, -1, 1)).to(torch.float64)


def frontier_window(energies: Tensor, n_occupied: Tensor, orbital_mask: Tensor, n_below: int, n_above: int) -> Tensor:
    """Band pass [B, M]: 1 for the ``n_below`` highest occupied and ``n_above`` lowest virtual levels, 0 elsewhere.

    A degenerate level cut by an edge counts evenly with a fraction, so the window does not depend on how its orbitals
    are mixed. Molecules with fewer levels give all they have.
    """

    def lowest(count: Tensor) -> Tensor:
        return fill(energies, 2 * count, orbital_mask) / 2

    n_levels = orbital_mask.sum(-1)
    return lowest(torch.minimum(n_occupied + n_above, n_levels)) - lowest((n_occupied - n_below).clamp_min(0))


def wasserstein(cumulative: Tensor, reference: Tensor, grid: Tensor) -> Tensor:
    """W1 = int |F - F_ref| dE of two distributions of mass 1 given by their cumulatives (Vallender, 1974).

    Args:
        cumulative, reference: [..., E].
        grid: [E] or [B, E] (then the first axes match), ascending, wide enough for both.

    Returns:
        [...], unit of ``grid``; trapezoidal rule.
    """
    while grid.dim() not in (1, cumulative.dim()):
        grid = grid.unsqueeze(1)
    return torch.trapezoid((cumulative - reference).abs(), grid.expand_as(cumulative), dim=-1)


def projected_dos_loss(
    cumulative: Tensor, reference: Tensor, grid: Tensor, transfer_cost: float, group_mask: Tensor | None = None
) -> Tensor:
    """Distance of band-passed projected densities of states, group by group.

    Both sides are taken as distributions of mass 1 over (group, energy). Within a group mass moves at its energy
    distance: the Wasserstein distance of the normalised shapes, weighted with the reference's mass in that group. Mass
    in the wrong group costs ``transfer_cost``. Minimal and large basis may so be compared although their masses differ.

    Args:
        cumulative, reference: [B, G, E], ``projected_density_of_states(..., cumulative=True)`` of both, on one grid
            that reaches some widths beyond either spectrum's window.
        grid: [E] or [B, E], Eh.
        transfer_cost: Eh.
        group_mask: [B, G] bool, groups that count; all with any reference mass if left out.

    Returns:
        [B], Eh.
    """
    mass, reference_mass = cumulative[..., -1], reference[..., -1]
    counts = reference_mass > 1e-8
    if group_mask is not None:
        counts = counts & group_mask
    mass, reference_mass = torch.where(counts, mass, 0.0), torch.where(counts, reference_mass, 0.0)
    reference_total = reference_mass.sum(-1, keepdim=True).clamp_min(1e-12)
    share = mass / torch.maximum(mass.sum(-1, keepdim=True), FLOOR * reference_total)
    reference_share = reference_mass / reference_total
    # shapes of mass 1; a group that the prediction leaves empty (or, by Mulliken, below) cannot be normalised: no pole
    shape = cumulative / torch.where(counts, torch.maximum(mass, FLOOR * reference_mass), 1.0).unsqueeze(-1)
    reference_shape = reference / torch.where(counts, reference_mass, 1.0).unsqueeze(-1)
    distance = torch.where(counts, wasserstein(shape, reference_shape, grid), 0.0)
    return (reference_share * distance).sum(-1) + transfer_cost * (share - reference_share).abs().sum(-1) / 2
