"""What an ORCA calculation says, as read from its files: in ORCA's own order of orbitals, in atomic units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from ..basis import L_LETTERS, GaussianShell, all_electrons
from ..conventions import shell_order
from ..errors import UserError

#: Å per Bohr as compiled into ORCA (CODATA 1998), measured on orca_2json files of ORCA 5.0.4 and 6.1: with it S from
#: coordinates in Å equals PySCF's to 3e-13, with CODATA 2018 only to 5e-9.
ORCA_BOHR = 0.5291772083

ATOMIC_NUMBER = {symbol: z for symbol, z in atomic_numbers.items() if z}  # X, a dummy atom, is no element

#: No matrix element, energy (Eh) or coordinate (Bohr) of a molecule is larger.
_LARGEST = 1e6

_M_NAMES = {0: {0: ""}, 1: {0: "z", 1: "x", -1: "y"}, 2: {0: "z2", 1: "xz", -1: "yz", 2: "x2y2", -2: "xy"}}
_LABEL = re.compile(r"(\d{1,6})([A-Z][A-Za-z]?)\s+(\d{1,3})([a-z])(\S{0,6})")


@dataclass(frozen=True)
class OrcaCalculation:
    """One closed-shell SCF of ORCA.

    Attributes:
        path: the file.
        source: ``"json"`` (``orca_2json``, full precision) or ``"text"`` (printed with 6 decimals).
        version: ORCA's, as printed.
        atomic_numbers: [n] int64.
        positions: [n, 3] float64, Bohr: what ORCA's integrals saw.
        charge: total charge.
        shells: for each atom the l of its shells in ORCA's order (SP shells stay where the basis has them).
        functions: atomic number -> contracted Gaussians in the same order, or ``None`` if the file has none.
        basis_name: as the output names it, or ``None``.
        overlap: [m, m] float64, or ``None`` if the file has none.
        coefficients: [m, m] float64, columns are orbitals.
        energies: [m] float64, orbital energies, Eh.
        occupations: [m] float64.
        fock: [m, m] float64, Eh, if the file has one; never the core Hamiltonian.
        mulliken: [n] float64, Mulliken charges, if the file has them.
        level: level of theory, as far as the file states it.
        total_energy: SCF energy, Eh, if the file has it.
        one_electron_energy: Eh, likewise.
        nuclear_repulsion: Eh, likewise.
        converged: the file itself says that the SCF converged (``orca_2json`` never does).
    """

    path: str
    source: str
    version: str
    atomic_numbers: np.ndarray
    positions: np.ndarray
    charge: int
    shells: tuple[tuple[int, ...], ...]
    functions: dict[int, tuple[GaussianShell, ...]] | None
    basis_name: str | None
    overlap: np.ndarray | None
    coefficients: np.ndarray
    energies: np.ndarray
    occupations: np.ndarray
    fock: np.ndarray | None = None
    mulliken: np.ndarray | None = None
    level: dict[str, str] = field(default_factory=dict)
    total_energy: float | None = None
    one_electron_energy: float | None = None
    nuclear_repulsion: float | None = None
    converged: bool = False


def refuse(path, what: str) -> NoReturn:
    """Raise the ``UserError`` that names the file."""
    raise UserError(f"{path}: {what}")


def _m_name(l: int, m: int) -> str:
    return _M_NAMES[l][m] if l in _M_NAMES else (f"{m:+d}" if m else "0")


def shells_from_labels(path, labels: Sequence[str], atomic_numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The shells of each atom from ORCA's orbital labels (``"0C   1s"``, ``"0C   1pz"``, ``"3O   1f+3"``).

    The labels are the file's own statement of its orbital order, so every one is compared with the order that
    ``schnorb_t.conventions`` undoes.

    Returns:
        For each atom the l of its shells, in ORCA's order.

    Raises:
        UserError: a label that is none, atoms or functions in another order than ORCA's, a shell cut short.
    """
    shells: list[list[int]] = [[] for _ in atomic_numbers]
    at, last_atom = 0, 0
    while at < len(labels):
        found = _LABEL.fullmatch(labels[at].strip())
        if found is None or found[4] not in L_LETTERS:
            refuse(path, f"orbital label {labels[at]!r} is none of ORCA's (s, p, d, f, g, h are known)")
        atom, l = int(found[1]), L_LETTERS.index(found[4])
        if atom >= len(shells) or chemical_symbols[atomic_numbers[atom]].upper() != found[2].upper():
            refuse(path, f"orbital label {labels[at]!r} does not fit the list of atoms")
        if atom < last_atom or (atom > last_atom and not shells[last_atom]) or atom > last_atom + 1:
            refuse(path, f"orbital label {labels[at]!r}: the atoms are not in order")
        last_atom = atom
        number = shells[atom].count(l) + 1
        for k, m in enumerate(shell_order("orca", l)[0]):
            wanted = f"{atom}{found[2]} {number}{found[4]}{_m_name(l, m)}"
            got = " ".join(labels[at + k].split()) if at + k < len(labels) else "nothing"
            if got != wanted:
                refuse(path, f"orbital {at + k} is {got!r}, in ORCA's order it would be {wanted!r}")
        shells[atom].append(l)
        at += 2 * l + 1
    empty = [i for i, ls in enumerate(shells) if not ls]
    if empty:
        refuse(path, f"atom {empty[0]} has no orbitals; ghost atoms and effective potentials are not imported")
    return tuple(tuple(ls) for ls in shells)


def aligned(calculation: OrcaCalculation) -> None:
    """Sizes, finiteness, closed shell, and one set of shells per element.

    Raises:
        UserError: naming the file and what is wrong.
    """
    c, path = calculation, calculation.path
    m = sum(2 * l + 1 for ls in c.shells for l in ls)
    if c.coefficients.shape != (m, m):
        refuse(
            path,
            f"has {c.coefficients.shape[1]} orbitals of {c.coefficients.shape[0]} coefficients for {m} basis "
            "functions; all are needed (ORCA drops some where the basis is linearly dependent: use a smaller basis)",
        )
    for name, array, shape in (
        ("overlap", c.overlap, (m, m)),
        ("Fock matrix", c.fock, (m, m)),
        ("orbital energies", c.energies, (m,)),
        ("occupations", c.occupations, (m,)),
        ("coefficients", c.coefficients, (m, m)),
        ("coordinates", c.positions, (len(c.atomic_numbers), 3)),
        ("Mulliken charges", c.mulliken, (len(c.atomic_numbers),)),
    ):
        if array is None:
            continue
        if array.shape != shape:
            refuse(path, f"{name}: shape {list(array.shape)}, expected {list(shape)}")
        if not np.isfinite(array).all():
            refuse(path, f"{name}: NaN or infinity")
        if np.abs(array).max() > _LARGEST:
            refuse(path, f"{name}: {np.abs(array).max():.1e} is an impossible value")
    n_electrons = all_electrons(c.atomic_numbers, c.charge)
    if n_electrons % 2 or not 0 < n_electrons // 2 <= m:
        refuse(path, f"{n_electrons} electrons in {m} orbitals are no closed shell")
    n_occupied = n_electrons // 2
    wanted = np.where(np.arange(m) < n_occupied, 2.0, 0.0)
    if np.abs(c.occupations - wanted).max() > 1e-6:
        refuse(
            path,
            f"occupations are not 2 for the lowest {n_occupied} orbitals and 0 above ({n_electrons} electrons); open "
            "shells, fractional occupations and natural orbitals are not imported",
        )
    step = np.diff(c.energies)
    if len(step) and step.min() < -2e-5:
        k = int(step.argmin())
        refuse(path, f"orbital energies do not ascend: {c.energies[k]:.6f} before {c.energies[k + 1]:.6f} Eh")
    shells: dict[int, tuple[int, ...]] = {}
    for atom, (z, ls) in enumerate(zip(c.atomic_numbers.tolist(), c.shells, strict=True)):
        if shells.setdefault(z, ls) != ls:
            refuse(
                path,
                f"atom {atom} ({chemical_symbols[z]}) has other shells than the other {chemical_symbols[z]} atoms; "
                "one basis per element is needed",
            )
        if c.functions is not None and tuple(f.l for f in c.functions.get(z, ())) != ls:
            refuse(path, f"the Gaussians given for {chemical_symbols[z]} do not fit its orbitals")
