"""Overlap of contracted Gaussians of two atoms, in the bond frame: the two-centre integrals behind S0.

With both atoms on the z axis the integral over x and y is a moment about a common centre and only functions of
equal m overlap, so each shell pair has min(l_a, l_b) + 1 numbers (sigma, pi, delta, ...).
Formulae: real solid harmonics as Cartesian polynomials, Helgaker, Jørgensen, Olsen, "Molecular
Electronic-Structure Theory", eq. 6.4.47-49; overlap recursion of Obara and Saika, ibid. eq. 9.3.8-9.
"""

from __future__ import annotations

from functools import cache
from math import comb, factorial, pi, sqrt

import torch
from torch import Tensor

from schnorb_t.basis import Basis, GaussianShell


@cache
def solid_harmonic(l: int, m: int) -> tuple[tuple[float, int, int, int], ...]:
    """r^l Y_lm, m >= 0, as terms (coefficient, i, j, k) of x^i y^j z^k; normalisation of Racah."""
    norm = sqrt(2 * factorial(l + m) * factorial(l - m) / (2 if m == 0 else 1)) / (2**m * factorial(l))
    terms: dict[tuple[int, int, int], float] = {}
    for t in range((l - m) // 2 + 1):
        for u in range(t + 1):
            for v in range(m // 2 + 1):
                c = (-1) ** (t + v) * 0.25**t * comb(l, t) * comb(l - t, m + t) * comb(t, u) * comb(m, 2 * v)
                power = (2 * t + m - 2 * (u + v), 2 * (u + v), l - 2 * t - m)
                terms[power] = terms.get(power, 0.0) + norm * c
    return tuple((c, *power) for power, c in terms.items() if c)


def _moment(n: int, p: Tensor) -> Tensor | float:
    """Integral of x^n exp(-p x^2) over sqrt(pi / p); 0 for odd n."""
    if n % 2:
        return 0.0
    out = torch.ones_like(p)
    for k in range(1, n, 2):
        out = out * k / (2 * p)
    return out


def _along_bond(l_a: int, l_b: int, a: Tensor, b: Tensor, distance: Tensor) -> list[list[Tensor]]:
    """Overlaps of z^i exp(-a z^2) and (z-R)^j exp(-b (z-R)^2) over sqrt(pi / p), for i <= l_a, j <= l_b."""
    p = a + b
    to_a, to_b = b / p * distance, -a / p * distance
    s = [[torch.exp(-a * b / p * distance**2)]]
    for i in range(l_a):
        s.append([to_a * s[i][0] + (i / (2 * p) * s[i - 1][0] if i else 0.0)])
    for j in range(l_b):
        for i in range(l_a + 1):
            new = to_b * s[i][j]
            if i:
                new = new + i / (2 * p) * s[i - 1][j]
            if j:
                new = new + j / (2 * p) * s[i][j - 1]
            s[i].append(new)
    return s


def _primitive_overlaps(l_a: int, l_b: int, m: int, a: Tensor, b: Tensor, distance: Tensor) -> Tensor:
    """Overlap of two primitives (without normalisation), broadcast over exponents and distances."""
    p = a + b
    along = _along_bond(l_a, l_b, a, b, distance)
    total = torch.zeros(torch.broadcast_shapes(p.shape, distance.shape), dtype=p.dtype)
    for ca, ia, ja, ka in solid_harmonic(l_a, m):
        for cb, ib, jb, kb in solid_harmonic(l_b, m):
            if (ia + ib) % 2 == 0 and (ja + jb) % 2 == 0:
                total = total + ca * cb * _moment(ia + ib, p) * _moment(ja + jb, p) * along[ka][kb]
    return total * p**-1.5


def shell_overlap(shell_a: GaussianShell, shell_b: GaussianShell, m: int, distance: Tensor) -> Tensor:
    """<a, m | b, m> of two normalised contracted shells, b at distance along +z.

    Args:
        shell_a, shell_b: the contractions.
        m: 0..min(l_a, l_b).
        distance: [G] Bohr, float64.

    Returns:
        [G], dimensionless.
    """

    def factors(shell: GaussianShell) -> tuple[Tensor, Tensor]:
        # the norm of r^l Y_lm in Racah's normalisation is (4 pi / (2 l + 1))^(1/2); pi^(3/2) is left out of overlaps
        angular = (2 * shell.l + 1) ** 0.5 * pi**0.25 / 2
        return torch.tensor(shell.exponents, dtype=torch.float64), torch.from_numpy(
            angular * shell.radial_coefficients()
        )

    (a, ca), (b, cb) = factors(shell_a), factors(shell_b)
    primitives = _primitive_overlaps(shell_a.l, shell_b.l, m, a[:, None, None], b[None, :, None], distance[None, None])
    return torch.einsum("a,b,abg->g", ca, cb, primitives)


def slater_koster_components(basis: Basis) -> list[tuple[int, int, int]]:
    """(slot shell a, slot shell b, m) of every two-centre integral of a pair of padded atoms."""
    return [
        (a, b, m)
        for a, la in enumerate(basis.layout)
        for b, lb in enumerate(basis.layout)
        for m in range(min(la, lb) + 1)
    ]


def overlap_table(basis: Basis, distance: Tensor) -> Tensor:
    """Two-centre overlaps of all element pairs on a grid.

    Args:
        basis: with ``functions``.
        distance: [G] Bohr, float64.

    Returns:
        [E, E, G, n] for the E elements of the basis (ascending) and the n components of
        ``slater_koster_components``; 0 where an element lacks a slot.
    """
    components = slater_koster_components(basis)
    n = len(basis.elements)
    out = torch.zeros(n, n, len(distance), len(components), dtype=torch.float64)
    slots = {z: {s: k for k, s in enumerate(basis.slot_shells(z))} for z in basis.elements}
    for x, za in enumerate(basis.elements):
        for y, zb in enumerate(basis.elements):
            for c, (a, b, m) in enumerate(components):
                if a in slots[za] and b in slots[zb]:
                    shell_a, shell_b = basis.functions[za][slots[za][a]], basis.functions[zb][slots[zb][b]]
                    out[x, y, :, c] = shell_overlap(shell_a, shell_b, m, distance)
    return out
