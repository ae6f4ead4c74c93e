"""What may be wrong with a file of molecules: every check, one pass over the file, memory bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from scipy.linalg import LinAlgError, eigh, eigvalsh

from .. import keys
from ..errors import UserError
from .duplicates import (
    N_INVARIANTS,
    composition_code,
    find_duplicates,
    geometry_invariants,
    smallest_distance,
)
from .reader import Store
from .records import ASYMMETRY_LIMIT, SPLITS, electron_fault, unpack

#: Å: atoms closer than this overlap (H2 has 0.74).
MIN_DISTANCE = 0.3
#: Smaller eigenvalues of S make (H, S) unsolvable.
MIN_OVERLAP_EIGENVALUE = 1e-8
#: Eh: occupied levels of a projection equal those of the large basis within this (text output has 6 decimals).
OCCUPIED_TOLERANCE = 1e-5
#: Eh: the same geometry with energies farther apart has contradicting labels.
ENERGY_TOLERANCE = 1e-5
#: Targets whose occupied levels are those of the large-basis calculation.
EXACT_TARGETS = ("wqao", "vqao", "wqvo", "iao", "quambo", "full")
#: Messages kept of each kind of problem; all are counted.
KEPT = 10

#: What is measured of every molecule.
MEASURES = (
    "smallest_distance",  # Å
    "overlap_eigenvalue",  # smallest
    "occupied_error",  # Eh, largest |eigenvalue of (H, S) - large-basis level| over occupied orbitals
    "homo",  # Eh, of (H, S)
    "lumo",
    "homo_large_basis",
    "lumo_large_basis",
)


@dataclass
class Problems:
    """Messages by kind, the first few of each; all are counted."""

    counts: dict[str, int] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, message: str) -> None:
        """Count a problem of a kind, and keep its message if it is among the first."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        kept = self.messages.setdefault(kind, [])
        if len(kept) < KEPT:
            kept.append(message)

    def __bool__(self):
        return bool(self.counts)

    def lines(self) -> list[str]:
        """All kept messages, each led by its kind, and how many more there were."""
        out = []
        for kind, messages in self.messages.items():
            more = self.counts[kind] - len(messages)
            out += [f"{kind}: {message}" for message in messages]
            out += [f"{kind}: and {more} more"] if more else []
        return out


@dataclass
class Report:
    """What a file holds and what is wrong with it.

    Attributes:
        errors: what would poison training; warnings: what may be meant.
        measures: name (``MEASURES``) -> [n] float64, NaN where it could not be measured.
        element_counts: [119] int64, atoms of each element.
    """

    path: Path
    errors: Problems
    warnings: Problems
    measures: dict[str, np.ndarray]
    element_counts: np.ndarray


def check(path: str | Path, progress: Callable[[int, int], None] | None = None) -> Report:
    """Validate a file.

    Args:
        path: of a store.
        progress: called with (molecules done, molecules in all).

    Raises:
        UserError: the file cannot be opened.
    """
    with Store(path) as store:
        n = len(store)
        measures = {name: np.full(n, np.nan) for name in MEASURES}
        report = Report(store.path, Problems(), Problems(), measures, np.zeros(119, dtype=np.int64))
        _check_index(store, report)
        compositions, invariants = np.zeros(n, dtype=np.int64), np.zeros((n, N_INVARIANTS))
        alike = np.zeros(n, dtype=np.int64)
        readable = np.ones(n, dtype=bool)
        for i in range(n):
            geometry = _check_molecule(store, i, report)
            readable[i] = geometry is not None
            if geometry is not None:
                compositions[i], invariants[i] = composition_code(geometry[0]), geometry_invariants(*geometry)
                charge = store.basis.n_electrons(geometry[0]) - int(store.n_electrons[i])
                alike[i] = composition_code(geometry[0], charge)
            else:
                compositions[i] = alike[i] = -1 - i  # unlike any other
            if progress is not None:
                progress(i + 1, n)
        _check_duplicates(store, compositions, alike, invariants, report)
        _check_groups(store, report)
    return report


def _check_index(store: Store, report: Report) -> None:
    """Names and lengths, no matrices read."""
    _, first = np.unique(store.column("name", decode=False), return_index=True)
    for i in np.setdiff1d(np.arange(len(store)), first).tolist():
        report.errors.add("duplicate name", f"molecule {store.name_of(i)!r} (index {i}) is there more than once")
    for i in np.flatnonzero(~np.isin(store.splits, (*SPLITS, ""))).tolist():
        report.errors.add("split", f"molecule {store.name_of(i)!r} has the unknown split {str(store.splits[i])!r}")
    for name in (q.field for q in keys.stored() if q.symmetric and q.field in store.fields):
        values = store.column(f"{name}_asymmetry")
        for i in np.flatnonzero(~(values <= ASYMMETRY_LIMIT)).tolist():
            report.errors.add(
                "not symmetric", f"molecule {store.name_of(i)!r}: {name} was asymmetric by {values[i]:.1e}"
            )


def _check_molecule(store: Store, i: int, report: Report) -> tuple[np.ndarray, np.ndarray] | None:
    """All checks of one molecule; returns its geometry if that is sound."""

    def wrong(kind: str, what: str) -> None:
        report.errors.add(kind, f"molecule {store.name_of(i)!r} (index {i}): {what}")

    try:
        packed = store.packed(i)
    except UserError as error:
        report.errors.add("unreadable", str(error))
        return None
    z = packed.atomic_numbers
    if not len(z):
        wrong("shape", "it has no atoms")
        return None
    if z.min() < 1 or z.max() > 118:
        wrong("basis", f"there is no element with atomic number {z.min() if z.min() < 1 else z.max()}")
        return None
    report.element_counts += np.bincount(z, minlength=119)
    try:
        m = int(store.basis.n_orbitals(z).sum())
    except KeyError as error:
        wrong("basis", str(error.args[0]))
        return None
    if int(store.n_orbitals[i]) != m:
        wrong("shape", f"n_orbitals has {store.n_orbitals[i]}, its atoms need {m} in basis {store.basis.name}")
        return None
    for q in keys.stored():
        value = packed.values.get(q.field)
        if value is None or q.dtype == "text":
            continue
        expected = (m * (m + 1) // 2,) if q.symmetric else q.record_shape(len(z), m)
        found = np.shape(value)
        if len(found) != len(expected) or any(e is not None and e != f for e, f in zip(expected, found, strict=True)):
            wrong("shape", f"{q.field} has {found}, its atoms need {expected} in basis {store.basis.name}")
            return None
        if q.dtype == "float64" and not np.isfinite(value).all():
            wrong("not finite", f"{q.field} holds NaN or infinity")
            return None
    geometry = z.astype(np.int64), packed.positions
    near = smallest_distance(packed.positions)
    report.measures["smallest_distance"][i] = near
    if near < MIN_DISTANCE:
        wrong("overlapping atoms", f"two atoms are {near:.3f} Å apart")
    n_electrons, charge = packed.n_electrons, store.basis.n_electrons(geometry[0]) - packed.n_electrons
    unpaired = packed.n_unpaired or 0
    if fault := electron_fault(packed, store.basis):
        wrong("electrons", fault)
    elif n_electrons < 1 or (n_electrons - unpaired) % 2 or n_electrons + unpaired > 2 * m:
        shells = f"{unpaired} unpaired electrons and closed shells" if unpaired else "closed shells"
        wrong("electrons", f"{n_electrons} electrons cannot fill {shells} in {m} orbitals")
    else:
        if charge and packed.charge is None:
            report.warnings.add(
                "charged", f"molecule {packed.name!r}: {n_electrons} electrons, so its charge is {charge:+d}"
            )
        if packed.hamiltonian is not None and packed.overlap is not None and not unpaired:
            _check_levels(store, unpack(packed), i, report, wrong)
    return geometry


def _check_levels(store: Store, record, i: int, report: Report, wrong: Callable[[str, str], None]) -> None:
    """Spectra of S and of (H, S)."""
    measures, n_occupied = report.measures, record.n_electrons // 2
    smallest = float(eigvalsh(record.overlap, check_finite=False, subset_by_index=[0, 0])[0])
    measures["overlap_eigenvalue"][i] = smallest
    if smallest < MIN_OVERLAP_EIGENVALUE:
        return wrong("overlap", f"the smallest eigenvalue of S is {smallest:.1e}, S is not positive definite")
    try:
        levels = eigh(record.hamiltonian, record.overlap, eigvals_only=True, check_finite=False)
    except LinAlgError:
        return wrong("overlap", "(H, S) cannot be diagonalised")
    large = np.sort(np.zeros(0) if record.large_basis_energies is None else record.large_basis_energies)
    for suffix, values in (("", levels), ("_large_basis", large)):
        if len(values) >= n_occupied:
            measures[f"homo{suffix}"][i] = values[n_occupied - 1]
        if len(values) > n_occupied:
            measures[f"lumo{suffix}"][i] = values[n_occupied]
    if store.target not in EXACT_TARGETS or not len(large):
        return None
    if len(large) < n_occupied:
        return wrong("large-basis levels", f"{len(large)} levels for {n_occupied} occupied orbitals")
    error = float(np.abs(levels[:n_occupied] - large[:n_occupied]).max())
    measures["occupied_error"][i] = error
    if error > OCCUPIED_TOLERANCE:
        wrong("occupied levels", f"levels of (H, S) differ from the large-basis calculation by {error:.1e} Eh")
    return None


def _check_duplicates(store: Store, compositions, alike, invariants, report: Report) -> None:
    def load(i: int):
        packed = store.packed(i)
        return packed.atomic_numbers, packed.positions

    splits, energies = store.splits, store.total_energies
    pairs = find_duplicates(compositions, invariants, load)
    # an ion at the geometry of its molecule is another molecule, but no test of a model that has seen the molecule
    ions = len(np.unique(alike)) > len(np.unique(compositions))
    same = set(find_duplicates(alike, invariants, load) if ions else pairs)
    for i, j in sorted({*pairs, *same}):
        pair = f"molecules {store.name_of(i)!r} and {store.name_of(j)!r} have the same geometry"
        if splits[i] != splits[j] and splits[i] and splits[j]:
            report.errors.add("splits overlap", f"{pair}, one in {splits[i]}, one in {splits[j]}")
        elif (i, j) not in same:
            continue
        elif abs(energies[i] - energies[j]) > ENERGY_TOLERANCE:
            differ = abs(energies[i] - energies[j])
            report.errors.add("contradiction", f"{pair}, but total energies {differ:.1e} Eh apart")
        else:
            report.warnings.add("duplicate geometry", pair)


def _check_groups(store: Store, report: Report) -> None:
    """All geometries of one molecule belong in one split."""
    groups, first, inverse = np.unique(store.column("group", decode=False), return_index=True, return_inverse=True)
    splits = store.splits
    member = np.zeros((len(groups), len(SPLITS)), dtype=bool)
    for k, split in enumerate(SPLITS):
        member[inverse[splits == split], k] = True
    for g in np.flatnonzero(member.sum(axis=1) > 1):
        there = ", ".join(split for split, is_in in zip(SPLITS, member[g], strict=True) if is_in)
        report.errors.add(
            "splits overlap",
            f"the geometries of {groups[g].decode()!r} (such as molecule {store.name_of(first[g])!r}) stand in {there}",
        )


def formula_of_counts(counts: np.ndarray) -> str:
    """[119] -> ``"H 12, C 5"``."""
    return ", ".join(f"{chemical_symbols[z]} {counts[z]:,}" for z in np.flatnonzero(counts))
