"""MDL molfiles and SD files (V2000 and V3000), and Tripos mol2: every record, with formal charges and radicals.

Layout: BIOVIA, CTFile Formats (2020). In V2000 ``M  CHG`` and ``M  RAD`` replace the charges of the atom block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NoReturn, TextIO

import numpy as np
from ase.cell import Cell
from ase.data import atomic_masses

from schnorb_t.errors import UserError

from .electrons import Statement, statements
from .elements import parse_element
from .structure import Structure, build

#: Code in the atom block -> formal charge, e; 4 is a doublet radical.
_OLD_CHARGE = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}
#: Code of a radical -> unpaired electrons: singlet, doublet, triplet.
_UNPAIRED = {0: 0, 1: 0, 2: 1, 3: 2}

_NO_HYDROGENS = "holds no hydrogen, and its bonds leave room for {}; add hydrogens (RDKit: AddHs, Open Babel: -h)"


def read_sdf(file: TextIO, path: str) -> Iterator[Structure]:
    """The records of an SD file (or the one of a molfile), one after the other.

    Raises:
        UserError: a record is damaged; names its line.
    """
    record: list[str] = []
    index = start = number = 0
    for number, line in enumerate(file, 1):
        line = line.rstrip("\r\n")
        if line.startswith("$$$$"):
            yield _Record(path, index, start, record).structure()
            index, start, record = index + 1, number, []
        else:
            record.append(line)
    if any(line.strip() for line in record):
        yield _Record(path, index, start, record).structure()


class _Record:
    """One record: a molfile and its data."""

    def __init__(self, path: str, index: int, start: int, lines: list[str]):
        self.path, self.index, self.start, self.lines = path, index, start, lines

    def refuse(self, line: int, what: str) -> NoReturn:
        raise UserError(
            f"{self.path}: structure {self.index} cannot be read: line {self.start + line + 1} {what}; mend the file"
        )

    def structure(self) -> Structure:
        if len(self.lines) < 4:
            self.refuse(len(self.lines), "ends a record without atoms")
        v3000 = "V3000" in self.lines[3]
        atoms, charges, unpaired, masses, end = self._v3000() if v3000 else self._v2000()
        z = np.array([a[0] for a in atoms], dtype=np.int64)
        x = np.array([a[1:4] for a in atoms], dtype=float).reshape(-1, 3)
        mark = "M  V30 CHG/RAD" if v3000 else "M  CHG" if "M  CHG" in "\n".join(self.lines[:end]) else "atom block"
        said = [Statement("charge", f"formal charges, {mark}", int(sum(charges)))] if any(charges) else []
        if any(unpaired):
            said.append(Statement("unpaired", "radicals, M  RAD", int(sum(unpaired))))
        info, more = self._data(end)
        charged = (np.array(charges) != 0) | (np.array(unpaired) != 0)
        faults = [_NO_HYDROGENS.format(n)] if (n := _missing_hydrogens(z, charged, self._bonds(v3000, len(z)))) else []
        flat = len(z) > 3 and not x[:, 2].any() and self.lines[1][20:22] == "2D"
        return build(
            z,
            x,
            said + more,
            {"name": self.lines[0].strip(), **info},
            masses=masses if np.isfinite(masses).any() else None,
            file=self.path,
            index=self.index,
            order=self.index,
            faults=(*faults, *(["is a drawing in two dimensions; give a geometry in three"] if flat else [])),
        )

    def _bonds(self, v3000: bool, n: int) -> Iterator[tuple[int, int, int]]:
        """Type and both atoms, from 1, of each bond that can be understood."""
        if v3000:
            inside = False
            for line in self.lines:
                words = line[6:].split() if line.startswith("M  V30") else []
                if words[1:2] == ["BOND"]:
                    inside = words[0] == "BEGIN"
                elif inside and len(words) > 3 and all(w.isdecimal() for w in words[1:4]):
                    yield int(words[1]), int(words[2]), int(words[3])
            return
        count = self.lines[3][3:6].strip()
        for line in self.lines[4 + n : 4 + n + (int(count) if count.isdecimal() else 0)]:
            columns = [line[3 * k : 3 * k + 3].strip() for k in (2, 0, 1)]
            if all(c.isdecimal() for c in columns):
                yield int(columns[0]), int(columns[1]), int(columns[2])

    def _v2000(self):
        try:
            n = int(self.lines[3][:3])
        except ValueError:
            self.refuse(3, "has no number of atoms")
        if len(self.lines) < 4 + n:
            self.refuse(len(self.lines), f"ends the record before its {n} atoms")
        atoms, charges, unpaired, masses = [], [0] * n, [0] * n, np.full(n, np.nan)
        for k in range(n):
            line = self.lines[4 + k]
            words, fixed_columns = line.split(), False
            try:
                fixed = [float(line[10 * c : 10 * c + 10]) for c in range(3)], line[31:34].strip(), line[36:39]
                # some programs do not keep the columns
                place, symbol, code = fixed if fixed[1] else ([float(w) for w in words[:3]], words[3], "")
                fixed_columns = bool(fixed[1])
            except (ValueError, IndexError):
                try:
                    place, symbol = [float(w) for w in words[:3]], words[3]
                    code = words[5] if len(words) > 5 else ""
                except (ValueError, IndexError):
                    self.refuse(4 + k, "is no atom: x, y, z and element expected")
            found = parse_element(symbol)
            if found is None:
                self.refuse(4 + k, f"names {symbol!r}, which is no element")
            atoms.append((found[0], *place))
            masses[k] = found[1]
            difference = line[34:36].strip()  # from the most abundant isotope; M  ISO replaces it
            if fixed_columns and re.fullmatch(r"[+-]?[1-4]", difference) and found[0]:
                masses[k] = round(float(atomic_masses[found[0]])) + int(difference)
            value = int(code) if code.strip().isdecimal() else 0
            charges[k], unpaired[k] = _OLD_CHARGE.get(value, 0), int(value == 4)
        end, replaced = len(self.lines), False
        for i in range(4 + n, len(self.lines)):
            line = self.lines[i]
            if line.startswith("M  END"):
                end = i + 1
                break
            if line.startswith(("M  CHG", "M  RAD", "M  ISO", "M  ZCH")):
                words = line[6:].split()
                pairs = list(zip(words[1::2], words[2::2], strict=False))
                if not all(re.fullmatch(r"\d+", a) and re.fullmatch(r"[+-]?\d+", v) for a, v in pairs) or not all(
                    1 <= int(a) <= n for a, _ in pairs
                ):
                    self.refuse(i, f"is damaged: {line.strip()!r}")
                if line[3:6] != "ISO" and not replaced:
                    charges, unpaired, replaced = [0] * n, [0] * n, True
                for a, v in pairs:
                    k = int(a) - 1
                    if line[3:6] in ("CHG", "ZCH"):
                        charges[k] = int(v)
                    elif line[3:6] == "RAD":
                        unpaired[k] = _UNPAIRED.get(int(v), 1)
                    else:
                        masses[k] = float(v)
        return atoms, charges, unpaired, masses, end

    def _v3000(self):
        atoms, charges, unpaired, masses, inside, end = [], [], [], [], False, len(self.lines)
        begun = ""
        for i, line in enumerate(self.lines):
            if line.startswith("M  END"):
                end = i + 1
                break
            if not line.startswith("M  V30"):
                continue
            if line.rstrip().endswith("-"):  # goes on in the next line
                begun += line[6:].rstrip()[:-1]
                continue
            words, begun = (begun + line[6:]).split(), ""
            if words[:2] in (["BEGIN", "ATOM"], ["END", "ATOM"]):
                inside = words[0] == "BEGIN"
            elif inside:
                found = parse_element(words[1]) if len(words) > 4 else None
                if found is None:
                    self.refuse(i, f"is no atom: {line.strip()!r}")
                options = dict(w.upper().split("=", 1) for w in words[5:] if "=" in w)
                try:
                    atoms.append((found[0], *(float(w) for w in words[2:5])))
                    charges.append(int(options.get("CHG", 0)))
                    unpaired.append(_UNPAIRED.get(int(options.get("RAD", 0)), 1))
                    masses.append(float(options["MASS"]) if "MASS" in options else found[1])
                except ValueError:
                    self.refuse(i, f"is damaged: {line.strip()!r}")
        return atoms, charges, unpaired, np.array(masses, dtype=float), end

    def _data(self, first: int) -> tuple[dict[str, str], list[Statement]]:
        """Name, group, split, charge and spin among the data items ``> <NAME>`` behind the molfile."""
        info, said = {}, []
        for i in range(first, len(self.lines) - 1):
            item = re.match(r">.*<([^>]+)>", self.lines[i])
            if item and item[1].lower() in ("group", "split"):
                info[item[1].lower()] = self.lines[i + 1].strip()
            elif item:
                value = next((x for x in self.lines[i + 1 : i + 3] if x.strip() or x.startswith(">")), "")
                said += statements({item[1]: value})
        return info, said


def _missing_hydrogens(z: np.ndarray, charged: np.ndarray, bonds: Iterable[tuple[float, int, int]]) -> int:
    """Hydrogens that the bonds of carbon leave room for, in a record that has no hydrogen at all.

    Args:
        z: [n] atomic numbers.
        charged: [n] bool, atoms with formal charges or unpaired electrons.
        bonds: order (4 and more: aromatic) and both atoms, from 1.
    """
    if not (z == 6).any() or (z == 1).any():
        return 0
    orders = np.zeros(len(z))
    for kind, i, j in bonds:
        if not (1 <= i <= len(z) and 1 <= j <= len(z)):
            return 0
        orders[[i - 1, j - 1]] += 1.5 if kind >= 4 else kind
    whole = (z == 6) & (orders > 0) & ~charged  # none where no bonds are written
    return int(np.maximum(4 - np.floor(orders[whole] + 0.01), 0).sum())


#: Bonds of mol2 files -> order; those that are not counted (``du``, ``un``, ``nc``) make the count useless.
_MOL2_BONDS = {"1": 1.0, "2": 2.0, "3": 3.0, "ar": 4.0, "am": 1.0}


def read_mol2(file: TextIO, path: str) -> Iterator[Structure]:
    """The molecules of a Tripos mol2 file; its column of charges counts by its sum.

    Raises:
        UserError: an atom line is damaged; names it.
    """
    index, name, section, line_in_section = -1, "", "", 0
    atoms: list[tuple[int, float, float, float]] = []
    charges: list[float] = []
    formal: list[int] = []
    bonds: list[tuple[float, int, int]] = []
    cell: np.ndarray | None = None

    def finished() -> Structure:
        z, x = np.array([a[0] for a in atoms], dtype=np.int64), np.array([a[1:] for a in atoms]).reshape(-1, 3)
        said = [Statement("charges", "charges of the atoms", np.array(charges))] if any(charges) else []
        said += [Statement("charge", "formal charges, UNITY_ATOM_ATTR", sum(formal))] if formal else []
        missing = 0 if formal else _missing_hydrogens(z, np.zeros(len(z), dtype=bool), bonds)
        return build(
            z,
            x,
            said,
            {"name": name},
            file=path,
            index=index,
            order=index,
            cell=cell,
            pbc=(cell is not None,) * 3,
            faults=(_NO_HYDROGENS.format(missing),) if missing else (),
        )

    for number, line in enumerate(file, 1):
        line = line.strip()
        if line.startswith("@<TRIPOS>"):
            section, line_in_section = line[9:].strip().upper(), 0
            if section == "MOLECULE":
                if index >= 0:
                    yield finished()
                index, atoms, charges, formal, bonds, cell = index + 1, [], [], [], [], None
            continue
        line_in_section += 1
        if section == "MOLECULE" and line_in_section == 1:
            name = line
        elif section == "UNITY_ATOM_ATTR" and re.fullmatch(r"charge\s+[+-]?\d+", line, re.I):
            formal.append(int(line.split()[1]))
        elif section == "CRYSIN" and line_in_section == 1:
            try:
                cell = np.array(Cell.new([float(w) for w in line.split()[:6]]))
            except ValueError:
                raise UserError(f"{path}: structure {max(index, 0)} cannot be read: line {number} is no cell") from None
        elif section == "BOND" and re.match(r"\d+\s+\d+\s+\d+\s+\w+", line):
            _, i, j, kind = line.split()[:4]
            bonds.append((_MOL2_BONDS.get(kind.lower(), 4.0), int(i), int(j)))
        elif section == "ATOM" and line and not line.startswith("#"):
            words = line.split()
            found = None
            if len(words) > 5:  # type C.ar, or the atom's name where the type is a force field's
                found = parse_element(words[5].split(".")[0]) or parse_element(re.sub(r"\d.*", "", words[1]))
            try:
                if found is None:
                    raise ValueError(words)
                atoms.append((found[0], float(words[2]), float(words[3]), float(words[4])))
                if len(words) > 8 and words[8] != "****":  # not known
                    charges.append(float(words[8]))
            except ValueError:
                raise UserError(
                    f"{path}: structure {max(index, 0)} cannot be read: line {number} is no atom: {line[:60]!r}"
                ) from None
    if index >= 0:
        yield finished()
