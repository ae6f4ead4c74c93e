"""Energies and forces that others calculated: extended xyz and numpy files -> records without matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers as NUMBERS
from ase.data import chemical_symbols
from ase.symbols import Symbols

from schnorb_t.basis import Basis, core_shells, electrons_in, free_atom_electrons
from schnorb_t.data.header import Header
from schnorb_t.data.records import MoleculeRecord
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, brief
from schnorb_t.structures import Structure, as_structure, fault_of
from schnorb_t.units import BOHR, HARTREE, KCAL_PER_MOL

#: Eh per unit of energy.
UNITS = {"eV": 1 / HARTREE, "kcal/mol": 1 / KCAL_PER_MOL, "Eh": 1.0}
#: What stores of energies without matrices have as their target.
TARGET = "energies"
#: Names of arrays in numpy files of molecular dynamics, by what they hold.
_ARRAYS = {
    "numbers": ("z", "nuclear_charges", "atomic_numbers", "Z"),
    "positions": ("coords", "R", "positions", "coordinates"),
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
}


@dataclass(frozen=True)
class Labelled:
    """One structure with its energy (Eh), its forces [n, 3] (Eh/Bohr), or both."""

    structure: Structure
    name: str
    group: str
    split: str
    energy: float | None
    forces: np.ndarray | None

    @property
    def elements(self) -> set[int]:
        """Atomic numbers."""
        return {int(z) for z in self.structure.atomic_numbers}

    def labelled(self, basis: Basis, order: int) -> MoleculeRecord:
        """As a store holds it."""
        z = np.asarray(self.structure.atomic_numbers, dtype=np.int64)
        return MoleculeRecord(
            atomic_numbers=z,
            positions=np.asarray(self.structure.positions, dtype=np.float64),
            total_energy=self.energy,
            forces=self.forces,
            n_electrons=basis.n_electrons(z),
            name=self.name,
            group=self.group,
            split=self.split,
            order=order,
        )


def energies_basis(elements: set[int]) -> Basis:
    """Valence shells of the elements. No matrix stands in them: they tell a store which elements it holds."""
    shells, core = {}, {}
    for z in sorted(elements):
        inner = core_shells(z)
        outer = {l: n - inner.get(l, 0) * (4 * l + 2) for l, n in free_atom_electrons(z).items()}
        shells[z] = tuple(sorted({0, *(l for l, n in outer.items() if n > 0)}))
        if electrons_in(inner):
            core[z] = electrons_in(inner)
    return Basis("valence", shells, core=core)


def energies_header(elements: set[int], level: str, path: Path) -> Header:
    """Header of a store of energies; one that exists keeps its elements and its level where none is given.

    Raises:
        UserError: the file holds something else, or lacks an element.
    """
    if not path.is_file():
        return Header(energies_basis(elements), TARGET, {"method": level or "unknown"}, {})
    with Store(path) as store:
        header = store.header
    if header.target != TARGET:
        raise UserError(f"{path}: holds matrices ({header.target}); choose another file for energies alone")
    if missing := elements - {*header.basis.elements}:
        names = ", ".join(chemical_symbols[z] for z in sorted(missing))
        raise UserError(f"{path}: was begun without {names}; write all structures at once, or to another file")
    if level and level != header.level.get("method"):
        raise UserError(f"{path}: holds energies of {header.level.get('method')}, not of {level}; choose another file")
    return header


def read_energies(
    path: Path, split: str = "", prefix: str = "", unit: str = "", energy: str = "energy", forces: str = "forces"
) -> Iterator[Labelled]:
    """Structures of one file with their energies and forces.

    Args:
        path: ``.npz``, or anything that ASE reads with energies (extended xyz).
        split: for structures that the file gives none.
        prefix: begins the arrays of a numpy file.
        unit: of energies, a key of ``UNITS``; forces are per Å.
        energy, forces: their names in extended xyz.

    Raises:
        UserError: names file, structure and remedy.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".npz":
        yield from _read_numpy(path, split, prefix, unit)
    else:
        yield from _read_xyz(path, split, unit or "eV", energy, forces)


def _checked(path: Path, index: int, found: Labelled) -> Labelled:
    s = found.structure
    if fault := fault_of(s):
        raise UserError(f"{path}, structure {index}: {fault}")
    if found.energy is None and found.forces is None:
        raise UserError(f"{path}, structure {index}: has neither energy nor forces; --energy and --forces name them")
    for what, value in (("energy", found.energy), ("forces", found.forces)):
        if value is not None and not np.isfinite(value).all():
            raise UserError(f"{path}, structure {index}: its {what} holds NaN or infinity; leave that structure out")
    if found.forces is not None and found.forces.shape != s.positions.shape:
        raise UserError(
            f"{path}, structure {index}: forces of shape {list(found.forces.shape)} for {len(s.positions)} atoms"
        )
    return found


def _read_xyz(path: Path, split: str, unit: str, energy: str, forces: str) -> Iterator[Labelled]:
    from ase.io import iread

    factor = UNITS[unit]
    try:
        for index, atoms in enumerate(iread(str(path), index=":")):
            known = {**atoms.info, **atoms.arrays, **(atoms.calc.results if atoms.calc is not None else {})}
            e, f = known.get(energy), known.get(forces)
            s = as_structure(atoms)
            name = s.name or f"{path.stem}:{index:06d}"
            yield _checked(
                path,
                index,
                Labelled(
                    s,
                    name,
                    s.group or name,
                    s.split or split,
                    None if e is None else float(e) * factor,
                    None if f is None else np.asarray(f, dtype=np.float64) * factor * BOHR,
                ),
            )
    except UserError:
        raise
    except Exception as error:  # whatever ASE's readers raise for a broken file
        raise UserError(f"{path}: cannot be read as extended xyz ({brief(error)})") from None


def _array(path: Path, file: Any, prefix: str, what: str) -> np.ndarray | None:
    for start in dict.fromkeys((prefix, "")):
        for name in _ARRAYS[what]:
            if start + name in file and (start == prefix or what == "numbers"):
                return np.asarray(file[start + name])
    return None


def _read_numpy(path: Path, split: str, prefix: str, unit: str) -> Iterator[Labelled]:
    try:
        file = np.load(path, allow_pickle=False)
        z, r, e, f = (_array(path, file, prefix, what) for what in _ARRAYS)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as a numpy archive ({brief(error)})") from None
    if z is None or r is None or r.ndim != 3 or r.shape[2] != 3:
        there = ", ".join(file.files) or "nothing"
        raise UserError(
            f"{path}: no atomic numbers and positions [frames, atoms, 3] under the prefix {prefix!r}; it holds {there}"
        )
    if not unit:
        raise UserError(f"{path}: an npz file does not say its unit; give --unit {', '.join(UNITS)}")
    if z.dtype.kind in "US":
        z = np.array([NUMBERS[str(s)] for s in z.ravel()]).reshape(z.shape)
    n = len(r)
    fits = z.shape in ((r.shape[1],), r.shape[:2])
    fits &= all(x is None or len(x) == n for x in (e, f)) and (f is None or f.shape == r.shape)
    if not fits:
        shapes = {what: list(np.shape(x)) for what, x in zip(_ARRAYS, (z, r, e, f), strict=True) if x is not None}
        raise UserError(f"{path}: its arrays do not fit together: {shapes}")
    factor, one = UNITS[unit], z.ndim == 1
    for k in range(n):
        real = slice(None) if one else z[k] > 0
        numbers, positions = (z if one else z[k][real]).astype(np.int64), r[k][real].astype(np.float64)
        name = f"{path.stem}:{prefix}{k:06d}"
        # of different molecules the file does not tell which frames are of one: those of one composition stay together
        group = name if one else Symbols(numbers).get_chemical_formula()
        yield _checked(
            path,
            k,
            Labelled(
                Structure(numbers, positions, name=name, file=str(path), index=k),
                name,
                group,
                split,
                None if e is None else float(np.asarray(e[k]).item()) * factor,
                None if f is None else f[k][real].astype(np.float64) * factor * BOHR,
            ),
        )
