"""Every quantity that crosses a room's door, declared once: name, axes, unit, type, padding, meaning.

A batch is a plain ``dict[str, Tensor]`` by these names. Records, journal, columns of the store, its checks, batches,
the file of predictions and the tables of the docs follow from the declarations: a label of a new kind takes one.

Letters in shapes: B molecules, N atoms of all molecules, P ordered pairs of atoms of one molecule within the cutoff,
M the largest orbital count in the batch, A the most atoms of a molecule, K the basis's slots, L the largest number of
large-basis levels kept, E members of an ensemble.

An optional quantity may be absent from any molecule. Absence is a flag, never a special value: ``None`` in a record, no
entry in the journal, ``index/<field>_present`` in a store, ``present(name)`` [B] in a batch, where the places of
molecules without it hold ``fill`` like all padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: Axes. Where a whole number stands in their place, the axis has that length.
MOLECULES, ATOMS, PAIRS, ORBITALS, LEVELS = "molecule", "atom", "pair", "orbital", "level"
LARGE_ORBITALS, SLOTS, ATOM_PLACES, MEMBERS = "large-basis orbital", "slot", "place of an atom", "member"
#: alpha, beta
SPINS = 2

LETTERS = {
    MOLECULES: "B",
    ATOMS: "N",
    PAIRS: "P",
    ORBITALS: "M",
    LEVELS: "L",
    LARGE_ORBITALS: "M_large",
    SLOTS: "K",
} | {
    ATOM_PLACES: "A",
    MEMBERS: "E",
}
TYPES = ("float64", "int64", "bool", "text")
NAN = float("nan")


@dataclass(frozen=True)
class Quantity:
    """One declaration.

    Attributes:
        name: key in a batch.
        axes: of the tensor in a batch, outermost first; ``(MOLECULES, ORBITALS, ORBITALS)`` is [B, M, M]. Per-atom
            quantities begin with ``ATOMS`` and are not padded.
        unit: empty for pure numbers.
        meaning: one line.
        dtype: ``"float64"`` (in a batch after the network: its precision), ``"int64"``, ``"bool"`` or ``"text"``.
        fill: what stands in padding, and in the places of molecules without an optional quantity.
        stored: a record and a store hold it.
        optional: a molecule may lack it.
        field: its name in records and files, where that is another.
        default: of a record.
        stored_as: numpy type in files, if not ``dtype``.
        symmetric: stored as a lower triangle; larger asymmetries are refused.
        batched: ``records_to_batch`` adds it.
        predicted: the file of predictions has it, where a model gives it.
    """

    name: str
    axes: tuple[str | int, ...]
    unit: str
    meaning: str
    dtype: str = "float64"
    fill: float = 0
    stored: bool = False
    optional: bool = False
    field: str = ""
    default: Any = None
    stored_as: str = ""
    symmetric: bool = False
    batched: bool = True
    predicted: bool = False

    def __post_init__(self):
        if not self.field:
            object.__setattr__(self, "field", self.name)
        if not self.stored_as:
            object.__setattr__(self, "stored_as", {"float64": "<f8", "int64": "<i8", "bool": "?"}.get(self.dtype, ""))
        if self.dtype not in TYPES:
            raise ValueError(f"{self.name}: type {self.dtype!r}, expected one of {', '.join(TYPES)}")
        unknown = [a for a in self.axes if isinstance(a, str) and a not in LETTERS]
        if unknown:
            raise ValueError(f"{self.name}: unknown axis {unknown[0]!r}; there are {', '.join(LETTERS)}")
        if self.stored and (self.axes[0] not in (MOLECULES, ATOMS) or {PAIRS, SLOTS, MEMBERS} & set(self.axes)):
            raise ValueError(
                f"{self.name}: only quantities of molecules and their atoms can be stored, not {self.axes}"
            )
        if len([a for a in self.record_axes if a in (LEVELS, LARGE_ORBITALS)]) > 1:
            raise ValueError(f"{self.name}: at most one axis of levels or large-basis orbitals can be stored")
        if self.symmetric and self.record_axes != (ORBITALS, ORBITALS):
            raise ValueError(f"{self.name}: only orbital x orbital matrices are stored as triangles")

    @property
    def shape(self) -> str:
        """Shape and type in a batch, e.g. ``"[N, 3]"``, ``"[B] int64"``."""
        letters = ", ".join(LETTERS.get(a, a) if isinstance(a, str) else str(a) for a in self.axes)
        return f"[{letters}]" + ("" if self.dtype == "float64" else f" {self.dtype}")

    @cached_property
    def record_axes(self) -> tuple[str | int, ...]:
        """Axes in one molecule's record."""
        return tuple(a for a in self.axes if a != MOLECULES)

    @cached_property
    def tail(self) -> tuple[int, ...]:
        """Lengths of the last axes that are the same in every molecule."""
        out: list[int] = []
        for axis in reversed(self.record_axes):
            if not isinstance(axis, int):
                break
            out.insert(0, axis)
        return tuple(out)

    @cached_property
    def ragged(self) -> bool:
        """Its size depends on the molecule, so that a file needs offsets."""
        return len(self.tail) < len(self.record_axes)

    def record_shape(self, n_atoms: int, n_orbitals: int) -> tuple[int | None, ...]:
        """Of one molecule; ``None`` where any length will do."""
        known: dict[str | int, int] = {ATOMS: n_atoms, ORBITALS: n_orbitals}
        return tuple(a if isinstance(a, int) else known.get(a) for a in self.record_axes)


#: All declarations by name.
KEYS: dict[str, Quantity] = {}
_stored: tuple[Quantity, ...] = ()


def declare(quantity: Quantity) -> str:
    """Make a quantity known; returns its name.

    Raises:
        ValueError: its name or field is taken.
    """
    global _stored
    if quantity.name in KEYS or (quantity.stored and quantity.field in {q.field for q in _stored}):
        raise ValueError(f"{quantity.name} is declared already")
    KEYS[quantity.name] = quantity
    _stored = tuple(q for q in KEYS.values() if q.stored)
    return quantity.name


@contextmanager
def declared(quantity: Quantity) -> Iterator[Quantity]:
    """``declare`` for the time of a ``with`` block.

    Raises:
        ValueError: see ``declare``.
    """
    global _stored
    declare(quantity)
    try:
        yield quantity
    finally:
        del KEYS[quantity.name]
        _stored = tuple(q for q in KEYS.values() if q.stored)


def stored() -> tuple[Quantity, ...]:
    """What records and stores hold, in the order of a record's arguments."""
    return _stored


def present(name: str) -> str:
    """The key of an optional quantity's flags in a batch, [B] bool: which molecules have it."""
    return f"{name}_present"


def markdown_table(quantities: tuple[Quantity, ...] | None = None) -> str:
    """What is stored (or the given declarations) as a table for the docs."""
    rows = ["| field | axes | unit | type | meaning |", "| --- | --- | --- | --- | --- |"]
    for q in stored() if quantities is None else quantities:
        axes = " × ".join(str(a) for a in q.record_axes) or "one per molecule"
        optional = "; optional" if q.optional else ""
        rows.append(f"| `{q.field}` | {axes} | {q.unit} | {q.dtype} | {q.meaning}{optional} |")
    return "\n".join(rows)


# ---- what a record holds, in the order of its arguments ------------------------------------------------------------

ATOMIC_NUMBERS = declare(
    Quantity(
        "atomic_numbers",
        (ATOMS,),
        "",
        "atomic number of each atom, molecule after molecule",
        dtype="int64",
        stored=True,
        stored_as="u1",
        predicted=True,
    )
)
POSITIONS = declare(Quantity("positions", (ATOMS, 3), "Å", "Cartesian positions", stored=True, predicted=True))
HAMILTONIAN = declare(
    Quantity(
        "hamiltonian",
        (MOLECULES, ORBITALS, ORBITALS),
        "Eh",
        "Hamiltonian (Kohn-Sham matrix); 0 in padding",
        stored=True,
        optional=True,
        symmetric=True,
        predicted=True,
    )
)
OVERLAP = declare(
    Quantity(
        "overlap",
        (MOLECULES, ORBITALS, ORBITALS),
        "",
        "overlap; 0 in padding",
        stored=True,
        optional=True,
        symmetric=True,
        predicted=True,
    )
)
LARGE_BASIS_ENERGIES = declare(
    Quantity(
        "orbital_energies_large_basis",
        (MOLECULES, LEVELS),
        "Eh",
        "orbital energies of the large-basis calculation, ascending; NaN in padding",
        fill=NAN,
        stored=True,
        optional=True,
        field="large_basis_energies",
    )
)
TOTAL_ENERGY = declare(
    Quantity(
        "total_energy",
        (MOLECULES,),
        "Eh",
        "total energy of the large-basis calculation",
        fill=NAN,
        stored=True,
        optional=True,
        predicted=True,
    )
)
N_ELECTRONS = declare(
    Quantity(
        "n_electrons",
        (MOLECULES,),
        "",
        "electrons that the basis's orbitals hold, so without a core that it leaves out",
        dtype="int64",
        stored=True,
    )
)
NAME = declare(Quantity("name", (MOLECULES,), "", "unique in a file", dtype="text", stored=True, batched=False))
GROUP = declare(
    Quantity(
        "group",
        (MOLECULES,),
        "",
        "identity of the molecule; all its geometries share it",
        dtype="text",
        stored=True,
        batched=False,
    )
)
SPLIT = declare(
    Quantity(
        "split",
        (MOLECULES,),
        "",
        "train, val, test or nothing",
        dtype="text",
        stored=True,
        default="",
        batched=False,
    )
)
ORDER = declare(
    Quantity(
        "order",
        (MOLECULES,),
        "",
        "place in the input; a file is sorted by it",
        dtype="int64",
        stored=True,
        default=0,
        batched=False,
    )
)
CONTRACTION = declare(
    Quantity(
        "contraction",
        (MOLECULES, LARGE_ORBITALS, ORBITALS),
        "",
        "the projection A from the large basis",
        stored=True,
        optional=True,
        batched=False,
    )
)
TOTAL_CHARGE = declare(
    Quantity("charge", (MOLECULES,), "e", "total charge of the molecule", dtype="int64", stored=True, optional=True)
)
N_UNPAIRED = declare(
    Quantity(
        "n_unpaired",
        (MOLECULES,),
        "",
        "unpaired electrons, spin multiplicity less one",
        dtype="int64",
        stored=True,
        optional=True,
    )
)
FORCES = declare(
    Quantity(
        "forces",
        (ATOMS, 3),
        "Eh/Bohr",
        "minus the gradient of the total energy",
        fill=NAN,
        stored=True,
        optional=True,
        predicted=True,
    )
)
DIPOLE = declare(
    Quantity("dipole", (MOLECULES, 3), "e*Bohr", "dipole moment", fill=NAN, stored=True, optional=True, predicted=True)
)
CHARGES = declare(
    Quantity(
        "charges",
        (ATOMS,),
        "e",
        "partial charges",
        fill=NAN,
        stored=True,
        optional=True,
        field="partial_charges",
        predicted=True,
    )
)
MASSES = declare(
    Quantity(
        "masses",
        (ATOMS,),
        "u",
        "mass of each atom, where the input names isotopes",
        fill=NAN,
        stored=True,
        optional=True,
        batched=False,
        predicted=True,
    )
)

# ---- what a batch holds beside -------------------------------------------------------------------------------------

MOLECULE = declare(
    Quantity("molecule", (ATOMS,), "", "which molecule of the batch an atom belongs to, ascending", dtype="int64")
)
PAIR_INDEX = declare(
    Quantity(
        "pair_index", (2, PAIRS), "", "ordered pairs (i, j), i != j; (j, i) is there whenever (i, j) is", dtype="int64"
    )
)
PAIR_REVERSE = declare(Quantity("pair_reverse", (PAIRS,), "", "place of the pair (j, i)", dtype="int64"))
PAIR_PLACE = declare(
    Quantity(
        "pair_place",
        (PAIRS,),
        "",
        "place of the pair in [B, A, A] flattened, A the most atoms of a molecule",
        dtype="int64",
    )
)
ATOM_PLACE = declare(Quantity("atom_place", (ATOMS,), "", "place of the atom in [B, A] flattened", dtype="int64"))
ATOM_MASK = declare(
    Quantity("atom_mask", (MOLECULES, ATOM_PLACES), "", "True where a molecule has an atom", dtype="bool")
)
N_ATOMS = declare(Quantity("n_atoms", (MOLECULES,), "", "atoms per molecule", dtype="int64"))
N_OCCUPIED = declare(Quantity("n_occupied", (MOLECULES,), "", "doubly occupied orbitals per molecule", dtype="int64"))
ORBITAL_MASK = declare(
    Quantity("orbital_mask", (MOLECULES, ORBITALS), "", "True where an orbital is real, False in padding", dtype="bool")
)
ORBITAL_INDEX = declare(
    Quantity(
        "orbital_index",
        (ATOMS, SLOTS),
        "",
        "place of an atom's slot in its molecule's matrix; M where unfilled",
        dtype="int64",
    )
)
ORBITAL_ENERGIES = declare(
    Quantity(
        "orbital_energies",
        (MOLECULES, ORBITALS),
        "Eh",
        "eigenvalues of (H, S), ascending; padding last",
        predicted=True,
    )
)
ORBITAL_ENERGY_SPREAD = declare(
    Quantity(
        "orbital_energy_spread",
        (MOLECULES, ORBITALS),
        "Eh",
        "standard deviation of each level over an ensemble or a model's draws",
        predicted=True,
    )
)
ORBITAL_COEFFICIENTS = declare(
    Quantity("orbital_coefficients", (MOLECULES, ORBITALS, ORBITALS), "", "columns are orbitals, C^T S C = 1")
)
OCCUPATIONS = declare(Quantity("occupations", (MOLECULES, ORBITALS), "e", "electrons per orbital, 0..2"))
DENSITY = declare(
    Quantity("density", (MOLECULES, ORBITALS, ORBITALS), "", "one-particle density matrix C diag(occ) C^T")
)
INDEX = declare(Quantity("index", (MOLECULES,), "", "index of the molecule in its file or list", dtype="int64"))
PRIOR_HAMILTONIAN = declare(
    Quantity(
        "prior_hamiltonian",
        (MOLECULES, ORBITALS, ORBITALS),
        "Eh",
        "Hamiltonian of the prior method in its own basis; 0 in padding",
    )
)
PRIOR_OVERLAP = declare(Quantity("prior_overlap", (MOLECULES, ORBITALS, ORBITALS), "", "its overlap; 0 in padding"))
PRIOR_DENSITY = declare(
    Quantity("prior_density", (MOLECULES, ORBITALS, ORBITALS), "", "its density matrix; 0 in padding")
)
MEMBER_HAMILTONIAN = declare(
    Quantity(
        "member_hamiltonian",
        (MEMBERS, MOLECULES, ORBITALS, ORBITALS),
        "Eh",
        "Hamiltonian of each member of an ensemble; 0 in padding",
    )
)
MEMBER_OVERLAP = declare(
    Quantity("member_overlap", (MEMBERS, MOLECULES, ORBITALS, ORBITALS), "", "overlap of each member; 0 in padding")
)
ORTHOGONAL_HAMILTONIAN = declare(
    Quantity(
        "orthogonal_hamiltonian",
        (MOLECULES, ORBITALS, ORBITALS),
        "Eh",
        "a model's H in Löwdin's orthogonal functions, of models that learn it there; 0 in padding",
    )
)
OVERLAP_ROOT = declare(
    Quantity("overlap_root", (MOLECULES, ORBITALS, ORBITALS), "", "S^(1/2) of such a model's S; 0 in padding")
)
OVERLAP_INVERSE_ROOT = declare(
    Quantity("overlap_inverse_root", (MOLECULES, ORBITALS, ORBITALS), "", "S^(-1/2) of such a model's S; 0 in padding")
)
HAMILTONIAN_DEVIATIONS = declare(
    Quantity(
        "hamiltonian_deviations",
        (MEMBERS, MOLECULES, ORBITALS, ORBITALS),
        "Eh",
        "what draws of a model's last layer add to its learned H (``nn.doubt``); 0 in padding",
    )
)
