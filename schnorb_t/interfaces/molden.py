"""Files to look at orbitals with: Molden files (geometry, functions, all orbitals) and cube files (values on a grid).

Both need functions. Those of a projected basis depend on their surroundings and are not stored; the free-atom functions
that they come from stand for them, and the files say so: shapes and nodes are right, values approximate. Orbitals are
carried over from one set of Löwdin-orthogonalised functions to the other, C' = S0^(-1/2) S^(1/2) C with S0 the overlap
of the free-atom functions, so that they stay orthonormal, as readers expect.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols

from schnorb_t.basis import L_LETTERS, Basis, GaussianShell, all_electrons
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.files import write_text
from schnorb_t.linalg import matrix_power
from schnorb_t.nn.geometry import Geometry
from schnorb_t.nn.overlap import FreeAtomOverlap
from schnorb_t.prediction import Prediction
from schnorb_t.units import BOHR

#: Bohr, grid of cube files and empty space around the atoms.
RESOLUTION = 0.25
MARGIN = 4.0
#: Points of a grid beyond which a cube file, 13 bytes a point, is no use.
MOST_POINTS = 50_000_000
#: Smaller numbers have exponents of three digits, which Fortran's formats do not read.
_TINY = 1e-99
#: Å, range of the free-atom functions' overlap.
CUTOFF = 16.0
APPROXIMATE = "free-atom functions in place of the projected ones: approximate"


def _functions(basis: Basis) -> dict[int, tuple[GaussianShell, ...]]:
    if basis.functions is None:
        raise UserError(f"basis {basis.name!r} holds shells only, no Gaussian functions: nothing to draw orbitals with")
    if basis.l_max > 4:
        raise UserError(f"basis {basis.name!r} has shells beyond g, which Molden files cannot hold")
    return basis.functions


@lru_cache(maxsize=4)
def _overlap_of_functions(basis: Basis) -> tuple[Geometry, FreeAtomOverlap]:
    return Geometry(basis, CUTOFF), FreeAtomOverlap(basis, CUTOFF)


@torch.no_grad()
def drawn_orbitals(prediction: Prediction) -> np.ndarray:
    """[m, m] coefficients of the functions that are drawn; orthonormal in their overlap.

    Raises:
        UserError: the basis has no functions.
    """
    basis, z = prediction.basis, prediction.atomic_numbers
    _functions(basis)
    if not basis.projected:
        return prediction.orbital_coefficients
    geometry, overlap = _overlap_of_functions(basis)
    batch = structures_to_batch([z], [prediction.positions], basis, CUTOFF)
    inverse_root = matrix_power(overlap(geometry(batch))[0].numpy(), -0.5)
    return inverse_root @ matrix_power(prediction.overlap, 0.5) @ prediction.orbital_coefficients


def _molden_order(prediction: Prediction) -> np.ndarray:
    """Our place of each of Molden's functions: p x, y, z; others m = 0, +1, -1, +2, -2, ... without signs."""
    out, at = [], 0
    for _, _, l, m in prediction.basis.orbital_labels(prediction.atomic_numbers):
        if m == -l:
            ms = [1, -1, 0] if l == 1 else [0] + [s * k for k in range(1, l + 1) for s in (1, -1)]
            out += [at + l + k for k in ms]
            at += 2 * l + 1
    return np.array(out)


def _title(prediction: Prediction) -> str:
    """Name or formula on one line, without the brackets that begin sections of Molden files."""
    name = " ".join(prediction.name.split()).translate(str.maketrans("[]", "()"))
    return name or prediction.formula


def molden_text(prediction: Prediction) -> str:
    """A prediction as a Molden file: Eh, Bohr, spherical functions, every orbital with energy and occupation.

    Raises:
        UserError: the basis has no functions, or shells beyond g.
    """
    basis, functions = prediction.basis, _functions(prediction.basis)
    lines = ["[Molden Format]", "[Title]", f" {_title(prediction)}, predicted by schnorb_t, basis {basis.name}"]
    if basis.projected:
        lines.append(f" {APPROXIMATE}")
    lines.append("[Atoms] AU")
    for k, (z, r) in enumerate(zip(prediction.atomic_numbers.tolist(), prediction.positions / BOHR, strict=True), 1):
        lines.append(f"{chemical_symbols[z]:<2s} {k:5d} {z:3d} " + " ".join(f"{x:18.12f}" for x in r))
    lines.append("[GTO]")
    for k, z in enumerate(prediction.atomic_numbers.tolist(), 1):
        lines.append(f"{k} 0")
        for shell in functions[z]:
            lines.append(f" {L_LETTERS[shell.l]} {len(shell.exponents)} 1.00")
            for a, c in zip(shell.exponents, shell.normalised_coefficients().tolist(), strict=True):
                lines.append(f" {a:24.15E} {c:24.15E}")
        lines.append("")
    lines += ["[5D]", "[7F]", "[9G]"]
    cores = prediction.atomic_numbers - basis.nuclear_charges(prediction.atomic_numbers)
    if cores.any():
        lines += ["[Core]", *(f"{k} : {n}" for k, n in enumerate(cores, 1) if n), ""]
    lines.append("[MO]")
    coefficients = drawn_orbitals(prediction)[_molden_order(prediction)]
    for k, (energy, occupation) in enumerate(zip(prediction.orbital_energies, prediction.occupations, strict=True)):
        lines += [f" Sym= {k + 1}a", f" Ene= {energy:.12f}", " Spin= Alpha", f" Occup= {occupation:.6f}"]
        lines += [f"{i:5d} {c:22.14E}" for i, c in enumerate(coefficients[:, k].tolist(), 1)]
    return "\n".join(lines) + "\n"


def write_molden(path: str | Path, prediction: Prediction) -> None:
    """``molden_text`` of a prediction into a file.

    Raises:
        UserError: as ``molden_text``, or the disk refuses.
    """
    write_text(path, molden_text(prediction))


# ---- cube ----------------------------------------------------------------------------------------------------------


_NAME = re.compile(r"density|(homo|lumo)([+-]\d+)?|([1-9]\d*)")


def check_cube_name(name: str) -> re.Match:
    """A name that ``write_cube`` knows: ``homo``, ``homo-1``, ``lumo+2``, ``5`` (the fifth orbital), ``density``.

    Raises:
        UserError: it is none.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise UserError(f"no orbital is called {name!r}; names are homo, homo-1, lumo, lumo+1, 5 (the fifth), density")
    return match


def orbital_index(prediction: Prediction, name: str) -> int:
    """0-based place of an orbital named as in ``check_cube_name``.

    Raises:
        UserError: no such name, or no such orbital in this molecule.
    """
    match = check_cube_name(name)
    first = prediction.n_occupied - (match[1] == "homo")
    index = int(match[3]) - 1 if match[3] else first + int(match[2] or 0)
    n = len(prediction.orbital_energies)
    if name == "density" or not 0 <= index < n:
        raise UserError(f"{prediction.name or prediction.formula} has {n} orbitals and none called {name!r}")
    return index


def _row(values: Iterable[float]) -> str:
    return "".join(f" {x:11.6f}" for x in values)


def write_cube(path: str | Path, prediction: Prediction, name: str = "homo", resolution: float = RESOLUTION) -> None:
    """An orbital (1/Bohr^(3/2)) or the electron density (1/Bohr^3) on a grid; needs PySCF.

    Args:
        path: of the file.
        prediction: of a basis with functions.
        name: see ``check_cube_name``.
        resolution: Bohr.

    Raises:
        UserError: no such orbital, a grid of more than ``MOST_POINTS``, PySCF is not installed, no functions, or the
            disk refuses.
    """
    from schnorb_t.conventions import reorder_from_pyscf
    from schnorb_t.reference.pyscf import mole_from_basis

    orbital = None if name == "density" else orbital_index(prediction, name)
    orbitals = drawn_orbitals(prediction)
    mol = mole_from_basis(prediction.basis, prediction.atomic_numbers, prediction.positions)
    order = reorder_from_pyscf(mol).inverse()
    r = mol.atom_coords()
    origin = r.min(0) - MARGIN
    counts = np.ceil((r.max(0) - r.min(0) + 2 * MARGIN) / resolution).astype(int) + 1
    if (points := math.prod(counts.tolist())) > MOST_POINTS:
        raise UserError(
            f"{_title(prediction)}: a grid of {resolution:g} Bohr has {points:.1e} points here, at most "
            f"{MOST_POINTS:.0e} are written; take a larger resolution, or one molecule at a time"
        )
    axes = [o + resolution * np.arange(n) for o, n in zip(origin, counts, strict=True)]
    orbitals = order.rows(orbitals)
    occupied = orbitals[:, prediction.occupations > 0]
    occupations = prediction.occupations[prediction.occupations > 0]
    planes = []
    for x in axes[0]:  # plane by plane: memory of one
        points = np.stack(np.meshgrid([x], *axes[1:], indexing="ij"), -1).reshape(-1, 3)
        values = mol.eval_gto("GTOval_sph", points)
        if orbital is None:
            planes.append((values @ occupied) ** 2 @ occupations)
        else:
            planes.append(values @ orbitals[:, orbital])
    valence = "valence " if prediction.n_electrons < all_electrons(prediction.atomic_numbers) else ""
    what = f"{valence}electron density, 1/Bohr^3" if orbital is None else f"orbital {name}, 1/Bohr^(3/2)"
    if orbital is not None:
        what += f", {prediction.orbital_energies[orbital]:.6f} Eh"
    basis = prediction.basis
    # a blank in front of every number, whatever its width: readers split at blanks
    lines = [
        f"{_title(prediction)}: {what}",
        f"predicted by schnorb_t, basis {basis.name}" + (f"; {APPROXIMATE}" if basis.projected else ""),
        f"{mol.natm:5d}" + _row(origin),
    ]
    for axis, n in enumerate(counts):
        lines.append(f"{n:5d}" + _row(resolution * (k == axis) for k in range(3)))
    for z, charge, x in zip(prediction.atomic_numbers.tolist(), mol.atom_charges(), r, strict=True):
        lines.append(f"{z:5d}" + _row([float(charge), *x]))
    for plane in planes:
        plane[np.abs(plane) < _TINY] = 0.0
        for row in plane.reshape(counts[1], counts[2]):
            lines += ["".join(f" {v:12.5E}" for v in row[k : k + 6]) for k in range(0, len(row), 6)]
    write_text(path, "\n".join(lines) + "\n")
