"""xyz and extended xyz files: every frame, with what its comment line and its columns say.

A frame is the number of atoms, a comment line, and one line per atom. In extended xyz
(https://github.com/libAtoms/extxyz) the comment holds ``key=value`` pairs, ``Properties`` names the columns,
``Lattice`` and ``pbc`` the periodicity. Unpacked molecules of QM9 (``dsgdb9nsd_*.xyz``) are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

import numpy as np
from ase.io.extxyz import key_val_str_to_dict

from schnorb_t.errors import UserError

from .electrons import Statement, statement_of_atoms, statements, statements_in_text
from .elements import formal_charge, parse_element
from .geometry import faults_of_unit
from .structure import Structure, build, written_symbols

#: Names of the columns that hold elements and positions; the others are looked at for charges and moments.
_SPECIES = ("species", "symbols", "symbol", "element", "elements", "type")
_NUMBERS = ("z", "numbers", "atomic_numbers", "atomic_number")
_POSITIONS = ("pos", "positions", "position", "coordinates", "coords", "xyz")
_MASSES = ("masses", "mass")
#: An entry of extended xyz.
_ENTRY = re.compile(r"""[^\s=]+\s*=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\S+)""")
#: Other names of a cell and of periodicity, in lower case without separators; i-PI's line.
_CELLS = ("cell", "unitcell", "box", "simulationbox", "latticevectors", "cellvectors", "cellparameters", "lattice")
_PERIODIC = ("periodic", "isperiodic", "periodicity")
_IPI = re.compile(r"CELL[\[({](?:abcABC|H|GENH)[\])}]:?\s+((?:[+-]?[\d.]+(?:[eE][+-]?\d+)?\s+){6,9})")


class _Lines:
    """Lines of a file with their numbers, one ahead."""

    def __init__(self, file: TextIO, path: str):
        self._lines, self.path, self.number = iter(file), path, 0

    def next(self) -> str | None:
        line = next(self._lines, None)
        self.number += line is not None
        return None if line is None else line.rstrip("\r\n")


def read_xyz(file: TextIO, path: str) -> Iterator[Structure]:
    """The frames of an xyz or extended xyz file, one after the other; blank lines between them do not matter.

    Args:
        file: open text.
        path: its name, for messages.

    Raises:
        UserError: a frame ends too early, has more atoms than it announces, or a line cannot be understood; names the
            line.
    """
    lines, index = _Lines(file, path), 0
    line = lines.next()
    while line is not None:
        if not line.strip():
            line = lines.next()
            continue
        n, head = _count(line, lines, index), lines.number
        comment = lines.next()
        if comment is None:
            _refuse(lines, index, f"the file ends after the number of atoms in line {head}")
        if re.match(r"gdb\s+\d+\s", comment):
            line = yield from _qm9_member(lines, n, line, comment, index)
        else:
            rows: list[list[str]] = []
            for _ in range(n):
                text = lines.next()
                words = text.split() if text is not None else []
                if not words:
                    found = f"{len(rows)} atoms" if text is None else f"{len(rows)} atoms before a blank line"
                    _refuse(lines, index, f"line {head} announces {n} atoms, and there are {found}")
                rows.append(words)
            vectors = []
            line = lines.next()
            while line is not None and re.match(r"\s*VEC\d\s", line):
                vectors.append(line.split()[1:])
                line = lines.next()
            yield _frame(lines, index, n, head, comment, rows, vectors)
        index += 1


def _refuse(lines: _Lines, index: int, what: str) -> NoReturn:
    raise UserError(f"{lines.path}: structure {index} cannot be read: {what}; mend the file")


def _count(line: str, lines: _Lines, index: int) -> int:
    words = line.split()
    if len(words) == 1 and words[0].isdecimal() and len(words[0]) < 10:
        return int(words[0])
    if index == 0:
        raise UserError(
            f"{lines.path}: cannot read structures from it: line {lines.number} is {line.strip()[:40]!r}, where xyz "
            "files have the number of atoms; convert it to extended xyz"
        )
    before = "" if parse_element(words[0]) is None else f"; does structure {index - 1} announce too few atoms?"
    _refuse(
        lines,
        index,
        f"line {lines.number} is {line.strip()[:40]!r}, where the next number of atoms is expected{before}",
    )


def _qm9_member(lines: _Lines, n: int, first: str, comment: str, index: int):
    """An unpacked molecule of QM9; returns the line after it."""
    from .qm9 import UNPACK_AGAIN, parse_member

    texts = [first, comment]
    for _ in range(n + 3):
        text = lines.next()
        if text is None:
            _refuse(lines, index, f"it ends before line {n + 5} of a molecule of QM9")
        texts.append(text)
    yield parse_member("\n".join(texts) + "\n", lines.path, UNPACK_AGAIN).structure(lines.path, index)
    return lines.next()


def _frame(
    lines: _Lines, index: int, n: int, head: int, comment: str, rows: list[list[str]], vectors: list[list[str]]
) -> Structure:
    try:
        info: dict[str, Any] = key_val_str_to_dict(comment) if comment.strip() else {}
    except (ValueError, TypeError) as error:
        _refuse(lines, index, f"the comment in line {head + 1} is not extended xyz ({error})")
    lower = {str(key).lower(): key for key in info}
    properties = info.pop(lower["properties"]) if "properties" in lower else None
    columns = _columns(lines, index, properties)
    width = sum(count for _, _, count in columns)
    short = next((k for k, words in enumerate(rows) if len(words) < width), None)
    if short is not None:
        _refuse(lines, index, f"line {head + 2 + short} has {len(rows[short])} columns where {width} are needed")
    z, x = np.zeros(n, dtype=np.int64), np.zeros((n, 3))
    symbols, masses = [""] * n, np.full(n, np.nan)
    said = statements(info)
    at = 0
    for name, kind, count in columns:
        words = [row[at : at + count] for row in rows]
        at += count
        plain = name.lower()
        if plain in _SPECIES or plain in _NUMBERS:
            for k, word in enumerate(words):
                found = parse_element(word[0])
                if found is None:
                    _refuse(lines, index, f"line {head + 2 + k} begins with {word[0]!r}, which is no element")
                (z[k], mass), symbols[k] = found, word[0]
                masses[k] = mass if np.isfinite(mass) else masses[k]
        elif plain in _POSITIONS:
            x = _numbers(lines, index, head, words).reshape(n, 3)
        elif kind in "IR" and plain in _MASSES and count == 1:
            given = _numbers(lines, index, head, words).reshape(n)
            masses = np.where(np.isnan(masses), given, masses)
        elif kind in "IR" and n:
            values = _numbers(lines, index, head, words)
            said += filter(None, [statement_of_atoms(name, values[:, 0] if count == 1 else values)])
        elif kind == "S" and count == 1 and n:
            said += filter(None, [statement_of_atoms(name, np.asarray(words)[:, 0])])
    if ions := [formal_charge(symbol) for symbol in symbols if symbol[-1:] in "+-" or "+" in symbol]:
        said.append(Statement("charges", "charges beside the symbols", np.array(ions)))
    free = comment if properties is None else _ENTRY.sub(" ", comment)
    said += statements_in_text(free, int(z.sum()), words_too=not said)
    if properties is None:
        said += _fifth_column(rows)
    cell, pbc = _cell(lines, index, info, lower, vectors, comment)
    return build(
        z,
        x,
        said,
        info,
        cell=cell,
        pbc=pbc,
        symbols=written_symbols(symbols, z),
        masses=masses if np.isfinite(masses).any() else None,
        file=lines.path,
        index=index,
        order=index,
        faults=faults_of_unit(comment),
    )


def _columns(lines: _Lines, index: int, properties: Any) -> list[tuple[str, str, int]]:
    """(name, type, how many) of ``Properties=species:S:1:pos:R:3:...``."""
    if properties is None:
        return [("species", "S", 1), ("pos", "R", 3)]
    words = str(properties).split(":")
    names, kinds, counts = words[::3], words[1::3], words[2::3]
    if len(words) % 3 or not all(k in ("S", "I", "R", "L") for k in kinds) or not all(c.isdecimal() for c in counts):
        _refuse(lines, index, f"Properties={properties} is no list of name:type:count with the types S, I, R, L")
    columns = list(zip(names, kinds, map(int, counts), strict=True))
    known = {name.lower(): count for name, _, count in columns}
    if not any(known.get(name) == 1 for name in _SPECIES + _NUMBERS) or not any(known.get(p) == 3 for p in _POSITIONS):
        _refuse(
            lines, index, f"Properties={properties} names no column of elements (species:S:1) or positions (pos:R:3)"
        )
    return columns


def _numbers(lines: _Lines, index: int, head: int, words: list[list[str]]) -> np.ndarray:
    """[n, count]; exponents may be Fortran's or Mathematica's (``1.0D-3``, ``1.0*^-3``)."""
    try:
        return np.array(words, dtype=float).reshape(len(words), -1)
    except ValueError:
        pass
    out = []
    for k, row in enumerate(words):
        try:
            out.append([float(re.sub(r"(?<=[\d.])(\*\^|[dD])(?=[+-]?\d)", "e", word)) for word in row])
        except ValueError:
            _refuse(lines, index, f"line {head + 2 + k}: {' '.join(row)!r} are no numbers")
    return np.array(out, dtype=float)


def _fifth_column(rows: list[list[str]]) -> list[Statement]:
    """Charges of atoms, which Jmol and others write behind the positions; atom types and indices are none."""
    if not rows or any(len(row) != 5 for row in rows):
        return []
    try:
        values = np.array([float(row[4]) for row in rows])
    except ValueError:
        return []
    total = values.sum()
    if np.abs(values).max() > 4 or values.min() > 0 or abs(total) > 4 or abs(total - round(total)) > 0.05:
        return []
    return [Statement("charges", "fifth column", values)]


def _cell_by_another_name(info: dict[str, Any], comment: str) -> bool:
    """Whether a cell or periodicity is given otherwise than by ``Lattice`` and ``pbc``."""
    for key, value in info.items():
        name = re.sub("[^a-z]", "", str(key).lower())
        if name in _CELLS and np.size(value) in (3, 6, 9) and np.asarray(value).dtype.kind in "if" and np.any(value):
            return True
        if name in _PERIODIC and str(value).strip().lower() not in ("f", "false", "0", "none", "no", ""):
            return True
    found = _IPI.search(comment)
    return found is not None and any(float(word) for word in found[1].split())


def _cell(
    lines: _Lines, index: int, info: dict, lower: dict, vectors: list[list[str]], comment: str
) -> tuple[np.ndarray | None, tuple[bool, ...]]:
    """Lattice vectors [3, 3] or ``None``, and periodicity; a lattice is periodic unless ``pbc`` says otherwise."""
    lattice, pbc = info.get(lower.get("lattice", "")), info.get(lower.get("pbc", ""))
    if isinstance(pbc, str) and re.fullmatch("[TFtf01]{3}", pbc):
        pbc = [letter in "Tt1" for letter in pbc]
    cell, periodic = None, [False] * 3
    try:
        if lattice is not None:
            cell = np.asarray(lattice, dtype=float)
            cell, periodic = (cell.T if cell.ndim == 2 else cell.reshape(3, 3)), [True] * 3
            if not cell.any():
                cell, periodic = None, [False] * 3
        elif vectors:
            cell = np.zeros((3, 3))
            cell[: len(vectors)] = np.array(vectors, dtype=float)
            periodic = [k < len(vectors) for k in range(3)]
        elif _cell_by_another_name(info, comment):
            periodic = [True] * 3
        if pbc is not None:
            periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), 3).tolist()
    except ValueError as error:
        _refuse(lines, index, f"Lattice or pbc in its comment cannot be understood ({error})")
    return cell, tuple(map(bool, periodic))
