"""Bonds from distances, the graph of a molecule, and the units that its positions may be in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.spatial import cKDTree

_TO_ANGSTROM = {
    "a": "multiply them by 0.529177",  # au: atomic units
    "b": "multiply them by 0.529177",
    "p": "divide them by 100",
    "n": "multiply them by 10",
}
_AU = r"bohrs?|au\b|a\.u\.?|atomic[_ ]?(?:units?)?\b"
_LENGTH = r"(?:distance|length|position|pos|coordinate|coord|coords|geometry|xyz|cartesian|x_centroid)s?"
_UNIT = re.compile(
    rf"(?<![A-Za-z])(?:(?P<length>{_LENGTH})[_ -]?units?|(?<![A-Za-z_])units?)\s*[:=]?\s*[\"'(\[]?"
    rf"(?P<unit>{_AU}|pm|picometers?|nm|nanometers?)(?![A-Za-z])",
    re.I,
)
#: ``coordinates in Bohr``, ``geometry [a.u.]``, ``positions{atomic_unit}``, ``xyz (pm)``.
_IN_UNIT = re.compile(
    rf"(?<![A-Za-z]){_LENGTH}\s*(?:(?:are\s+)?(?:given\s+)?in|[(\[{{:,]|=)\s*(?:the\s+)?"
    rf"(?P<unit>{_AU}|pm|picometers?|nm|nanometers?)(?![A-Za-z/*^])",
    re.I,
)
#: Bohr by itself, not as a part of the unit of something else.
_BOHR_ALONE = re.compile(r"(?<![\w/*^.\-])(?<!\be )(?<!per )(?P<unit>bohrs?)(?![\w/*^\-]|\s*[\^/*]|\s+magneton)", re.I)
_SAYS_ANGSTROM = re.compile(r"angstr|Å|\bang\b", re.I)

#: Two atoms count as bonded below this multiple of the sum of their covalent radii.
BOND_FACTOR = 1.25
#: The bonds of H2 and F2 are longer than ASE's radii of H and F say (Cordero et al., Dalton Trans. 2832 (2008)).
_RADII = covalent_radii.copy()
_RADII[1], _RADII[9] = 0.37, 0.64
#: Atoms farther apart than this many times the sum of their radii are not bonded: hydrogen | others, whose multiple
#: bonds are a fifth shorter than that sum.
_NO_BOND = (1.6, 1.4)
#: Below this part of a bond's usual length all bonds of hydrogen and halogens | of others, which may be multiple, are
#: too short even for a molecule squeezed by 30 %.
_TOO_SHORT = (0.56, 0.5)
_MONOVALENT = (1, 9, 17, 35, 53)
#: Atoms up to which all distances are faster than a tree.
_FEW = 100
#: Atoms that need no bonds: noble gases and the closed shells of groups 2 and 12.
_NEED_NO_BOND = (2, 10, 18, 36, 54, 86, 4, 12, 20, 38, 56, 30, 48, 80)
#: What positions may have been multiplied by before somebody took them for Å, and what to say then.
_UNITS = (
    (0.529177, "they look like Bohr: multiply them by 0.529177"),
    (0.01, "they look like pm: divide them by 100"),
    (10.0, "they look like nm: multiply them by 10"),
    (1.889726, "they look as if multiplied by 0.529177, from Bohr to Å, although they were Å: divide them by 0.529177"),
)


def bonds(atomic_numbers: np.ndarray, positions: np.ndarray) -> frozenset[tuple[int, int]]:
    """Pairs of atoms (i < j) nearer than ``BOND_FACTOR`` times the sum of their covalent radii (ASE's).

    Args:
        atomic_numbers: [n].
        positions: [n, 3], Å.
    """
    radius = covalent_radii[np.asarray(atomic_numbers)]
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    longest = BOND_FACTOR * 2 * radius.max(initial=0.0)
    pairs = cKDTree(positions).query_pairs(longest, output_type="ndarray") if len(radius) else np.zeros((0, 2), int)
    i, j = pairs[np.lexsort(pairs.T[::-1])].T
    close = np.linalg.norm(positions[i] - positions[j], axis=-1) < BOND_FACTOR * (radius[i] + radius[j])
    i, j = i[close], j[close]
    return frozenset(zip(i.tolist(), j.tolist(), strict=True))


def graph_key(atomic_numbers: np.ndarray, positions: np.ndarray) -> str:
    """Formula and a hash of elements and bonds: equal for all conformers of a molecule, whatever the order of atoms.

    Bonds by covalent radii (``bonds``), hash by Weisfeiler-Lehman refinement (Weisfeiler and Lehman 1968;
    Shervashidze et al., J. Mach. Learn. Res. 12, 2539 (2011)).

    Args:
        atomic_numbers: [n].
        positions: [n, 3], Å.
    """
    z = np.asarray(atomic_numbers)
    neighbours: list[list[int]] = [[] for _ in z]
    for i, j in bonds(z, np.asarray(positions)):
        neighbours[i].append(j)
        neighbours[j].append(i)
    colours = [str(int(q)) for q in z]
    for _ in range(len(z)):
        refined = [
            hashlib.sha1("|".join([c, *sorted(colours[j] for j in n)]).encode()).hexdigest()
            for c, n in zip(colours, neighbours, strict=True)
        ]
        if len(set(refined)) == len(set(colours)) and colours[0] != str(int(z[0])):
            break
        colours = refined
    formula = Atoms(z).get_chemical_formula(mode="hill")
    return f"{formula}:{hashlib.sha1('|'.join(sorted(colours)).encode()).hexdigest()[:12]}"


def closest(atomic_numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which two atoms are closest, counted in sums of their radii.

    Args:
        atomic_numbers: [n], n at least 2.
        positions: [n, 3], Å.

    Returns:
        the neighbour of each atom [n] and distance / sum of radii to it [n] (of the six nearest in space
        where there are more than ``_FEW`` atoms).
    """
    z, x = np.asarray(atomic_numbers), np.asarray(positions)
    if len(z) <= _FEW:
        ratio = np.linalg.norm(x[:, None] - x[None], axis=-1) / (_RADII[z][:, None] + _RADII[z][None])
        np.fill_diagonal(ratio, np.inf)
        return ratio.argmin(axis=1), ratio.min(axis=1)
    distance, other = cKDTree(x).query(x, k=7)
    own = other == np.arange(len(z))[:, None]
    # atoms that coincide may hide an atom from its own list
    ratio = np.where(own, np.inf, distance / (_RADII[z][:, None] + _RADII[z][other]))
    best = ratio.argmin(axis=1)
    rows = np.arange(len(z))
    return other[rows, best], ratio[rows, best]


def _is_molecule(z: np.ndarray, x: np.ndarray) -> bool:
    """Nearly every atom has a neighbour at a bond's usual length, and no hydrogen has more than two."""
    ratio = closest(z, x)[1]
    if ((ratio > 0.7) & (ratio < 1.3)).mean() < 0.9:
        return False
    pairs = cKDTree(x).query_pairs(BOND_FACTOR * 2 * _RADII[z].max(), output_type="ndarray")
    length = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
    bonded = pairs[length < 1.2 * (_RADII[z[pairs[:, 0]]] + _RADII[z[pairs[:, 1]]])]
    count = np.bincount(bonded.ravel(), minlength=len(z))
    return bool((count[z == 1] > 2).mean() <= 0.1) if (z == 1).any() else True


def faults_of_unit(said: str | Mapping[Any, Any]) -> tuple[str, ...]:
    """What a comment or ``Atoms.info`` says of positions in another unit than Å, as a fault and its remedy.

    Atomic units count only where a length is named (``length_units=au``): energies are often in them.
    """
    if not isinstance(said, str):
        said = " ".join(f"{key}={value}" for key, value in said.items() if isinstance(value, str))
    found = next((x for x in _UNIT.finditer(said) if x["length"] or not x["unit"].lower().startswith("au")), None)
    found = found or _IN_UNIT.search(said) or (None if _SAYS_ANGSTROM.search(said) else _BOHR_ALONE.search(said))
    if found is None:
        return ()
    return (f"says that its positions are in {found['unit']}; {_TO_ANGSTROM[found['unit'][0].lower()]}",)


def other_unit(atomic_numbers: np.ndarray, positions: np.ndarray) -> str:
    """In which other unit than Å the positions [n, 3] would be those of a molecule, as advice; ``""`` if in none."""
    z, x = np.asarray(atomic_numbers), np.asarray(positions)
    return next((advice for factor, advice in _UNITS if len(z) > 1 and _is_molecule(z, x * factor)), "")


def scale_fault(atomic_numbers: np.ndarray, positions: np.ndarray) -> str:
    """Why the positions cannot be those of a molecule in Å: no atoms are bonded, or all bonds far too short.

    Args:
        atomic_numbers: [n], elements.
        positions: [n, 3], finite.

    Returns:
        a sentence without subject, ``""`` if nothing speaks against it. Single atoms, noble gases and clusters of
        molecules pass, and so does a molecule squeezed by 30 %, or one with a bond stretched by 60 %.
    """
    z, x = np.asarray(atomic_numbers), np.asarray(positions)
    if len(z) < 2 or np.isin(z, _NEED_NO_BOND).all():
        return ""
    other, ratio = closest(z, x)
    i = int(ratio.argmin())
    j = int(other[i])
    pair = f"the nearest, {min(i, j)} and {max(i, j)}, are {np.linalg.norm(x[i] - x[j]):.3f} Å apart"
    hydrogen = z == 1
    if ratio.min() > _NO_BOND[1] and (not hydrogen.any() or ratio[hydrogen].min() > _NO_BOND[0]):
        advice = other_unit(z, x)
        if advice or ratio.min() > _NO_BOND[0]:
            return f"has no two atoms that are bonded ({pair}); are the positions in Å?{advice and f' {advice}'}"
    single = np.isin(z, _MONOVALENT)
    too_short = np.median(ratio[single]) < _TOO_SHORT[0] if single.any() else np.median(ratio) < _TOO_SHORT[1]
    if too_short and (advice := other_unit(z, x)):
        return f"has all its atoms far too close ({pair}); are the positions in Å? {advice}"
    return ""
