"""What files write where an element is expected: symbols, numbers, isotopes, numbered labels, ghosts."""

from __future__ import annotations

import re
from functools import lru_cache

from ase.data import atomic_numbers, chemical_symbols

#: Masses of the isotopes that have symbols of their own, atomic mass units.
_NAMED_ISOTOPES = {"D": 2.014, "T": 3.016}
_GHOST = re.compile(r"(X|XX|Q|DU|DUMMY|LP|TV|M)|(@|BQ|GH|GHOST|X)[-_:]?[A-Z]{0,2}\d*|[A-Z]{1,2}(:|[-_](BQ|GH|GHOST))")
_SYMBOL = re.compile(r"(\d{0,3})([A-Za-z]{1,2})(\d*|[_.\-(].*|\d?[+-]+|[+-]\d)")
_ION = re.compile(r"\d{0,3}[A-Za-z]{1,2}(?:(\d?)([+-]+)|(\+\d))")


@lru_cache(maxsize=4096)
def parse_element(text: str) -> tuple[int, float] | None:
    """Atomic number and mass of what stands where a file names an element.

    Known are symbols in any case (``C``, ``CL``), atomic numbers (``6``), isotopes (``D``, ``T``, ``2H``, ``13C``),
    labels (``C12``, ``N_3``, ``O.2``, ``H(fragment=1)``), ions (``Cl-``, ``Ca2+``; see ``formal_charge``), and ghost or
    dummy atoms (``X``, ``Bq``, ``Gh``, ``Du``, ``O:``, ``@H``), whose number is 0.

    Returns:
        (atomic number, mass in atomic mass units; NaN where the element's usual one is meant), or ``None`` if unknown.
    """
    text = text.strip()
    if text.isdecimal():
        z = int(text)
        return (z, float("nan")) if z < len(chemical_symbols) else None
    found = _SYMBOL.fullmatch(text)
    mass, symbol, rest = (found[1], found[2].capitalize(), found[3]) if found else ("", "", "")
    ghost = _GHOST.fullmatch(text.upper())
    if symbol in _NAMED_ISOTOPES and not mass:
        return 1, _NAMED_ISOTOPES[symbol]
    z = atomic_numbers.get(symbol, 0)
    if ghost and (z == 0 or ghost[3]):
        return 0, float("nan")
    if z == 0:
        return None
    isotope = re.search(r"\biso=(\d+\.?\d*)", rest, re.IGNORECASE)
    number = float(mass or (isotope[1] if isotope else 0))
    if number and not z <= number <= 3 * z + 3:
        return None
    return z, number if number else float("nan")


def formal_charge(text: str) -> int:
    """The charge that a symbol carries (``Cl-``: -1, ``Ca2+``, ``Ca++``, ``Ca+2``: 2), 0 where it has none."""
    found = _ION.fullmatch(text.strip())
    if not found:
        return 0
    if found[3]:
        return int(found[3])
    if len(set(found[2])) > 1:
        return 0
    return (int(found[1]) if found[1] else len(found[2])) * (1 if found[2][0] == "+" else -1)
