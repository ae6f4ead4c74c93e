"""PDB files: every model, with formal charges, alternate locations and the cell.

Layout: wwPDB, Protein Data Bank Contents Guide, version 3.3 (2012). Columns are fixed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn, TextIO

import numpy as np
from ase.geometry import cellpar_to_cell

from schnorb_t.errors import UserError

from .electrons import Statement
from .elements import parse_element
from .structure import Structure, build, written_symbols

#: Names of atoms of one element whose two letters stand in columns 13 and 14 also without an element column.
_TWO_LETTERS = frozenset("CL BR NA MG ZN FE CU MN SE SI LI AL".split())


def read_pdb(file: TextIO, path: str) -> Iterator[Structure]:
    """The models of a PDB file, one after the other; without MODEL records the whole file is one.

    Raises:
        UserError: a line cannot be understood, or names no element; names the line.
    """
    cell, model, index = None, _Model(path, 0), 0
    for number, line in enumerate(file, 1):
        record = line[:6].strip()
        if record in ("ATOM", "HETATM"):
            model.add(line.rstrip("\r\n"), number)
        elif record == "CRYST1":
            cell = _cell(line, path, number)
        elif record in ("ENDMDL", "END") and model.symbols:
            yield model.structure(cell)
            index += 1
            model = _Model(path, index)
    if model.symbols:
        yield model.structure(cell)


def _cell(line: str, path: str, number: int) -> np.ndarray | None:
    """[3, 3], Å; ``CRYST1 1 1 1`` stands for no cell."""
    try:
        lengths = [float(line[6 + 9 * k : 15 + 9 * k]) for k in range(3)]
        angles = [float(line[33 + 7 * k : 40 + 7 * k]) for k in range(3)]
    except ValueError:
        raise UserError(f"{path}: line {number} is damaged: {line.strip()!r}; mend or remove it") from None
    return None if max(lengths) < 1.01 else cellpar_to_cell([*lengths, *angles])


def _element(line: str) -> str:
    """The element's symbol, or what stands in its place: of columns 77 and 78, else of the atom's name."""
    if symbol := re.sub(r"[^A-Za-z]", "", line[76:78]):
        return symbol
    name = line[12:16]
    letters = re.sub(r"[^A-Za-z]", "", name)
    if name[:1] not in (" ", "") and name[:1].isalpha() and letters[:2].upper() in _TWO_LETTERS and len(letters) == 2:
        return letters
    return letters[:1]  # " CA " is a carbon, "CA  " calcium only where the element is named: no calcium by guess


class _Model:
    """The atoms of one model."""

    def __init__(self, path: str, index: int):
        self.path, self.index = path, index
        self.symbols: list[str] = []
        self.found: list[tuple[int, float]] = []
        self.positions: list[list[float]] = []
        self.charge, self.says_charge = 0, False
        self.places: dict[tuple[str, str], set[str]] = {}

    def _refuse(self, number: int, what: str) -> NoReturn:
        raise UserError(
            f"{self.path}: structure {self.index} cannot be read: line {number} {what}; mend it, or convert it to "
            "extended xyz"
        )

    def add(self, line: str, number: int) -> None:
        """Take an atom in."""
        try:
            place = [float(line[30 + 8 * k : 38 + 8 * k]) for k in range(3)]
        except ValueError:
            self._refuse(number, "has no coordinates in columns 31 to 54")
        symbol = _element(line)
        found = parse_element(symbol) if symbol else None
        if found is None:
            self._refuse(number, f"names no element (atom {line[12:16].strip()!r})")
        if not line[76:78].strip() and line[12:16].strip() == line[17:20].strip() and len(line[12:16].strip()) == 2:
            self._refuse(number, f"names its element only as {line[12:16].strip()!r}; write it in columns 77 and 78")
        charge = re.fullmatch(r"(\d)([+-])|([+-])(\d)", line[78:80].strip())
        if charge:
            self.charge += int((charge[2] or charge[3]) + (charge[1] or charge[4]))
            self.says_charge = True
        self.places.setdefault((line[12:16].strip(), line[17:27].strip()), set()).add(line[16:17].strip())
        self.symbols.append(symbol)
        self.found.append(found)
        self.positions.append(place)

    def structure(self, cell: np.ndarray | None) -> Structure:
        """What the model holds; atoms at several alternate locations are a fault."""
        twice = next(((a, r, x) for (a, r), x in self.places.items() if len(x) > 1), None)
        faults: tuple[str, ...] = ()
        if twice is not None:
            atom, residue, locations = twice
            faults = (
                f"atom {atom} of {' '.join(residue.split())} has alternate locations "
                f"{', '.join(sorted(x or 'blank' for x in locations))}; keep one of them",
            )
        z = np.array([f[0] for f in self.found], dtype=np.int64)
        masses = np.array([f[1] for f in self.found])
        return build(
            z,
            np.array(self.positions),
            [Statement("charge", "formal charges", self.charge)] if self.says_charge else [],
            cell=cell,
            pbc=(cell is not None,) * 3,
            symbols=written_symbols(self.symbols, z),
            masses=masses if np.isfinite(masses).any() else None,
            file=self.path,
            index=self.index,
            order=self.index,
            faults=faults,
        )
