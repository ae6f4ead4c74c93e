"""Structures to label: read from any file ASE reads, from QM9's archive or geometry table, and checked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from scipy.spatial import cKDTree

from schnorb_t.errors import UserError
from schnorb_t.reference.thermal import bonds

#: Atoms nearer than this, Å, count as overlapping.
OVERLAP_DISTANCE = 0.4


@dataclass(frozen=True)
class Structure:
    """One molecule to label.

    Attributes:
        atomic_numbers: [n] int64.
        positions: [n, 3] float64, Å.
        name: unique.
        group: identity of the molecule: all its geometries share it.
        split: ``"train"``, ``"val"``, ``"test"`` or ``""``.
        order: place in the input.
        charge: of the molecule, e.
        multiplicity: 2S + 1; 0 where the input does not say.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    name: str
    group: str
    split: str = ""
    order: int = 0
    charge: int = 0
    multiplicity: int = 0

    @property
    def n_electrons(self) -> int:
        return int(self.atomic_numbers.sum()) - self.charge


def graph_key(atomic_numbers: np.ndarray, positions: np.ndarray) -> str:
    """Formula and a hash of elements and bonds: equal for all conformers of a molecule, whatever the order of atoms.

    Bonds by covalent radii (``thermal.bonds``), hash by Weisfeiler-Lehman refinement (Weisfeiler and Lehman 1968;
    Shervashidze et al., J. Mach. Learn. Res. 12, 2539 (2011)).
    """
    z = np.asarray(atomic_numbers)
    neighbours: list[list[int]] = [[] for _ in z]
    for i, j in bonds(z, np.asarray(positions)):
        neighbours[i].append(j)
        neighbours[j].append(i)
    colours = [str(int(q)) for q in z]
    for _ in range(len(z)):
        refined = [
            hashlib.sha1("|".join([c, *sorted(colours[j] for j in n)]).encode()).hexdigest()
            for c, n in zip(colours, neighbours, strict=True)
        ]
        if len(set(refined)) == len(set(colours)) and colours[0] != str(int(z[0])):
            break
        colours = refined
    formula = Atoms(z).get_chemical_formula(mode="hill")
    return f"{formula}:{hashlib.sha1('|'.join(sorted(colours)).encode()).hexdigest()[:12]}"


def from_atoms(atoms: Atoms, name: str, order: int) -> Structure:
    """A structure from ASE's ``Atoms``; ``info`` may hold name, group, split, charge, multiplicity."""
    info = atoms.info
    moments = np.abs(atoms.get_initial_magnetic_moments()).sum()
    multiplicity = int(info.get("multiplicity", 0)) or (1 + int(round(moments)) if moments > 0.1 else 0)
    z = atoms.numbers.astype(np.int64)
    group = str(info.get("group", ""))
    if not group:
        group = graph_key(z, atoms.positions) if np.isfinite(atoms.positions).all() else name
    return Structure(
        z,
        np.array(atoms.positions, dtype=np.float64),
        str(info.get("name", name)),
        group,
        str(info.get("split", "")),
        order,
        int(round(float(info.get("charge", 0)))),
        multiplicity,
    )


def read_structures(paths: Sequence[Path]) -> list[Structure]:
    """Structures of all files in order. A ``.tar.bz2`` is QM9's archive, a ``.npz.xz`` the QM9 geometry table.

    Raises:
        UserError: a file is missing, empty or unreadable, or a name occurs twice.
    """
    out: list[Structure] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        n = len(out)
        if path.name.endswith(".tar.bz2") or path.name.endswith(".npz.xz"):
            from schnorb_t.reference import qm9

            out.extend(qm9.structures(path, first_order=n))
        else:
            out.extend(_read_with_ase(path, n))
        if len(out) == n:
            raise UserError(f"{path}: holds no structure")
    name, times = Counter(s.name for s in out).most_common(1)[0] if out else ("", 0)
    if times > 1:
        raise UserError(f"{', '.join(map(str, paths))}: {times} structures are called {name!r}; names must be unique")
    return out


def _read_with_ase(path: Path, first_order: int) -> list[Structure]:
    from ase.io import read

    try:
        frames = read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty") from None
        raise UserError(f"{path}: ASE cannot read structures from it ({type(error).__name__}: {error})") from None
    return [from_atoms(atoms, f"{path.stem}:{i}", first_order + i) for i, atoms in enumerate(frames)]


def fault_of(structure: Structure, elements: Sequence[int] | None = None) -> str:
    """Why a structure cannot be worked on at all, ``""`` if it can.

    Args:
        structure: to check.
        elements: atomic numbers that a model or basis knows; ``None`` allows all.
    """
    z, x = structure.atomic_numbers, structure.positions
    if len(z) == 0:
        return "has no atoms"
    if not np.isfinite(x).all():
        return f"position of atom {int(np.argwhere(~np.isfinite(x))[0, 0])} is NaN or infinite"
    unknown = sorted({int(q) for q in z if not 0 < q < len(chemical_symbols)})
    if unknown:
        return f"atomic number {unknown[0]} is no element"
    if elements is not None and not set(z.tolist()) <= set(elements):
        return f"element {chemical_symbols[min(set(z.tolist()) - set(elements))]} is not known here"
    pairs = cKDTree(x).query_pairs(OVERLAP_DISTANCE, output_type="ndarray")
    if len(pairs):
        i, j = pairs[0]
        return f"atoms {i} and {j} overlap: {np.linalg.norm(x[i] - x[j]):.3f} Å apart"
    if structure.charge:
        return f"has charge {structure.charge}; only neutral molecules are labelled"
    return ""


def open_shell(structure: Structure) -> str:
    """Why a structure has no closed shell, ``""`` if it has (as far as the input tells)."""
    if structure.n_electrons % 2:
        return f"open shell: {structure.n_electrons} electrons"
    if structure.multiplicity > 1:
        return f"open shell: multiplicity {structure.multiplicity}"
    return ""
