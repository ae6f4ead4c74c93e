"""What a published Slater-Koster set says in its README: Hubbard derivatives, damping exponent, spin constants.

The .skf format has no place for them, so they are given to people: "List of all atomic Hubbard derivatives" with lines
``C = -0.1492``, "zeta = 4.00", and under "Spin constants" a symmetric matrix per element, shells by l.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers as number_of

_NAMES = ("README", "README.txt", "README.md", "readme.txt")
_NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class SetParameters:
    """Numbers of a set beside its tables; empty where the README has none.

    Attributes:
        hubbard_derivatives: Z -> U^d = dU/dq, Eh per electron.
        damping_exponent: zeta of the damping of hydrogen's gamma.
        spin_constants: Z -> W [n, n], Eh, W_ll' of the shells l = 0..n-1.
    """

    hubbard_derivatives: dict[int, float] = field(default_factory=dict)
    damping_exponent: float | None = None
    spin_constants: dict[int, np.ndarray] = field(default_factory=dict)


def read_set_parameters(folder: str | Path) -> SetParameters:
    """Parameters of the set in a folder from its README; an empty ``SetParameters`` where it has no README."""
    for name in _NAMES:
        path = Path(folder) / name
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return SetParameters(_derivatives(lines), _exponent(lines), _spin_constants(lines))
    return SetParameters()


def _derivatives(lines: list[str]) -> dict[int, float]:
    out: dict[int, float] = {}
    inside = False
    for line in lines:
        if re.search(r"Hubbard derivatives", line):
            inside = True
        elif inside:
            found = re.fullmatch(rf"\s*([A-Z][a-z]?)\s*=\s*({_NUMBER})\s*", line)
            if found and found[1] in number_of:
                out[number_of[found[1]]] = float(found[2])
            elif out:
                break
    return out


def _exponent(lines: list[str]) -> float | None:
    for line in lines:
        found = re.match(rf"\s*zeta\s*=\s*({_NUMBER})", line)
        if found:
            return float(found[1])
    return None


def _spin_constants(lines: list[str]) -> dict[int, np.ndarray]:
    out: dict[int, np.ndarray] = {}
    inside, element = False, 0
    rows: list[list[float]] = []

    def close() -> None:
        square = len({len(rows), *map(len, rows)}) == 1
        if element and rows and square:
            out[element] = np.array(rows)

    for line in lines:
        heading = re.fullmatch(r"\s*([A-Z][a-z]?)\s*:\s*", line)
        if re.match(r"\s*Spin constants\s*$", line):
            inside = True
        elif inside and heading and heading[1] in number_of:
            close()
            element, rows = number_of[heading[1]], []
        elif inside and element and re.fullmatch(rf"(\s*{_NUMBER})+\s*", line):
            rows.append([float(x) for x in line.split()])
        elif inside and line.strip() and rows:
            break
    close()
    return out
