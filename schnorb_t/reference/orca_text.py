"""ORCA's printed output (2.6 to 6.1) -> ``OrcaCalculation``.

Matrices are printed in blocks of up to 6 columns: a line of column indices, then one line per row; what follows the
last block differs by version, so rows and blocks are counted. Numbers have a fixed count of decimals and may touch
(``-20.535219-100.123456``), so they are found by their decimals, and nothing else may stand in the line.

Needs ``Print[P_Overlap] 1``, ``Print[P_MOs] 1`` and, for the Gaussians, ``Print[P_Basis] 2`` in ``%output``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..basis import L_LETTERS, GaussianShell
from .orca_calculation import ATOMIC_NUMBER, OrcaCalculation, refuse, shells_from_labels
from .orca_output import (
    FLOAT,
    OrcaOutput,
    basis_name,
    energy,
    geometry,
    level_of_theory,
    mulliken,
    printed_energies,
    read_output,
)

#: What ORCA prints for ORBITAL ENERGIES (6 decimals) and above the coefficients (5) may differ by the rounding.
_ENERGY_ROUNDING = 1.1e-5
_PRINT_AGAIN = "run again with the %output block that schnorb_t write-orca --text writes"


def read_text(path: str | Path) -> OrcaCalculation:
    """Read overlap, orbitals and, where printed, the Fock matrix from an output.

    Raises:
        UserError: as ``read_output``, or a matrix is missing, damaged or printed twice.
    """
    return parse_text(read_output(path))


def parse_text(output: OrcaOutput) -> OrcaCalculation:
    """``read_text`` for an output already read."""
    path, n = output.path, output.n_orbitals
    numbers, positions = geometry(output)
    at = output.find("OVERLAP MATRIX")
    if at is None:
        refuse(path, f"prints no overlap matrix; {_PRINT_AGAIN}")
    overlap = _matrix(output, at + 2, n, "overlap matrix")
    at = output.find("MOLECULAR ORBITALS", "MOLECULAR ORBITALS (RHF, ROHF)", "MOLECULAR ORBITALS (UHF)")
    if at is None:
        refuse(path, f"prints no orbitals; {_PRINT_AGAIN}")
    labels, coefficients, energies, occupations = _orbitals(output, at + 2, n)
    shells = shells_from_labels(path, labels, numbers)
    level = level_of_theory(output)
    return OrcaCalculation(
        path=path,
        source="text",
        version=output.version,
        atomic_numbers=np.array(numbers, dtype=np.int64),
        positions=positions,
        charge=output.charge,
        shells=shells,
        functions=_basis(output),
        basis_name=basis_name(output),
        overlap=overlap,
        coefficients=coefficients,
        energies=_refined(output, energies, occupations),
        occupations=occupations,
        fock=_fock(output),
        mulliken=mulliken(output, numbers),
        level=level,
        total_energy=energy(output, "Total Energy"),
        one_electron_energy=energy(output, "One Electron Energy"),
        nuclear_repulsion=energy(output, "Nuclear Repulsion"),
        converged=True,
    )


# ---- numbers -------------------------------------------------------------------------------------------------


def _numbers(output: OrcaOutput, i: int, text: str, count: int, decimals: int, what: str) -> list[float]:
    """So many numbers of so many decimals, and nothing else."""
    found = re.findall(rf"-?\d+\.\d{{{decimals}}}", text)
    if len(found) != count or "".join(found) != "".join(text.split()):
        refuse(output.path, f"line {i + 1}, {what}: expected {count} numbers, got {text.strip()[:80]!r}")
    return [float(x) for x in found]


def _columns(output: OrcaOutput, i: int, first: int, n: int, what: str) -> range:
    """The line of column indices of a block."""
    wanted = range(first, min(first + 6, n))
    if output.line(i).split() != [str(k) for k in wanted]:
        refuse(
            output.path,
            f"line {i + 1}, {what}: expected the columns {wanted.start}..{wanted.stop - 1}, got "
            f"{output.line(i).strip()[:80]!r}; blocks are missing, doubled or out of order",
        )
    return wanted


def _matrix(output: OrcaOutput, at: int, n: int, what: str) -> np.ndarray:
    """[n, n] printed in blocks of 6 columns from line ``at`` on."""
    _room(output, at, n, 1, what)
    out = np.empty((n, n))
    for first in range(0, n, 6):
        columns = _columns(output, at, first, n, what)
        for row in range(n):
            i = at + 1 + row
            index, _, rest = output.line(i).strip().partition(" ")
            if index != str(row):
                refuse(output.path, f"line {i + 1}, {what}: expected row {row}, got {output.line(i).strip()[:80]!r}")
            out[row, columns.start : columns.stop] = _numbers(output, i, rest, len(columns), 6, what)
        at += 1 + n
    if np.abs(out - out.T).max() > 1.5e-6:
        refuse(output.path, f"{what} is not symmetric: differs from its transpose by {np.abs(out - out.T).max():.1e}")
    return out


def _room(output: OrcaOutput, at: int, n: int, head: int, what: str) -> None:
    if n == 0 or at + (n + head) * -(-n // 6) > len(output.lines):
        refuse(output.path, f"{what}: the file is too short for {n} x {n} numbers from line {at + 1} on")


# ---- sections ------------------------------------------------------------------------------------------------


def _orbitals(output: OrcaOutput, at: int, n: int):
    """Labels, coefficients [n, n], energies [n] (5 decimals), occupations [n]."""
    what = "molecular orbitals"
    _room(output, at, n, 4, what)
    coefficients, energies, occupations = np.empty((n, n)), np.empty(n), np.empty(n)
    labels: list[str] = []
    pattern = re.compile(r"\s*(\d+[A-Z][A-Za-z]?)\s+(\d+[a-z]\S*)\s(.*)")
    for first in range(0, n, 6):
        columns = _columns(output, at, first, n, what)
        here = slice(columns.start, columns.stop)
        energies[here] = _numbers(output, at + 1, output.line(at + 1), len(columns), 5, "orbital energies")
        occupations[here] = _numbers(output, at + 2, output.line(at + 2), len(columns), 5, "occupations")
        for row in range(n):
            i = at + 4 + row
            found = pattern.fullmatch(output.line(i))
            if found is None:
                refuse(output.path, f"line {i + 1}, {what}: expected orbital {row}, got {output.line(i)[:80]!r}")
            label = f"{found[1]} {found[2]}"
            if first == 0:
                labels.append(label)
            elif labels[row] != label:
                refuse(output.path, f"line {i + 1}, {what}: expected {labels[row]!r}, got {label!r}")
            coefficients[row, here] = _numbers(output, i, found[3], len(columns), 6, what)
        at += 4 + n
    return labels, coefficients, energies, occupations


def _refined(output: OrcaOutput, energies: np.ndarray, occupations: np.ndarray) -> np.ndarray:
    """The energies above the coefficients, with the sixth decimal from ORBITAL ENERGIES where that has it."""
    finer, finer_occupations = printed_energies(output)
    k = len(finer)
    if (
        k > len(energies)
        or np.abs(finer - energies[:k]).max() > _ENERGY_ROUNDING
        or np.abs(finer_occupations - occupations[:k]).max() > 1e-4
    ):
        refuse(output.path, "ORBITAL ENERGIES and the energies above the orbital coefficients differ")
    return np.concatenate([finer, energies[k:]])


def _fock(output: OrcaOutput) -> np.ndarray | None:
    """The last ``Fock matrix for operator 0`` before convergence (``Print[P_Iter_F] 1`` prints one per cycle)."""
    places = [i for i, x in enumerate(output.lines) if x.strip().rstrip(":") == "Fock matrix for operator 0"]
    if not places:
        return None
    converged = next(i for i, x in enumerate(output.lines) if "SCF CONVERGED AFTER" in x)
    before = [i for i in places if i < converged]
    if not before:
        refuse(output.path, f"prints a Fock matrix, but none before the SCF converged; {_PRINT_AGAIN}")
    at = before[-1] + 1
    if set(output.line(at).strip()) == {"-"}:
        at += 1
    return _matrix(output, at, output.n_orbitals, "Fock matrix")


def _basis(output: OrcaOutput) -> dict[int, tuple[GaussianShell, ...]] | None:
    """Gaussians per element in ORCA's order, from BASIS SET IN INPUT FORMAT (``Print[P_Basis] 2``)."""
    at = output.find("BASIS SET IN INPUT FORMAT")
    if at is None:
        return None
    out: dict[int, tuple[GaussianShell, ...]] = {}
    z, shells, i = None, [], at + 2
    while i < len(output.lines) and set(output.lines[i].strip()) != {"-"}:
        words = output.lines[i].split()
        if words[:1] == ["NewGTO"] and len(words) == 2:
            z, shells = ATOMIC_NUMBER.get(words[1].capitalize()), []
            if z is None or z in out:
                refuse(output.path, f"line {i + 1}, basis: element {words[1]!r} is unknown or there twice")
        elif words == ["end;"]:
            if z is None or not shells:
                refuse(output.path, f"line {i + 1}, basis: an element without shells")
            out[z], z = tuple(shells), None
        elif z is not None:
            new, i = _printed_shell(output, i, words)
            shells.extend(new)
        elif words and not words[0].startswith("#"):
            break
        i += 1
    if not out or z is not None:
        refuse(output.path, "the printed basis is damaged")
    return out


def _printed_shell(output: OrcaOutput, i: int, words: list[str]) -> tuple[list[GaussianShell], int]:
    """``S 3`` and its primitives; ``L`` is an SP shell with two columns. Returns the shells and the last line read."""
    letters = {"L": "sp", "SP": "sp"}.get(words[0].upper(), words[0].lower()) if words else ""
    ls = [L_LETTERS.find(letter) for letter in letters]
    if len(words) != 2 or not ls or min(ls) < 0 or not re.fullmatch(r"[1-9]\d?", words[1]):
        refuse(output.path, f"line {i + 1}, basis: {output.lines[i].strip()[:60]!r} begins no shell")
    table = []
    for k in range(1, int(words[1]) + 1):
        entry = output.line(i + k).split()
        if len(entry) != 2 + len(ls) or entry[0] != str(k) or not all(re.fullmatch(FLOAT, w) for w in entry[1:]):
            refuse(output.path, f"line {i + k + 1}, basis: {output.line(i + k).strip()[:60]!r} is no primitive")
        table.append([float(w) for w in entry[1:]])
    columns = np.array(table).T
    if columns[0].min() <= 0 or not columns[1:].any(axis=1).all():
        refuse(output.path, f"line {i + 1}, basis: exponents must be positive, coefficients not all zero")
    shells = [
        GaussianShell(l, tuple(columns[0].tolist()), tuple(c.tolist())) for l, c in zip(ls, columns[1:], strict=True)
    ]
    return shells, i + int(words[1])
