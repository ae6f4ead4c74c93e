"""Basis: element -> shells. The one authority on which orbitals an atom has and in which order they stand.

Order, everywhere inside the package and on disk: atoms in input order; within an atom shells by l, then as
listed; within a shell m = -l..l of standard real spherical harmonics (p: y,z,x; d: xy,yz,z2,xz,x2-y2).

A network sees every atom through the same *slots*: the union of all elements' shells, l by l. Hydrogen fills
1 of the 5 slots (s s p) of a minimal C/H/N/O basis. An element's orbitals are its filled slots, in order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

L_LETTERS = "spdfgh"

#: (first atomic number, shells of each l (s, p, d, f) in the chemical core from there on): the noble gas before, from
#: gallium, indium and thallium on also the filled d shell, from hafnium on the filled f shell.
_CORES = (
    (3, (1,)),
    (11, (2, 1)),
    (19, (3, 2)),
    (31, (3, 2, 1)),
    (37, (4, 3, 1)),
    (49, (4, 3, 2)),
    (55, (5, 4, 2)),
    (72, (5, 4, 2, 1)),
    (81, (5, 4, 3, 1)),
    (87, (6, 5, 3, 1)),
)
#: (n, l) of shells as they fill.
_MADELUNG = sorted(((n, l) for n in range(1, 8) for l in range(min(n, 4))), key=lambda nl: (sum(nl), nl[0]))


def all_electrons(atomic_numbers: Iterable[int], charge: int = 0) -> int:
    """Electrons of a molecule of total ``charge`` (e), cores included, whatever a basis leaves out."""
    return int(np.sum(np.asarray(list(atomic_numbers), dtype=np.int64))) - charge


def core_shells(atomic_number: int) -> dict[int, int]:
    """l -> shells of the chemical core of an element, e.g. ``{0: 2, 1: 1}`` of chlorine; empty for H and He."""
    shells: tuple[int, ...] = ()
    for first, those in _CORES:
        if atomic_number >= first:
            shells = those
    return dict(enumerate(shells))


def electrons_in(shells: dict[int, int]) -> int:
    """Electrons that fill shells, given as l -> how many."""
    return sum(n * (4 * l + 2) for l, n in shells.items())


def free_atom_electrons(atomic_number: int) -> dict[int, int]:
    """l -> electrons of the neutral atom, core included, filled in Madelung's order."""
    left = atomic_number
    out: dict[int, int] = {}
    for _, l in _MADELUNG:
        electrons = min(left, 4 * l + 2)
        left -= electrons
        if electrons:
            out[l] = out.get(l, 0) + electrons
    return out


@dataclass(frozen=True)
class GaussianShell:
    """One contracted shell: R(r) = sum_k c_k N_k r^l exp(-a_k r^2), N_k normalising each primitive.

    Attributes:
        l: angular momentum.
        exponents: a_k in 1/Bohr^2.
        coefficients: c_k of normalised primitives; the contraction is normalised again where it is used.
    """

    l: int
    exponents: tuple[float, ...]
    coefficients: tuple[float, ...]

    def __post_init__(self):
        if len(self.exponents) != len(self.coefficients) or not self.exponents:
            raise ValueError(f"a shell needs one coefficient per exponent, got {self!r}")

    def normalised_coefficients(self) -> np.ndarray:
        """[k] coefficients of normalised primitives for which the contracted function is normalised.

        Overlap of normalised primitives: (2 sqrt(a b) / (a + b))^(l + 3/2).
        """
        a, c = np.array(self.exponents), np.array(self.coefficients)
        overlap = (2 * np.sqrt(np.outer(a, a)) / np.add.outer(a, a)) ** (self.l + 1.5)
        return c / np.sqrt(c @ overlap @ c)

    def radial_coefficients(self) -> np.ndarray:
        """[k] c of R(r) = r^l sum_k c_k exp(-a_k r^2) for which int R^2 r^2 dr = 1."""
        a, power = np.array(self.exponents), self.l + 1.5
        return self.normalised_coefficients() * np.sqrt(2 * (2 * a) ** power / math.gamma(power))


@dataclass(frozen=True)
class Basis:
    """Shells per element.

    Attributes:
        name: what to print, e.g. ``"wqao"`` or ``"def2-SVP"``.
        shells: atomic number -> the l of its shells, ascending, e.g. ``{6: (0, 0, 1)}``.
        functions: atomic number -> contracted Gaussians in the same order, or ``None`` if unknown. For a projected
            basis (IAO, QUAMBO, wqao) these are the free-atom functions it starts from.
        projected: True if the functions are deformed by their surroundings, so that S is not a two-centre quantity.
        core: atomic number -> electrons that the shells leave out (valence-only methods such as xTB); 0 where absent.
    """

    name: str
    shells: dict[int, tuple[int, ...]]
    functions: dict[int, tuple[GaussianShell, ...]] | None = None
    projected: bool = False
    core: dict[int, int] = field(default_factory=dict)
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self):
        if not self.shells:
            raise ValueError(f"basis {self.name!r} has no element")
        for z, ls in self.shells.items():
            if not ls or list(ls) != sorted(ls) or min(ls) < 0:
                raise ValueError(f"basis {self.name!r}, {chemical_symbols[z]}: shells must ascend in l, got {ls}")
            if self.functions is not None and tuple(f.l for f in self.functions[z]) != tuple(ls):
                raise ValueError(f"basis {self.name!r}, {chemical_symbols[z]}: functions do not match shells {ls}")
        object.__setattr__(self, "_hash", hash(self.to_json()))

    def __hash__(self):
        return self._hash

    # ---- elements and orbitals -------------------------------------------------------------------------------

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers, ascending."""
        return tuple(sorted(self.shells))

    @cached_property
    def l_max(self) -> int:
        """Highest angular momentum of any element."""
        return max(max(ls) for ls in self.shells.values())

    def n_orbitals(self, atomic_numbers: Iterable[int]) -> np.ndarray:
        """Orbitals of each atom, [n] int64. Raises ``KeyError`` naming an element that the basis lacks."""
        table = self.orbital_count_table
        z = np.asarray(list(atomic_numbers), dtype=np.int64)
        bad = [int(q) for q in np.unique(z) if q < 0 or q >= len(table) or table[q] == 0]
        if bad:
            names = ", ".join(chemical_symbols[q] if 0 <= q < 119 else f"Z = {q}" for q in bad)
            raise KeyError(f"basis {self.name!r} has no shells for {names}; it knows {self.symbols()}")
        return table[z]

    @cached_property
    def element_row_table(self) -> np.ndarray:
        """[119] int64: row of an element in tables over ``elements``; 0 for elements that the basis does not know."""
        table = np.zeros(119, dtype=np.int64)
        table[list(self.elements)] = np.arange(len(self.elements))
        return table

    # ---- electrons: the one place that derives them from atomic numbers ----------------------------------------

    @cached_property
    def nuclear_charge_table(self) -> np.ndarray:
        """[119] int64: what the orbitals' electrons of a neutral atom neutralise, Z less ``core``."""
        table = np.arange(119)
        for z, electrons in self.core.items():
            table[z] -= electrons
        return table

    @cached_property
    def core_orbital_table(self) -> np.ndarray:
        """[119] int64: how many of an atom's orbitals are core orbitals (0 where the basis leaves the core out)."""
        return np.array([electrons_in(self.core_shells(z)) // 2 for z in range(119)])

    def nuclear_charges(self, atomic_numbers: Iterable[int]) -> np.ndarray:
        """[n] int64, e: charge of each nucleus with the core that the basis leaves out."""
        return self.nuclear_charge_table[np.asarray(list(atomic_numbers), dtype=np.int64)]

    def n_electrons(self, atomic_numbers: Iterable[int], charge: int = 0) -> int:
        """Electrons that the orbitals of a molecule of total ``charge`` (e) hold."""
        return int(self.nuclear_charges(atomic_numbers).sum()) - charge

    def n_core_orbitals(self, atomic_numbers: Iterable[int]) -> int:
        """How many of a molecule's lowest levels are core levels."""
        return int(self.core_orbital_table[np.asarray(list(atomic_numbers), dtype=np.int64)].sum())

    def core_shells(self, atomic_number: int) -> dict[int, int]:
        """l -> shells of an element's chemical core that the basis has (the innermost of that l)."""
        out, left_out = core_shells(atomic_number), self.core.get(atomic_number, 0)
        for n, l in _MADELUNG:
            if left_out <= 0:
                break
            if out.get(l, 0) and n - l <= core_shells(atomic_number)[l]:
                out[l] -= 1
                left_out -= 4 * l + 2
        return {l: n for l, n in out.items() if n}

    def shell_electrons(self, atomic_number: int) -> list[int]:
        """Electrons of the neutral atom in each of its shells: innermost first, the highest l of a full count last."""
        left = free_atom_electrons(atomic_number)
        for l, n in core_shells(atomic_number).items():
            left[l] = left.get(l, 0) - (n - self.core_shells(atomic_number).get(l, 0)) * (4 * l + 2)
        out = []
        for l in self.shells[atomic_number]:
            electrons = min(left.get(l, 0), 4 * l + 2)
            left[l] = left.get(l, 0) - electrons
            out.append(electrons)
        return out

    @cached_property
    def orbital_count_table(self) -> np.ndarray:
        """[119] int64, orbitals per atomic number, 0 where unknown."""
        table = np.zeros(119, dtype=np.int64)
        for z, ls in self.shells.items():
            table[z] = sum(2 * l + 1 for l in ls)
        return table

    def symbols(self) -> str:
        """The elements as a text: ``"H, C, O"``."""
        return ", ".join(chemical_symbols[z] for z in self.elements)

    def orbital_labels(self, atomic_numbers: Sequence[int] | np.ndarray) -> list[tuple[int, int, int, int]]:
        """(atom, shell within atom, l, m) of every orbital of a molecule, in our order."""
        self.n_orbitals(atomic_numbers)
        return [
            (atom, shell, l, m)
            for atom, z in enumerate(atomic_numbers)
            for shell, l in enumerate(self.shells[int(z)])
            for m in range(-l, l + 1)
        ]

    # ---- slots -----------------------------------------------------------------------------------------------

    @cached_property
    def layout(self) -> tuple[int, ...]:
        """The l of each slot shell: the most shells of that l that any element has, ascending l."""
        most = [max(ls.count(l) for ls in self.shells.values()) for l in range(self.l_max + 1)]
        return tuple(l for l, n in enumerate(most) for _ in range(n))

    @cached_property
    def n_slots(self) -> int:
        """K, the orbitals of a padded atom."""
        return sum(2 * l + 1 for l in self.layout)

    @cached_property
    def layout_offsets(self) -> tuple[int, ...]:
        """First slot of each slot shell."""
        out, at = [], 0
        for l in self.layout:
            out.append(at)
            at += 2 * l + 1
        return tuple(out)

    def slot_shells(self, z: int) -> tuple[int, ...]:
        """For each shell of element z the slot shell (index into ``layout``) that it fills."""
        used = [0] * (self.l_max + 1)
        first = [self.layout.index(l) if l in self.layout else -1 for l in range(self.l_max + 1)]
        out = []
        for l in self.shells[z]:
            out.append(first[l] + used[l])
            used[l] += 1
        return tuple(out)

    @cached_property
    def slot_mask_table(self) -> np.ndarray:
        """[119, K] bool: which slots an element fills."""
        table = np.zeros((119, self.n_slots), dtype=bool)
        for z in self.shells:
            for s in self.slot_shells(z):
                at = self.layout_offsets[s]
                table[z, at : at + 2 * self.layout[s] + 1] = True
        return table

    # ---- to and from a file ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Everything, as text: what the store and the checkpoints hold."""
        return json.dumps(
            {
                "name": self.name,
                "projected": self.projected,
                "elements": {
                    chemical_symbols[z]: {
                        "shells": list(self.shells[z]),
                        **({"core": self.core[z]} if self.core.get(z) else {}),
                        "functions": None
                        if self.functions is None
                        else [[f.l, list(f.exponents), list(f.coefficients)] for f in self.functions[z]],
                    }
                    for z in sorted(self.shells)
                },
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Basis:
        """The inverse of ``to_json``.

        Raises:
            KeyError: the text is no basis.
        """
        data = json.loads(text)
        shells, functions, core = {}, {}, {}
        for symbol, entry in data["elements"].items():
            shells[atomic_numbers[symbol]] = tuple(entry["shells"])
            if entry.get("core"):
                core[atomic_numbers[symbol]] = int(entry["core"])
            if entry["functions"] is not None:
                functions[atomic_numbers[symbol]] = tuple(
                    GaussianShell(l, tuple(a), tuple(c)) for l, a, c in entry["functions"]
                )
        return cls(data["name"], shells, functions or None, data["projected"], core)

    def restricted(self, elements: Iterable[int]) -> Basis:
        """The same basis for fewer elements."""
        keep = sorted({int(z) for z in elements})
        self.n_orbitals(keep)
        return Basis(
            self.name,
            {z: self.shells[z] for z in keep},
            None if self.functions is None else {z: self.functions[z] for z in keep},
            self.projected,
            {z: n for z, n in self.core.items() if z in keep},
        )

    def __str__(self):
        parts = []
        for z in self.elements:
            ls = self.shells[z]
            parts.append(
                f"{chemical_symbols[z]}:"
                + "".join(f"{ls.count(l)}{L_LETTERS[l]}" for l in range(self.l_max + 1) if l in ls)
            )
        return f"{self.name} ({' '.join(parts)}; {self.n_slots} slots)"
