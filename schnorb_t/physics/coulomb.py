"""Coulomb interaction of charge fluctuations in DFTB: gamma, its damped form for hydrogen, and its charge derivative.

Two clouds of charge exp(-tau r), tau = 16 U / 5, interact by (Elstner et al., Phys. Rev. B 58, 7260 (1998))

    gamma = 1/R - S(R, U_a, U_b),        gamma_aa = U_a.

DFTB3 (Gaus, Cui, Elstner, J. Chem. Theory Comput. 7, 931 (2011)) damps the short-range part where one partner is
hydrogen, and lets the Hubbard parameter change with the charge, U^d = dU/dq with q counting electrons:

    gamma^h = 1/R - S(R, U_a, U_b) h,    h = exp(-((U_a + U_b) / 2)^zeta R^2),
    Gamma_ab = d gamma_ab / dU_a  U^d_a,

with the derivative by the *first* of two partners, so that Gamma_aa = U^d_a / 2. One exception belongs to the method as
it is in use: for two atoms apart with equal U, DFTB+ and Sparrow take dS/dtau with both tau changing together, which is
twice the partial derivative. Published parameters go with that, so it is done here as well (``EQUAL``).

Partners are atoms, or shells of atoms ("sites"); two shells of one atom (R = 0) interact by the limit

    gamma = (tau_a tau_b / (tau_a + tau_b) + (tau_a tau_b)^2 / (tau_a + tau_b)^3) / 2.

Everything here is in Bohr and Eh.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schnorb_t.basis import Basis
from schnorb_t.physics.orbitals import first_atoms, shell_of_slot

#: tau / U
TAU = 3.2
#: Two tau closer than this part of their mean take the expansion about the mean: the printed form has poles there.
NEAR = 0.01
#: Eh, Hubbard parameters closer than this are equal in Gamma; DFTB+'s value
EQUAL = 0.3125e-5


def pad_atoms(values: Tensor, molecule: Tensor, n_molecules: int, n_atoms: int, fill: float = 0.0) -> Tensor:
    """Values of atoms (or of whatever else ``molecule`` [N] counts, ascending) [N, ...] -> [B, A, ...]."""
    first, _ = first_atoms(molecule, n_molecules)
    local = torch.arange(len(molecule), device=molecule.device) - first[molecule]
    out = values.new_full((n_molecules, n_atoms, *values.shape[1:]), fill)
    return out.index_put((molecule, local), values)


# --- one pair --------------------------------------------------------------------------------------------------------


def gamma(
    distance: Tensor, hubbard_a: Tensor, hubbard_b: Tensor, damped: Tensor | None = None, exponent: float = 4.0
) -> Tensor:
    """Interaction of two clouds, Eh.

    The printed S has poles at tau_a = tau_b that cancel; within 1 % of each other an expansion in (tau_a - tau_b) / 2
    to fourth order stands for it (both right to 1e-10).

    Args:
        distance: [...], Bohr, not 0.
        hubbard_a, hubbard_b: [...], Eh.
        damped: [...] bool, pairs that take gamma^h; none if left out.
        exponent: zeta of gamma^h.
    """
    short = _short_range(distance, TAU * hubbard_a, TAU * hubbard_b)
    if damped is not None:
        short = torch.where(damped, short * _damping(distance, hubbard_a, hubbard_b, exponent), short)
    return 1 / distance - short


def gamma_slope(
    distance: Tensor, hubbard_a: Tensor, hubbard_b: Tensor, damped: Tensor | None = None, exponent: float = 4.0
) -> Tensor:
    """d gamma / d U_a, dimensionless; for equal U of S by both (see above). Arguments as ``gamma``."""
    a, b = TAU * hubbard_a, TAU * hubbard_b
    equal = (hubbard_a - hubbard_b).abs() < EQUAL
    slope = TAU * _short_range_slope(distance, a, b)
    slope = torch.where(equal, 2 * slope, slope)
    if damped is not None:
        h = _damping(distance, hubbard_a, hubbard_b, exponent)
        mean = (hubbard_a + hubbard_b) / 2
        dh = -exponent / 2 * mean ** (exponent - 1) * distance**2 * h
        slope = torch.where(damped, slope * h + _short_range(distance, a, b) * dh, slope)
    return -slope


def gamma_same_place(hubbard_a: Tensor, hubbard_b: Tensor) -> Tensor:
    """gamma of two clouds with one centre, Eh; U for equal ones."""
    a, b = TAU * hubbard_a, TAU * hubbard_b
    return (a * b / (a + b) + (a * b) ** 2 / (a + b) ** 3) / 2


def gamma_same_place_slope(hubbard_a: Tensor, hubbard_b: Tensor) -> Tensor:
    """d gamma / d U_a of two clouds with one centre; 1/2 for equal ones."""
    a, b = TAU * hubbard_a, TAU * hubbard_b
    s = a + b
    return TAU * (b**2 / s**2 + 2 * a * b**2 / s**3 - 3 * (a * b) ** 2 / s**4) / 2


def _damping(r: Tensor, ua: Tensor, ub: Tensor, exponent: float) -> Tensor:
    return torch.exp(-(((ua + ub) / 2) ** exponent) * r**2)


def _series(r: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean m, half difference d, x = m r, and t_0, t_2, t_4 of S = exp(-x) (t_0 + t_2 d^2 + t_4 d^4)."""
    m, d = (a + b) / 2, (a - b) / 2
    x = m * r
    t0 = (48 + x * (33 + x * (9 + x))) / (48 * r)
    t2 = (180 + x * (180 + x * (75 + x * (15 + x)))) / (480 * m)
    t4 = (-840 + x * (-840 + x**2 * (280 + x * (133 + x * (21 + x))))) / (13440 * m**3)
    return m, d, x, t0, t2, t4


def _apart(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs take the expansion, and a tau_b that keeps the unused printed form and its gradient finite."""
    near = (a - b).abs() / 2 < NEAR * (a + b) / 2
    return near, torch.where(near, 0.5 * a, b)


def _short_range(r: Tensor, a: Tensor, b: Tensor) -> Tensor:
    _, d, x, t0, t2, t4 = _series(r, a, b)
    near, c = _apart(a, b)
    series = torch.exp(-x) * (t0 + d**2 * (t2 + d**2 * t4))
    return torch.where(near, series, _half(r, a, c) + _half(r, c, a))


def _half(r: Tensor, a: Tensor, b: Tensor) -> Tensor:
    d = a**2 - b**2
    return torch.exp(-a * r) * (b**4 * a / (2 * d**2) - (b**6 - 3 * b**4 * a**2) / (d**3 * r))


def _short_range_slope(r: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """dS / da."""
    m, d, x, t0, t2, t4 = _series(r, a, b)
    near, c = _apart(a, b)
    s0 = (33 + x * (18 + 3 * x)) / 48
    s2 = r * (180 + x * (150 + x * (45 + 4 * x))) / (480 * m) - t2 / m
    s4 = r * (-840 + x**2 * (840 + x * (532 + x * (105 + 6 * x)))) / (13440 * m**3) - 3 * t4 / m
    by_mean = s0 + d**2 * (s2 + d**2 * s4) - r * (t0 + d**2 * (t2 + d**2 * t4))
    by_difference = d * (2 * t2 + 4 * d**2 * t4)
    series = torch.exp(-x) * (by_mean + by_difference) / 2
    q = a**2 - c**2
    first = torch.exp(-a * r) * ((c**6 + 3 * a**2 * c**4) / (2 * q**3) + 12 * a**3 * c**4 / (q**4 * r))
    second = torch.exp(-c * r) * (2 * a**3 * c**3 / -(q**3) + 12 * a**3 * c**4 / (q**4 * r))
    return torch.where(near, series, second - first - r * _half(r, a, c))


# --- molecules -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sites:
    """Where charge fluctuations sit: atoms, or shells of atoms. Flat, ascending by atom.

    Attributes:
        atom: [Q] int64, atom among all of the batch.
        shell: [Q] int64, slot shell (place in ``basis.layout``); all 0 where sites are atoms.
        molecule: [Q] int64.
        of_orbital: [B, M] int64, -1 in padding.
        largest: sites of the largest molecule.
    """

    atom: Tensor
    shell: Tensor
    molecule: Tensor
    of_orbital: Tensor
    largest: int


def _largest(molecule: Tensor) -> int:
    return int(torch.bincount(molecule).max()) if len(molecule) else 0


def atoms_as_sites(molecule: Tensor, atom_of_orbital: Tensor) -> Sites:
    """One charge per atom.

    Args:
        molecule: [N] int64, ascending.
        atom_of_orbital: [B, M] int64, -1 in padding.
    """
    atom = torch.arange(len(molecule), device=molecule.device)
    return Sites(atom, torch.zeros_like(atom), molecule, atom_of_orbital, _largest(molecule))


def shells_as_sites(
    atomic_numbers: Tensor, molecule: Tensor, atom_of_orbital: Tensor, slot_of_orbital: Tensor, basis: Basis
) -> Sites:
    """One charge per shell of an atom.

    Args:
        atomic_numbers, molecule: [N] int64.
        atom_of_orbital, slot_of_orbital: [B, M] int64, -1 in padding (``orbitals.atom_and_slot``).
        basis: the elements' shells.
    """
    table = torch.zeros(119, len(basis.layout), dtype=torch.bool)
    for z in basis.elements:
        table[z, list(basis.slot_shells(z))] = True
    there = table.to(atomic_numbers.device)[atomic_numbers]
    atom, shell = there.nonzero(as_tuple=True)
    index = (there.flatten().cumsum(0) - 1).view(there.shape)
    found = index[atom_of_orbital.clamp_min(0), shell_of_slot(slot_of_orbital, basis).clamp_min(0)]
    of_orbital = torch.where(atom_of_orbital >= 0, found, -1)
    return Sites(atom, shell, molecule[atom], of_orbital, _largest(molecule[atom]))


@dataclass(frozen=True)
class Coulomb:
    """Interactions of all sites of padded molecules, 0 in padding.

    Attributes:
        second: [B, Q, Q], Eh, gamma.
        third: [B, Q, Q], Eh, Gamma (row: the site whose U changes); ``None`` in second order.
        same_atom: [B, Q, Q] float64, 1 for sites of one atom.
    """

    second: Tensor
    third: Tensor | None
    same_atom: Tensor


def coulomb(
    positions: Tensor,
    hubbard: Tensor,
    sites: Sites,
    n_molecules: int,
    derivatives: Tensor | None = None,
    hydrogen: Tensor | None = None,
    exponent: float = 4.0,
) -> Coulomb:
    """gamma and, with Hubbard derivatives, Gamma of all pairs of sites; differentiable in positions, U and U^d.

    Args:
        positions: [N, 3], Bohr, of atoms.
        hubbard: [Q], Eh, of sites.
        sites: where the charges sit.
        n_molecules: B.
        derivatives: [Q], Eh / e, U^d of sites; second order only if left out.
        hydrogen: [N] bool, atoms whose pairs are damped (gamma^h); none if left out.
        exponent: zeta of the damping.
    """
    args = (sites.molecule, n_molecules, sites.largest)
    r = pad_atoms(positions.to(torch.float64)[sites.atom], *args)
    u = pad_atoms(hubbard.to(torch.float64), *args, fill=1.0)
    atom = pad_atoms(sites.atom, *args, fill=-1)
    real = atom >= 0
    both = real.unsqueeze(-1) & real.unsqueeze(-2)
    same = both & (atom.unsqueeze(-1) == atom.unsqueeze(-2))
    apart = both & ~same
    d = r.unsqueeze(2) - r.unsqueeze(1)
    distance = torch.where(apart, (d * d).sum(-1), 1.0).sqrt()
    ua, ub = u.unsqueeze(-1).expand_as(distance), u.unsqueeze(-2).expand_as(distance)
    damped = None
    if hydrogen is not None:
        h = pad_atoms(hydrogen[sites.atom], *args)
        damped = h.unsqueeze(-1) | h.unsqueeze(-2)

    def joined(pairs: Tensor, own: Tensor) -> Tensor:
        return torch.where(apart, pairs, torch.where(same, own, 0.0))

    second = joined(gamma(distance, ua, ub, damped, exponent), gamma_same_place(ua, ub))
    third = None
    if derivatives is not None:
        slopes = joined(gamma_slope(distance, ua, ub, damped, exponent), gamma_same_place_slope(ua, ub))
        third = pad_atoms(derivatives.to(torch.float64), *args).unsqueeze(-1) * slopes
    return Coulomb(second, third, same.to(torch.float64))


def gamma_matrix(positions: Tensor, hubbard: Tensor, molecule: Tensor, n_molecules: int, n_atoms: int) -> Tensor:
    """gamma_AB with U_A on the diagonal, [B, A, A], Eh, 0 in padding: one charge per atom, second order, no damping.

    Args:
        positions: [N, 3], Bohr.
        hubbard: [N], Eh.
        molecule: [N] int64, ascending.
        n_molecules: B.
        n_atoms: A, atoms of the largest molecule.
    """
    atom = torch.arange(len(molecule), device=molecule.device)
    sites = Sites(atom, torch.zeros_like(atom), molecule, atom.new_empty(0), n_atoms)
    return coulomb(positions, hubbard, sites, n_molecules).second
