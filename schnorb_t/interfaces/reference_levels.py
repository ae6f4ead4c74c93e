"""Reference levels of predicted molecules, out of a store of labels that holds the same molecules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from ase import Atoms

from schnorb_t.data.duplicates import N_INVARIANTS, TOLERANCE, composition_code, geometry_invariants, same_geometry
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.structures import Structure, as_structure, describe, name_of


@dataclass(frozen=True)
class ReferenceLevels:
    """Levels of a reference calculation of one molecule.

    Attributes:
        energies: [L], Eh, ascending: of the large basis where there are any, else of the labels' own basis.
        label: level of theory, e.g. ``"B3LYP/def2-SVP"``.
        basis_energies: [m], Eh, ascending: eigenvalues of the labels' H and S, as many as the prediction has levels;
            None where the labels stand in another basis.
        basis_label: what to call those.
    """

    energies: np.ndarray
    label: str
    basis_energies: np.ndarray | None = None
    basis_label: str = ""


def level_name(level: Mapping[str, Any]) -> str:
    """``"B3LYP/def2-SVP"`` of a store's ``level``."""
    parts = [str(level[k]) for k in ("functional", "basis") if level.get(k)]
    return "/".join(parts) or "reference"


class ReferenceStore:
    """Finds molecules in a store of labels, by name or by structure, and reads their levels.

    Args:
        path: of the store.

    Raises:
        UserError: see ``Store``.
    """

    def __init__(self, path: str | Path):
        self.store = Store(path)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {str(name): row for row, name in enumerate(self.store.names)}

    @cached_property
    def _invariants(self) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """Composition and charge -> rows of the store [k] and their invariants [k, 6], for those asked for before."""
        return {}

    def _geometry(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        packed = self.store.packed(row)
        return packed.atomic_numbers.astype(np.int64), packed.positions

    def _n_electrons(self, atomic_numbers: np.ndarray, charge: int = 0) -> int:
        """What the labels' orbitals hold in a molecule; -1 where an element is unknown to them."""
        known = set(atomic_numbers.tolist()) <= set(self.store.basis.elements)
        return self.store.basis.n_electrons(atomic_numbers, charge) if known else -1

    def _find_structure(self, atoms: Atoms | Structure) -> int | None:
        code, charge = composition_code(atoms.numbers), as_structure(atoms).charge
        if (code, charge) not in self._invariants:
            store = self.store
            electrons = self._n_electrons(atoms.numbers, charge)
            same_size = np.flatnonzero((store.n_atoms == len(atoms)) & (store.n_electrons == electrons))
            found = [int(row) for row in same_size if composition_code(store.atomic_numbers_of(int(row))) == code]
            invariants = [geometry_invariants(*self._geometry(row)) for row in found]
            self._invariants[code, charge] = (
                np.array(found, dtype=np.int64),
                np.array(invariants).reshape(-1, N_INVARIANTS),
            )
        rows, known = self._invariants[code, charge]
        wanted = geometry_invariants(atoms.numbers, atoms.positions)
        for row in rows[(np.abs(known - wanted) <= TOLERANCE).all(axis=1)]:
            if same_geometry((atoms.numbers, atoms.positions), self._geometry(row)):
                return int(row)
        return None

    def find(self, index: int, atoms: Atoms | Structure, file: str | Path | None = None) -> int:
        """Row of the store that holds this molecule: the one of its name, else one of the same structure.

        Rotation, reflection, translation and the order of the atoms do not matter to levels.

        Args:
            index: what messages call the structure.
            atoms: positions in Å; ``info["name"]`` is its name.
            file: where it comes from, for messages.

        Raises:
            UserError: not there; or the molecule of its name has other elements, another charge or another geometry.
        """
        path = self.store.path
        who = f"{file}, {describe(index, atoms)}" if file else describe(index, atoms)
        row = self._rows.get(name_of(atoms))
        if row is None:
            row = self._find_structure(atoms)
            if row is None:
                raise UserError(
                    f"{who}: {path} holds no molecule of this name and none of this structure (distances within "
                    f"{TOLERANCE} Å); give a reference that holds it, or leave --reference out"
                )
        z, positions = self._geometry(row)
        remedy = "give the geometry that was labelled, or another name"
        if not np.array_equal(np.sort(z), np.sort(atoms.numbers)):
            theirs = Atoms(z).get_chemical_formula(mode="hill")
            raise UserError(
                f"{who}: is {as_structure(atoms).formula}, and the molecule of this name in {path} is "
                f"{theirs}; {remedy}"
            )
        if not same_geometry((atoms.numbers, atoms.positions), (z, positions)):
            raise UserError(
                f"{who}: the molecule of this name in {path} has other positions (interatomic distances differ by more "
                f"than {TOLERANCE} Å); {remedy}"
            )
        charge, asked = self._n_electrons(z) - int(self.store.n_electrons[row]), as_structure(atoms).charge
        if charge != asked:
            raise UserError(
                f"{who}: {path} holds it with charge {charge:+d}, and its charge here is {asked:+d}; {remedy}"
            )
        return row

    def levels(self, row: int, n_orbitals: int) -> ReferenceLevels:
        """Levels of one molecule.

        Args:
            row: of the store.
            n_orbitals: of the prediction; where the labels' basis has another number, their own levels are left out.
        """
        record, basis = self.store[row], self.store.basis.name
        in_basis = scipy.linalg.eigvalsh(record.hamiltonian, record.overlap)
        name = level_name(self.store.level)
        large = record.large_basis_energies
        energies, label = (large, name) if len(large) else (in_basis, f"{name}, {basis}")
        return ReferenceLevels(energies, label, in_basis if len(in_basis) == n_orbitals else None, f"{name}, {basis}")


def references(
    path: str | Path | None, structures: Mapping[int, Atoms | Structure], file: str | Path | None = None
) -> Callable[[int, int], ReferenceLevels | None]:
    """Find all structures in a store before any of them is needed.

    Args:
        path: of the store; without one every structure has no reference.
        structures: index -> structure.
        file: where they come from, for messages.

    Returns:
        (index, number of orbitals of its prediction) -> its reference, see ``ReferenceStore.levels``.

    Raises:
        UserError: as ``ReferenceStore`` and its ``find``.
    """
    if path is None:
        return lambda index, n_orbitals: None
    store = ReferenceStore(path)
    rows = {index: store.find(index, atoms, file) for index, atoms in structures.items()}
    return lambda index, n_orbitals: store.levels(rows[index], n_orbitals)
