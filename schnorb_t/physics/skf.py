"""Slater-Koster files (.skf): the simple and the extended format, spline and polynomial repulsive.

Format: "Format of the v1.0 Slater-Koster files", dftb.org. Units Bohr and Eh. Row i (from 1) of a table stands at
R = i * spacing; the header's row count is one larger than what is read. Column names: ``Hsp0`` is <s on A| H |p_0 on B>
with B at +z from A, file A-B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from schnorb_t.basis import L_LETTERS, Basis
from schnorb_t.errors import UserError

#: (l on A, l on B, |m|) of the ten columns of a simple file, then of the twenty of an extended one
SIMPLE = tuple(
    (L_LETTERS.index(a), L_LETTERS.index(b), int(m))
    for a, b, m in map(tuple, "dd0 dd1 dd2 pd0 pd1 pp0 pp1 sd0 sp0 ss0".split())
)
EXTENDED = tuple(
    (L_LETTERS.index(a), L_LETTERS.index(b), int(m))
    for a, b, m in map(tuple, "ff0 ff1 ff2 ff3 df0 df1 df2 dd0 dd1 dd2 pf0 pf1 pd0 pd1 pp0 pp1 sf0 sd0 sp0 ss0".split())
)

_PAIR = re.compile(r"(?<![A-Za-z])(?=([A-Za-z]{1,2})-([A-Za-z]{1,2})(?![A-Za-z]))")


@dataclass(frozen=True)
class SplineRepulsive:
    """exp(-a1 r + a2) + a3 below the first interval, cubics, a quintic in the last, 0 beyond the cutoff.

    Attributes:
        cutoff: Bohr.
        exponential: (a1, a2, a3).
        starts: [n], Bohr, where the intervals begin; they join.
        coefficients: [n, 6], Eh / Bohr^k, of (r - start)^k.
    """

    cutoff: float
    exponential: tuple[float, float, float]
    starts: np.ndarray
    coefficients: np.ndarray


@dataclass(frozen=True)
class SlaterKosterFile:
    """What one file holds.

    Attributes:
        path: where it was read.
        spacing: Bohr.
        hamiltonian, overlap: (l_A, l_B, |m|) -> [n] values, Eh and dimensionless, row i at (i + 1) * spacing.
        onsite: l -> (energy Eh, Hubbard U Eh, electrons of the neutral atom); empty for unlike atoms.
        mass: atomic mass, u (0 for unlike atoms).
        polynomial: c_2..c_9 of sum_i c_i (cutoff - r)^i, Eh / Bohr^i.
        polynomial_cutoff: Bohr.
        spline: spline repulsive, if the file has one; it then stands instead of the polynomial.
    """

    path: Path
    spacing: float
    hamiltonian: dict[tuple[int, int, int], np.ndarray]
    overlap: dict[tuple[int, int, int], np.ndarray]
    onsite: dict[int, tuple[float, float, float]]
    mass: float
    polynomial: np.ndarray
    polynomial_cutoff: float
    spline: SplineRepulsive | None = field(default=None)

    @property
    def first_row(self) -> int:
        """First row that is not filler (files begin with rows of all the same number)."""
        table = np.stack([*self.hamiltonian.values(), *self.overlap.values()], 1)
        filler = (table == table[:, :1]).all(1)
        return int(np.argmin(filler)) if not filler.all() else 0


def _numbers(line: str) -> list[float]:
    """Numbers of a Fortran list-directed line: blanks or commas between, ``3*0.0`` for three zeros."""
    out: list[float] = []
    for token in line.replace(",", " ").split():
        count, star, value = token.rpartition("*")
        out.extend([float(value.lower().replace("d", "e"))] * (int(count) if star else 1))
    return out


def atoms_of_name(path: Path) -> tuple[int, int] | None:
    """(Z_A, Z_B) if a file's name holds one pair of element symbols, ``A-B``, in any case; else None."""
    pairs = {(a.capitalize(), b.capitalize()) for a, b in _PAIR.findall(path.name.removesuffix(".skf"))}
    known = [pair for pair in pairs if set(pair) <= set(chemical_symbols[1:])]
    if len(known) != 1:
        return None
    a, b = known[0]
    return chemical_symbols.index(a), chemical_symbols.index(b)


def _like_atoms(path: Path, lines: list[str], extended: bool) -> bool:
    """Whether a file is of two atoms of one element, whose second line has on-site values where others have a mass.

    Args:
        path: for its name.
        lines: the second and the third.
        extended: whether it has f columns.

    Raises:
        UserError: name and content contradict each other, or neither tells.
    """
    try:
        second, third = (_numbers(line) for line in lines)
    except ValueError:
        second, third = [], []
    n_onsite, name = 13 if extended else 10, atoms_of_name(path)
    unlike = len(second) > n_onsite + 5 or len(second) < n_onsite  # 20 numbers, of which the last ten are dummies
    like = not unlike and len(third) >= 10 and third[0] > 1.0  # then the third line begins with a mass
    by_name = None if name is None else name[0] == name[1]
    if by_name is None:
        if not like and not unlike:
            raise UserError(f"{path}: neither name (A-B.skf) nor content tells whether both atoms are of one element")
        return like
    if second and by_name and unlike:
        raise UserError(
            f"{path}: named for two atoms of one element, but its second line has {len(second)} numbers and not the "
            f"{n_onsite} of on-site energies, spin constant, Hubbard U, occupations; is it another pair's file?"
        )
    if like and not by_name:
        raise UserError(
            f"{path}: named for two elements, but it has the on-site values of one ({n_onsite} numbers, then a mass of "
            f"{third[0]:g}); is it another pair's file?"
        )
    return by_name


def read_skf(path: str | Path, homonuclear: bool | None = None) -> SlaterKosterFile:
    """Read one file.

    Args:
        path: the file; two element symbols in its name (``A-B.skf``, ``_A-B.skf``, ``mio_a-b_old.skf``) and its second
            line, which must not contradict them, tell whether both atoms are alike.
        homonuclear: whether they are, where neither tells.

    Raises:
        UserError: missing or malformed; names the file, the line and what was expected.
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a Slater-Koster file ({error})") from error
    at = 0

    def take(least: int, what: str) -> list[float]:
        nonlocal at
        if at >= len(lines):
            raise UserError(f"{path}: ends before {what} (line {at + 1}); is the file complete?")
        try:
            numbers = _numbers(lines[at])
        except ValueError as error:
            raise UserError(f"{path}, line {at + 1}: expected {what}, got {lines[at][:60]!r}") from error
        if len(numbers) < least:
            raise UserError(f"{path}, line {at + 1}: expected {what} ({least} numbers), got {len(numbers)}")
        at += 1
        return numbers

    extended = bool(lines) and lines[0].lstrip().startswith("@")
    at = 1 if extended else 0
    columns = EXTENDED if extended else SIMPLE
    header = take(2, "spacing and number of rows")
    spacing, n_rows = header[0], int(header[1]) - 1
    if spacing <= 0 or n_rows < 4:
        raise UserError(f"{path}, line {at}: spacing {header[0]} Bohr and {int(header[1])} rows make no table")
    if homonuclear is None:
        homonuclear = _like_atoms(path, lines[at : at + 2], extended)
    onsite: dict[int, tuple[float, float, float]] = {}
    if homonuclear:
        n_l = 4 if extended else 3
        row = take(3 * n_l + 1, "on-site energies, spin constant, Hubbard U, occupations")
        for k in range(n_l):  # d p s, or f d p s
            onsite[n_l - 1 - k] = (row[k], row[n_l + 1 + k], row[2 * n_l + 1 + k])
    mass_line = take(10, "mass, polynomial and its cutoff")
    table = np.array([take(2 * len(columns), f"row {i + 1} of {n_rows}")[: 2 * len(columns)] for i in range(n_rows)])
    half = len(columns)
    return SlaterKosterFile(
        path,
        spacing,
        {c: table[:, k].copy() for k, c in enumerate(columns)},
        {c: table[:, half + k].copy() for k, c in enumerate(columns)},
        dict(sorted(onsite.items())),
        mass_line[0] if homonuclear else 0.0,
        np.array(mass_line[1:9]),
        mass_line[9],
        _read_spline(path, lines, at),
    )


def _read_spline(path: Path, lines: list[str], at: int) -> SplineRepulsive | None:
    start = next((i for i in range(at, len(lines)) if lines[i].strip().lower() == "spline"), None)
    if start is None:
        return None
    try:
        n, cutoff = _numbers(lines[start + 1])[:2]
        exponential = tuple(_numbers(lines[start + 2])[:3])
        rows = [_numbers(line) for line in lines[start + 3 : start + 3 + int(n)]]
        starts, ends = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
        coefficients = np.zeros((int(n), 6))
        for k, row in enumerate(rows):
            width = 6 if k == int(n) - 1 else 4
            if len(row) < 2 + width:
                raise ValueError(f"interval {k + 1} has {len(row)} numbers, not {2 + width}")
            coefficients[k, :width] = row[2 : 2 + width]
        if len(rows) != int(n) or len(exponential) != 3 or np.abs(ends[:-1] - starts[1:]).max(initial=0) > 1e-8:
            raise ValueError("intervals are missing or do not join")
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}, spline repulsive at line {start + 1}: {error}; is the file complete?") from error
    return SplineRepulsive(cutoff, exponential, starts, coefficients)


@dataclass(frozen=True)
class SlaterKosterSet:
    """The files of all ordered pairs of some elements.

    Attributes:
        files: (Z_A, Z_B) -> file A-B.
        basis: one shell of each l that the homonuclear file gives to an element.
    """

    files: dict[tuple[int, int], SlaterKosterFile]
    basis: Basis

    def table(self, quantity: int, l: int | None = 0) -> np.ndarray:
        """[119] of one on-site quantity: 0 energy, 1 Hubbard U, 2 electrons; summed over shells for ``l=None``."""
        out = np.zeros(119)
        for z, shells in self.basis.shells.items():
            onsite = self.files[z, z].onsite
            out[z] = sum(onsite[k][quantity] for k in shells) if l is None else onsite[l][quantity]
        return out

    def shell_table(self, quantity: int, shell: int) -> np.ndarray:
        """[119] of one on-site quantity of a slot shell (place in ``basis.layout``); 0 where an element has no such."""
        out = np.zeros(119)
        for z in self.basis.elements:
            if shell in self.basis.slot_shells(z):
                out[z] = self.files[z, z].onsite[self.basis.layout[shell]][quantity]
        return out

    @property
    def valence_charges(self) -> np.ndarray:
        """[119], valence electrons of the neutral atoms."""
        return self.table(2, None)

    @property
    def hubbard(self) -> np.ndarray:
        """[119], Eh, Hubbard U of the s shell, which DFTB takes for the whole atom."""
        return self.table(1, 0)


def read_skf_set(folder: str | Path, elements: Iterable[int], l_max: dict[int, int] | None = None) -> SlaterKosterSet:
    """Read ``A-B.skf`` of all ordered pairs of elements.

    Args:
        folder: where the files are.
        elements: atomic numbers.
        l_max: element -> highest angular momentum; where left out, the highest l that holds electrons or has a
            homonuclear overlap.

    Raises:
        UserError: a file is missing or malformed.
    """
    folder, zs = Path(folder), sorted({int(z) for z in elements})
    files = {}
    for a in zs:
        for b in zs:
            path = folder / f"{chemical_symbols[a]}-{chemical_symbols[b]}.skf"
            if not path.exists() and path.with_name(path.name.lower()).exists():
                path = path.with_name(path.name.lower())  # DFTB+'s LowerCaseTypeName
            if not path.exists():
                raise UserError(f"{path}: not there; the set lacks this pair, or the folder is wrong")
            files[a, b] = read_skf(path)
    shells = {}
    for z in zs:
        f = files[z, z]
        there = [
            l
            for l, (_, _, electrons) in f.onsite.items()
            if electrons > 0 or np.abs(f.overlap[l, l, 0][f.first_row :]).max(initial=0) > 0
        ]
        highest = (l_max or {}).get(z, max(there, default=0))
        shells[z] = tuple(range(highest + 1))
    return SlaterKosterSet(files, Basis(folder.name, shells))
