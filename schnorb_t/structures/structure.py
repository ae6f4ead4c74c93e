"""One molecule as the package takes it in, with everything that its source says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses, chemical_symbols

from schnorb_t.basis import all_electrons

from .electrons import Statement, electrons, statements


@dataclass(frozen=True, eq=False)
class Structure:
    """One molecule.

    Attributes:
        atomic_numbers: [n] int64; 0 for ghost and dummy atoms.
        positions: [n, 3] float64, Å.
        name: of the structure, ``""`` where the source gives none.
        group: identity of the molecule: all its geometries share it; ``""`` where the source gives none.
        split: ``"train"``, ``"val"``, ``"test"`` or ``""``.
        order: place in the input.
        charge: of the molecule, e; 0 where the source does not say.
        multiplicity: 2S + 1; 0 where the source does not say.
        charge_from: under which name the source says the charge, ``""`` if nowhere.
        multiplicity_from: likewise.
        cell: [3, 3], Å, rows are lattice vectors, or ``None``.
        pbc: along which lattice vectors the source is periodic.
        symbols: [n], as the source writes its elements (``"D"``), or ``None`` where they are the usual ones.
        masses: [n], atomic mass units; NaN where the element's usual mass is meant; ``None`` where it is everywhere.
        file: where it comes from, ``""`` if from memory.
        index: place in that file.
        faults: what could not be understood in reading it; each a sentence without subject.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    name: str = ""
    group: str = ""
    split: str = ""
    order: int = 0
    charge: int = 0
    multiplicity: int = 0
    charge_from: str = ""
    multiplicity_from: str = ""
    cell: np.ndarray | None = None
    pbc: tuple[bool, bool, bool] = (False, False, False)
    symbols: tuple[str, ...] | None = None
    masses: np.ndarray | None = None
    file: str = ""
    index: int = 0
    faults: tuple[str, ...] = field(default=())

    @property
    def numbers(self) -> np.ndarray:
        """[n] int64, ``atomic_numbers`` by the name that ASE has for them."""
        return self.atomic_numbers

    @property
    def n_electrons(self) -> int:
        """All electrons of the neutral atoms less the charge; core electrons included."""
        return all_electrons(self.atomic_numbers, self.charge)

    @property
    def unpaired_electrons(self) -> int:
        """2S; where the source does not say the multiplicity, the fewest that the number of electrons allows."""
        return self.multiplicity - 1 if self.multiplicity else self.n_electrons % 2

    @property
    def formula(self) -> str:
        """In Hill's order; isotopes count as their elements."""
        return self.to_atoms().get_chemical_formula(mode="hill")

    @property
    def isotope_masses(self) -> np.ndarray | None:
        """[n], atomic mass units, of all atoms; ``None`` where the source names no isotope."""
        if self.masses is None:
            return None
        return np.where(np.isnan(self.masses), atomic_masses[self.atomic_numbers], self.masses)

    def to_atoms(self) -> Atoms:
        """ASE's atoms, with name, group, split, charge and multiplicity in ``info`` where they are known."""
        known = {"name": self.name, "group": self.group, "split": self.split}
        info: dict[str, Any] = {key: value for key, value in known.items() if value}
        if self.charge_from or self.charge:
            info["charge"] = self.charge
        if self.multiplicity:
            info["multiplicity"] = self.multiplicity
        atoms = Atoms(self.atomic_numbers, self.positions, cell=self.cell, pbc=self.pbc, info=info)
        if self.masses is not None:
            atoms.set_masses(self.isotope_masses)
        return atoms

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def __repr__(self) -> str:
        return f"Structure({', '.join(filter(None, [self.formula, self.name and repr(self.name)]))})"


def build(
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    said: Sequence[Statement] = (),
    info: Mapping[str, Any] | None = None,
    **more: Any,
) -> Structure:
    """A structure from what a reader found.

    Args:
        atomic_numbers: [n].
        positions: [n, 3], Å.
        said: what the source says of charge and spin.
        info: may hold name, group, split.
        more: other attributes of ``Structure``.
    """
    z = np.asarray(atomic_numbers, dtype=np.int64)
    info = info or {}
    e = electrons(said, int(z.sum()))
    faults = tuple(more.pop("faults", ())) + ((e.fault,) if e.fault else ())
    names = {key: str(info[key]) for key in ("name", "group", "split") if info.get(key) is not None}
    return Structure(
        z,
        np.array(positions, dtype=np.float64).reshape(-1, 3),
        charge=e.charge,
        multiplicity=e.multiplicity,
        charge_from=e.charge_from,
        multiplicity_from=e.multiplicity_from,
        faults=faults,
        **{**names, **more},
    )


def written_symbols(symbols: Sequence[str], atomic_numbers: Sequence[int] | np.ndarray) -> tuple[str, ...] | None:
    """``Structure.symbols`` from what a file writes; ``None`` where these are elements' symbols or numbers."""
    for symbol, z in zip(symbols, atomic_numbers, strict=True):
        if z == 0 or (symbol.capitalize() != chemical_symbols[z] and not symbol.isdecimal()):
            return tuple(symbols)
    return None


def statements_of_atoms(atoms: Atoms) -> list[Statement]:
    """What ASE's atoms say of charge and spin: ``info``, columns, results read from a file, options of a calculator."""
    out = statements(atoms.info, atoms.arrays)
    calculator = atoms.calc
    if isinstance(calculator, SinglePointCalculator):
        results = {k: v for k, v in calculator.results.items() if v is not None}
        columns = {k: v for k, v in results.items() if np.ndim(v)}
        out += statements({k: v for k, v in results.items() if k not in columns}, columns)
    if calculator is not None:
        out += statements(getattr(calculator, "parameters", None) or {})
    return out


def as_structure(
    atoms: Atoms | Structure, name: str = "", order: int = 0, said: Sequence[Statement] = (), **more: Any
) -> Structure:
    """A structure from ASE's ``Atoms``; a ``Structure`` is returned as it is.

    Args:
        atoms: positions in Å. ``info`` may hold name, group, split, and charge and spin under any usual name; columns
            of initial charges and magnetic moments count too.
        name: where ``info`` has none.
        order: place in the input.
        said: what else is known of charge and spin.
        more: other attributes of ``Structure``.
    """
    if isinstance(atoms, Structure):
        return atoms
    from .geometry import faults_of_unit

    masses = None
    if "masses" in atoms.arrays:
        masses = np.asarray(atoms.arrays["masses"], dtype=float)
    cell = np.array(atoms.cell) if atoms.cell.rank else None
    return build(
        atoms.numbers,
        atoms.positions,
        [*said, *statements_of_atoms(atoms)],
        {"name": name, **atoms.info},
        order=order,
        cell=cell,
        pbc=tuple(map(bool, atoms.pbc)),
        masses=masses,
        faults=(*more.pop("faults", ()), *faults_of_unit(atoms.info)),
        **more,
    )


def from_atoms(atoms: Atoms, name: str = "", order: int = 0) -> Structure:
    """``as_structure``, with the molecule's graph as the group where ``info`` has none, as labels want it."""
    return with_group(as_structure(atoms, name, order))


def with_group(structure: Structure) -> Structure:
    """With its ``group``: where it has none, the graph of its bonds (``graph_key``)."""
    from .geometry import graph_key

    if structure.group:
        return structure
    sound = len(structure) and np.isfinite(structure.positions).all()
    group = graph_key(structure.atomic_numbers, structure.positions) if sound else structure.name
    return replace(structure, group=group)


def name_of(structure: Atoms | Structure) -> str:
    """Its name, empty where it has none."""
    return structure.name if isinstance(structure, Structure) else str(structure.info.get("name", ""))


def describe(index: int, structure: Atoms | Structure) -> str:
    """How messages call a structure: 0-based index and its name, if it has one."""
    name = name_of(structure)
    return f"structure {index} ({name})" if name else f"structure {index}"


def symbol_of(structure: Structure, atom: int) -> str:
    """How the source calls an atom."""
    if structure.symbols is not None:
        return structure.symbols[atom]
    z = int(structure.atomic_numbers[atom])
    return chemical_symbols[z] if 0 <= z < len(chemical_symbols) else str(z)
