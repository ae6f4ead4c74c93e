"""Electrons per orbital: zero temperature, Fermi-Dirac, Gaussian, Methfessel-Paxton; chemical potential and entropy.

With x = (e - mu) / width, f(x) electrons per (spin-paired) level and entropy s(x), s' = x f', so that for the free
energy F = sum_i f_i e_i - width sum_i s_i at fixed electron number dF/de_i = f_i.

    Fermi-Dirac         f = 2 / (1 + e^x);   s = -2 [p ln p + (1 - p) ln(1 - p)], p = f / 2
                        (Mermin, Phys. Rev. 137, A1441 (1965))
    Gaussian            f = erfc(x);         s = e^(-x^2) / sqrt(pi)
    Methfessel-Paxton   f = erfc(x) + 2 sum_{n=1..N} A_n H_{2n-1}(x) e^(-x^2);   s = A_N H_2N(x) e^(-x^2),
                        A_n = (-1)^n / (n! 4^n sqrt(pi))            (Phys. Rev. B 40, 3616 (1989))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Eh, levels closer than this count as one degenerate frontier level at zero temperature.
DEGENERATE = 1e-6
KINDS = ("none", "fermi-dirac", "gaussian", "methfessel-paxton")


@dataclass(frozen=True)
class Smearing:
    """How levels are filled.

    Attributes:
        kind: ``none`` (zero temperature), ``fermi-dirac``, ``gaussian`` or ``methfessel-paxton``.
        width: Eh; for Fermi-Dirac k_B T (``300 * units.KELVIN``). Positive unless ``kind`` is ``none``.
        order: N of Methfessel-Paxton, 1 or more.

    Raises:
        ValueError: unknown kind, width or order out of range.
    """

    kind: str = "none"
    width: float = 0.0
    order: int = 1

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"smearing {self.kind!r} is none of {', '.join(KINDS)}")
        if (self.kind == "none") != (self.width == 0.0) or self.width < 0:
            raise ValueError(
                f"smearing {self.kind!r} with width {self.width} Eh: give a positive width, none for 'none'"
            )
        if self.order < 1:
            raise ValueError(f"Methfessel-Paxton order must be 1 or more, got {self.order}")

    def filling(self, x: Tensor) -> Tensor:
        """f(x), electrons per level, for x = (e - mu) / width of any shape; differentiable.

        ``2 - filling(x) == filling(-x)`` without cancellation.
        """
        if self.kind == "fermi-dirac":
            return 2 * torch.sigmoid(-x)
        f = torch.erfc(x)
        for n, h in self._hermite(x, odd=True):
            f = f + 2 * _amplitude(n) * h * torch.exp(-x * x)
        return f

    def slope(self, x: Tensor) -> Tensor:
        """df/dx, electrons per level, for x = (e - mu) / width of any shape."""
        if self.kind == "fermi-dirac":
            return -2 * torch.sigmoid(x) * torch.sigmoid(-x)
        total = torch.full_like(x, _amplitude(0))
        for n, h in self._hermite(x, odd=False):
            total = total + _amplitude(n) * h
        return -2 * total * torch.exp(-x * x)

    def entropy(self, x: Tensor) -> Tensor:
        """s(x) of each level in units of k_B, for x = (e - mu) / width of any shape; differentiable."""
        if self.kind == "fermi-dirac":
            # -p ln p - (1-p) ln(1-p) with ln p = -softplus(x): no logarithm of 0
            soft = torch.nn.functional.softplus
            return 2 * (torch.sigmoid(-x) * soft(x) + torch.sigmoid(x) * soft(-x))
        top = torch.ones_like(x)
        amplitude = _amplitude(0)
        for n, h in self._hermite(x, odd=False):
            top, amplitude = h, _amplitude(n)
        return amplitude * top * torch.exp(-x * x)

    def _hermite(self, x: Tensor, odd: bool):
        """(n, H_{2n-1} or H_2n) for n = 1..N; nothing for plain Gaussian."""
        if self.kind != "methfessel-paxton":
            return
        below, odd_one = torch.ones_like(x), 2 * x
        for n in range(1, self.order + 1):
            above = 2 * x * odd_one - 2 * (2 * n - 1) * below
            yield n, odd_one if odd else above
            below, odd_one = above, 2 * x * above - 4 * n * odd_one


#: every level full or empty
ZERO_TEMPERATURE = Smearing()


def _amplitude(n: int) -> float:
    return (-1) ** n / (math.factorial(n) * 4**n * math.sqrt(math.pi))


def fill(energies: Tensor, n_electrons: Tensor, orbital_mask: Tensor) -> Tensor:
    """Zero-temperature occupations; a degenerate frontier level is filled evenly.

    Args:
        energies: [B, M], ascending, padding last.
        n_electrons: [B], whole or not, odd or even.
        orbital_mask: [B, M] bool.

    Returns:
        [B, M], 0..2, without gradient.
    """
    e, n = energies.detach(), n_electrons.to(energies.dtype).unsqueeze(-1)
    real = level_mask(orbital_mask)
    frontier = (torch.ceil(n / 2).long() - 1).clamp(0, e.shape[-1] - 1)
    d = e - e.gather(-1, frontier)
    shell, below = real & (d.abs() <= DEGENERATE), real & (d < -DEGENERATE)
    share = (n - 2 * below.sum(-1, keepdim=True)) / shell.sum(-1, keepdim=True).clamp_min(1)
    return torch.where(below, 2.0, torch.where(shell, share, 0.0))


def level_mask(orbital_mask: Tensor) -> Tensor:
    """[B, M] bool over levels in ascending order: real levels come first, wherever the padded orbitals stand."""
    return torch.arange(orbital_mask.shape[-1], device=orbital_mask.device) < orbital_mask.sum(-1, keepdim=True)


class _ChemicalPotential(torch.autograd.Function):
    """Root of sum_i f((e_i - mu) / width) = n; derivative dmu = sum_i f'_i de_i / sum_i f'_i."""

    @staticmethod
    def forward(ctx, energies, n_electrons, real, smearing):
        w = smearing.width
        n = n_electrons.to(energies.dtype)
        index = torch.arange(energies.shape[-1], device=energies.device)
        filled = torch.floor(n / 2).long()
        low, high = real & (index < filled.unsqueeze(-1)), real & (index >= filled.unsqueeze(-1))
        rest = n - 2 * filled
        x0 = torch.where(real, energies, 0.0)

        def excess(mu):
            # electrons above minus holes below: right to the last digit however small both are in a wide gap
            x = (x0 - mu.unsqueeze(-1)) / w
            above = torch.where(high, smearing.filling(x), 0.0).sum(-1)
            holes = torch.where(low, smearing.filling(-x), 0.0).sum(-1)
            slope = -torch.where(real, smearing.slope(x), 0.0).sum(-1) / w
            return above - holes - rest, slope

        reach = 40 * w
        left = torch.where(real, energies, torch.inf).amin(-1) - reach
        right = torch.where(real, energies, -torch.inf).amax(-1) + reach
        # start in the middle of the frontier gap: the answer where both sides vanish below the smallest number
        homo = energies.gather(-1, (filled - 1).clamp(0, energies.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        lumo = energies.gather(-1, filled.clamp(0, energies.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        mu = ((homo + lumo) / 2).clamp(left, right)
        last = right - left
        for _ in range(200):
            value, slope = excess(mu)
            # a root where the (Methfessel-Paxton) filling falls with mu is passed by
            root, falls = value == 0, slope < 0
            left = torch.where((value < 0) | (root & falls), mu, left)
            right = torch.where(value > 0, mu, right)
            step = -value / torch.where(slope > 0, slope, torch.inf)
            settled = (root & ~falls) | ((slope > 0) & (step.abs() <= 1e-15 * (mu.abs() + w)))
            good = (slope > 0) & (mu + step > left) & (mu + step < right) & (step.abs() <= last / 2)
            new = torch.where(settled, mu, torch.where(good, mu + step, (left + right) / 2))
            last = (new - mu).abs()
            mu = new
            if settled.all() or not (last > 0).any():
                break
        weight = torch.where(real, smearing.slope((x0 - mu.unsqueeze(-1)) / w), 0.0)
        total = weight.sum(-1, keepdim=True)
        # no slope left at all: nothing depends on mu any more; it follows the middle of the gap
        ends = ((index == (filled - 1).unsqueeze(-1)) | (index == filled.unsqueeze(-1))) & real
        middle = ends / ends.sum(-1, keepdim=True).clamp_min(1)
        flat = total.abs() < 1e-300
        weight = torch.where(flat, middle, weight / torch.where(flat, 1.0, total))
        ctx.save_for_backward(weight)
        return mu

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return grad.unsqueeze(-1) * weight, None, None, None


def chemical_potential(energies: Tensor, n_electrons: Tensor, orbital_mask: Tensor, smearing: Smearing) -> Tensor:
    """Chemical potential [B], Eh: Newton kept in a bracket, all molecules at once, to the last digits.

    Zero temperature gives the middle of the frontier gap, or the frontier level itself where it is part filled. The
    derivative is implicit. Methfessel-Paxton fillings are not monotonic: of several roots one with dn/dmu > 0 is given.

    Args:
        energies: [B, M], Eh, ascending, padding last.
        n_electrons: [B]; 0 < n < 2 * number of orbitals where smeared.
    """
    if smearing.kind != "none":
        return _ChemicalPotential.apply(energies, n_electrons, level_mask(orbital_mask), smearing)
    last = energies.shape[-1] - 1
    n_levels = orbital_mask.sum(-1)
    n = n_electrons.to(energies.dtype)
    below = (torch.ceil(n / 2).long() - 1).clamp(0, last)
    above = torch.minimum(torch.floor(n / 2).long(), n_levels - 1).clamp(0, last)
    pair = energies.gather(-1, torch.stack((below, above), -1))
    return pair.mean(-1)


def occupations(
    energies: Tensor, n_electrons: Tensor, orbital_mask: Tensor, smearing: Smearing = ZERO_TEMPERATURE
) -> tuple[Tensor, Tensor]:
    """Electrons per level [B, M] (0 in padding) and chemical potential [B], both differentiable in the energies."""
    mu = chemical_potential(energies, n_electrons, orbital_mask, smearing)
    if smearing.kind == "none":
        return fill(energies, n_electrons, orbital_mask), mu
    real = level_mask(orbital_mask)
    x = torch.where(real, energies - mu.unsqueeze(-1), 0.0) / smearing.width
    return torch.where(real, smearing.filling(x), 0.0), mu
