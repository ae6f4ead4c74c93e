"""Slater-Koster files from a model's two-centre functions.

A file holds one shell of each l, an orthonormal atom and a diagonal atomic Hamiltonian; a model has cores, and means of
on-site blocks that are neither. So each shell of a file is an eigenfunction of the element's mean on-site (H, S),
c^T S c = 1: the highest of its l, with the ones below it, which are the core, left out (frozen). Two-centre integrals
of A and B become c_A^T (block) c_B. Own core and valence are decoupled by construction. Neglected are the repulsion of
the valence shell by the cores of *neighbours* (a change of on-site blocks, second order in their overlap, which a file
cannot hold) and all that the network adds to the two-centre part. Lengths are in DFTB+'s own Bohr
(``units.DFTBPLUS_BOHR``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from ase.data import atomic_masses, chemical_symbols

from schnorb_t.basis import L_LETTERS, Basis, core_shells, free_atom_electrons
from schnorb_t.errors import UserError
from schnorb_t.nn.gaussian_overlap import slater_koster_components
from schnorb_t.nn.model import MatrixModel
from schnorb_t.physics.skf import EXTENDED, SIMPLE
from schnorb_t.units import DFTBPLUS_BOHR

#: Bohr, grid of the tables; 8-point interpolation, as DFTB+ does it, then leaves 1e-9.
SPACING = 0.02
#: Bohr, over which everything goes to zero before the cutoff, with two continuous derivatives.
TAPER = 1.0


@dataclass(frozen=True)
class ValenceShell:
    """One shell of a file.

    Attributes:
        l: angular momentum.
        slots: slot shells of the basis (indices into ``basis.layout``) that it is made of.
        coefficients: [len(slots)], c^T S c = 1 with the mean on-site overlap.
        energy: Eh, c^T H c with the mean on-site Hamiltonian.
    """

    l: int
    slots: tuple[int, ...]
    coefficients: np.ndarray
    energy: float


def onsite_means(model: MatrixModel) -> tuple[np.ndarray, np.ndarray]:
    """Mean on-site Hamiltonian (Eh) and overlap of each element, [E, K, K]."""
    hamiltonian = model.two_centre.onsite_means().detach()
    overlap = model.overlap0.onsite
    if model.basis.projected:
        overlap = overlap + model.overlap_two_centre.onsite_means().detach()

    def symmetric(x: torch.Tensor) -> np.ndarray:
        return (0.5 * (x + x.mT)).double().cpu().numpy()

    return symmetric(hamiltonian), symmetric(overlap)


def valence_shells(model: MatrixModel) -> dict[int, tuple[ValenceShell, ...]]:
    """Element -> its shells in a file, ascending l.

    Raises:
        UserError: the basis has more than one valence shell of some l, or g shells: no file can hold it; or the model's
            two-centre functions are those of orthogonal orbitals.
    """
    basis = model.basis
    if model.orthogonal:
        raise UserError(
            "the model's two-centre functions are those of orthogonal orbitals; train one without `orthogonal`"
        )
    hamiltonian, overlap = onsite_means(model)
    out = {}
    for row, z in enumerate(basis.elements):
        shells, slots = [], basis.slot_shells(z)
        for l in sorted(set(basis.shells[z])):
            of_l = tuple(s for s in slots if basis.layout[s] == l)
            n_valence = len(of_l) - basis.core_shells(z).get(l, 0)
            if n_valence > 1 or l > 3:
                raise UserError(
                    f"a Slater-Koster file holds one valence shell of s, p, d, f each, and {chemical_symbols[z]} has "
                    f"{n_valence} of {L_LETTERS[l]} in {basis.name!r}; export a model of a minimal basis"
                )
            if n_valence < 1:
                continue
            at = [basis.layout_offsets[s] for s in of_l]  # m = -l of each; the block is the same for all m
            h, s = (x[row][np.ix_(at, at)] for x in (hamiltonian, overlap))
            try:
                energies, vectors = scipy.linalg.eigh(h, s)
            except scipy.linalg.LinAlgError:
                raise UserError(
                    f"the mean on-site overlap of {chemical_symbols[z]} is not positive definite; was the model fitted?"
                ) from None
            c = vectors[:, -1] * np.sign(vectors[-1, -1])
            shells.append(ValenceShell(l, of_l, c, float(energies[-1])))
        out[z] = tuple(shells)
    return out


def taper(distance: np.ndarray, cutoff: float) -> np.ndarray:
    """1 up to ``TAPER`` before the cutoff, 0 from there on; quintic in between. Bohr."""
    x = np.clip((cutoff - distance) / TAPER, 0.0, 1.0)
    return x**3 * (10 - 15 * x + 6 * x**2)


@torch.no_grad()
def two_centre_integrals(model: MatrixModel, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the model's two-centre part says of each ordered element pair.

    The model's blocks are the mean of those of (A, B) and (B, A) transposed; seen from B, A stands at -z, which
    changes the sign of integrals of odd l_a + l_b.

    Args:
        model: whose ``two_centre``, ``overlap0`` and ``overlap_two_centre`` are read.
        distance: [G], Bohr.

    Returns:
        H (Eh) and S, [E, E, G, n]; n components of ``slater_koster_components``.
    """
    basis, n = model.basis, len(model.basis.elements)
    components = slater_koster_components(basis)
    place = {c: k for k, c in enumerate(components)}
    back = [place[b, a, m] for a, b, m in components]
    sign = np.array([(-1.0) ** (basis.layout[a] + basis.layout[b]) for a, b, _ in components])
    device = model.two_centre.coefficients.device
    d = torch.as_tensor(distance * DFTBPLUS_BOHR, dtype=torch.float64, device=device)

    def table(function) -> np.ndarray:
        out = np.empty((n, n, len(distance), len(components)))
        for i in range(n):
            for j in range(n):
                rows = torch.full((2, len(distance)), i, device=device)
                rows[1] = j
                out[i, j] = function(rows[0], rows[1], d).double().cpu().numpy()
        return 0.5 * (out + sign * out.transpose(1, 0, 2, 3)[..., back])

    hamiltonian = table(model.two_centre.components)
    overlap = table(model.overlap0.table)
    if basis.projected:
        overlap = overlap + table(model.overlap_two_centre.components)
    return hamiltonian, overlap


def _columns(
    basis: Basis, values: np.ndarray, shells_a: tuple[ValenceShell, ...], shells_b: tuple[ValenceShell, ...], columns
) -> np.ndarray:
    """[G, C] of one pair's [G, n]: c_A^T (integrals) c_B in the columns of a file."""
    place = {c: k for k, c in enumerate(slater_koster_components(basis))}
    of_a, of_b = ({shell.l: shell for shell in shells} for shells in (shells_a, shells_b))
    out = np.zeros((len(values), len(columns)))
    for k, (la, lb, m) in enumerate(columns):
        if la in of_a and lb in of_b:
            a, b = of_a[la], of_b[lb]
            for sa, ca in zip(a.slots, a.coefficients, strict=True):
                for sb, cb in zip(b.slots, b.coefficients, strict=True):
                    out[:, k] += ca * cb * values[:, place[sa, sb, m]]
    return out


def _homonuclear_line(z: int, shells: tuple[ValenceShell, ...], l_max: int) -> str:
    """Ed Ep Es SPE Ud Up Us fd fp fs, or with f in front of each d."""
    energy, electrons = {s.l: s.energy for s in shells}, free_atom_electrons(z)
    for l, n in core_shells(z).items():
        electrons[l] -= n * (4 * l + 2)
    ls = range(l_max, -1, -1)
    numbers = [energy.get(l, 0.0) for l in ls] + [0.0] + [0.0 for _ in ls] + [float(electrons.get(l, 0)) for l in ls]
    return " ".join(f"{x:.15g}" for x in numbers)


def slater_koster_files(model: MatrixModel, spacing: float = SPACING, source: str = "") -> dict[str, str]:
    """All files of a model.

    Args:
        model: any whose basis is minimal.
        spacing: Bohr.
        source: named in the files' documentation.

    Returns:
        file name (``C-H.skf``) -> text, for every ordered pair of the basis's elements.

    Raises:
        UserError: see ``valence_shells``.
    """
    basis, cutoff = model.basis, model.cutoff / DFTBPLUS_BOHR
    shells = valence_shells(model)
    n_rows = int(np.ceil(cutoff / spacing))  # the last at or just beyond the cutoff: zero
    distance = spacing * np.arange(1, n_rows + 1)
    tables = [x * taper(distance, cutoff)[:, None] for x in two_centre_integrals(model, np.minimum(distance, cutoff))]
    columns = EXTENDED if basis.l_max > 2 else SIMPLE
    l_max = 3 if basis.l_max > 2 else 2
    documentation = _documentation(model, source)
    out = {}
    for i, za in enumerate(basis.elements):
        for j, zb in enumerate(basis.elements):
            parts = [_columns(basis, table[i, j], shells[za], shells[zb], columns) for table in tables]
            lines = ["@"] if columns is EXTENDED else []
            lines.append(f"{spacing:.15g} {n_rows + 1}")  # one larger than the number of rows
            if za == zb:
                lines.append(_homonuclear_line(za, shells[za], l_max))
            lines.append(f"{atomic_masses[za] if za == zb else 0.0:.6f} 8*0.0 0.0 10*0.0")
            lines += [" ".join(f"{x:.15e}" for x in row) for row in np.concatenate(parts, 1).tolist()]
            # exp(-0 r + 0) - 1 = 0 below the first interval, a polynomial 0 in it
            lines += ["Spline", "1 1.0", "0.0 0.0 -1.0", "0.5 1.0 0.0 0.0 0.0 0.0 0.0 0.0", documentation]
            out[f"{chemical_symbols[za]}-{chemical_symbols[zb]}.skf"] = "\n".join(lines) + "\n"
    return out


def _documentation(model: MatrixModel, source: str) -> str:
    return "\n".join(
        [
            "<Documentation>",
            f"Two-centre part of a schnorb_t model{f' ({source})' if source else ''}, basis {model.basis.name}.",
            "Valence shells only: the highest eigenfunction of each l of the mean on-site block; cores are frozen.",
            "The repulsive is ZERO: no energies, no forces. Hubbard U and the spin constant are zero: use SCC = No.",
            "</Documentation>",
        ]
    )
