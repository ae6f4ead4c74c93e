"""Predicted Hamiltonian and overlap inside DFTB+: it solves, fills and sums with our matrices in place of its own.

The library is named by the environment variable ``DFTBPLUS_LIBRARY``; DFTB+ 25.1 or newer, serial.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from schnorb_t.errors import UserError
from schnorb_t.interfaces.dftbplus_input import (
    BAND_FILE,
    DETAILED_FILE,
    EIGENVECTOR_FILE,
    PROCESSED_FILE,
    check_processed,
    read_band_file,
    read_eigenvectors,
    read_energies,
    write_input,
)
from schnorb_t.interfaces.dftbplus_library import LOG_FILE, Calculation, Setup, find_library, load_library, rehearse
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.prediction import Prediction
from schnorb_t.units import DFTBPLUS_BOHR, DFTBPLUS_HARTREE

#: Eh, how far ``band.out``, which has four decimals of an eV, may be from the orbitals' own energies.
_BAND_TOLERANCE = 1e-4 / DFTBPLUS_HARTREE
#: Bohr; DFTB+ ends the process where two atoms are nearer.
_NEAREST = 0.01
#: DFTB+ keeps its state in global variables, and the current folder belongs to the process.
_one_at_a_time = threading.RLock()


@dataclass(frozen=True)
class DFTBPlusResult:
    """What DFTB+ made of one prediction; float64, our orbital order.

    Attributes:
        orbital_energies: [m], Eh, ascending: c^T H c of DFTB+'s orbitals (its ``band.out`` has four decimals of an eV,
            with which they are compared).
        orbital_coefficients: [m, m], columns are orbitals, C^T S C = 1.
        fillings: [m], electrons in each orbital, by DFTB+'s own distribution.
        density: [m, m], C diag(fillings) C^T as DFTB+ hands it over; Tr(P S) is the number of electrons.
        band_energy: Tr(P H), Eh. DFTB+'s total energy is meaningless here and not given.
        fermi_level: Eh.
        entropy_term: T S of DFTB+, Eh. For Methfessel-Paxton DFTB+ adds up the terms of all orders; the free energy
            that is stationary in the fillings has the last alone (``schnorb_t.physics.occupations``).
    """

    orbital_energies: np.ndarray
    orbital_coefficients: np.ndarray
    fillings: np.ndarray
    density: np.ndarray
    band_energy: float
    fermi_level: float
    entropy_term: float


class DFTBPlus:
    """DFTB+ as a solver of predicted matrices, for any number of molecules.

        solver = DFTBPlus(smearing=Smearing("fermi-dirac", 0.01))
        result = solver.run(schnorb_t.load("qm9").predict(atoms))

    Every new composition is first tried in a process of its own, because DFTB+ ends the process when it finds an
    input at fault. Calculations in one process take turns, and change its current folder while they run.

    Args:
        library: path of ``libdftbplus.so``; by default what ``DFTBPLUS_LIBRARY`` names.
        smearing: how DFTB+ fills; its lowest temperature (1e-8 Eh) by default.
        charge: of each molecule, e, to fill its levels by; by default that of the prediction. The matrices stay as
            they were predicted.
        settings: further input in DFTB+'s format (HSD), e.g. ``"Hamiltonian = DFTB { Solver = QR {} }"``. Geometry,
            shells, Slater-Koster files and driver are replaced.
        folder: where DFTB+'s files go and stay (``band.out``, ``detailed.out``, ...), those of the last molecule;
            made if it is not there. By default a temporary one.

    Raises:
        UserError: no library, one that cannot be loaded, or one that lacks a function.
    """

    def __init__(
        self,
        library: str | Path | None = None,
        smearing: Smearing = ZERO_TEMPERATURE,
        charge: float | None = None,
        settings: str = "",
        folder: str | Path | None = None,
    ):
        self.path = find_library(library)
        self._library = load_library(self.path)
        self.smearing, self.settings = smearing, settings
        self.charge = None if charge is None else float(charge)
        self.folder = None if folder is None else Path(folder).absolute()
        self._rehearsed: set[tuple] = set()

    def run(self, prediction: Prediction) -> DFTBPlusResult:
        """Hand over H and S of one molecule.

        Raises:
            UserError: shells beyond f, matrices that do not fit the basis, are not finite or not positive definite (S),
                too many or no electrons, coinciding atoms; settings with SCC, Mulliken analysis or other things that
                cannot be had with given matrices; whatever else DFTB+ does not like about them.
            RuntimeError: DFTB+ did not work with the matrices it was given.
        """
        name = prediction.name or prediction.formula
        charge = float(prediction.charge) if self.charge is None else self.charge
        _check(prediction, charge, name)
        with _one_at_a_time, self._working_folder() as folder:
            for stale in (BAND_FILE, DETAILED_FILE, EIGENVECTOR_FILE, PROCESSED_FILE, LOG_FILE):
                (folder / stale).unlink(missing_ok=True)
            write_input(folder, prediction, self.smearing, charge, self.settings)
            expected = prediction.basis.n_orbitals(prediction.atomic_numbers).tolist()
            key = prediction.basis, frozenset(prediction.atomic_numbers.tolist())
            if key not in self._rehearsed:
                try:
                    setup = rehearse(self.path, folder)
                finally:
                    check_processed(folder, self.smearing, charge)
                _check_setup(setup, expected)
                self._rehearsed.add(key)
            with _inside(folder):
                with Calculation(self._library) as calculation:
                    _check_setup(calculation.setup, expected)
                    density = calculation.density(prediction.hamiltonian, prediction.overlap)
            return _result(folder, prediction, density, charge)

    @contextmanager
    def _working_folder(self) -> Iterator[Path]:
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="dftbplus-") as folder:
                yield Path(folder)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made ({error})") from None
        yield self.folder


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """DFTB+ reads and writes in the current folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _check(prediction: Prediction, charge: float, name: str) -> None:
    """Everything over which DFTB+ would end the process, as far as the molecule goes."""
    basis, z = prediction.basis, prediction.atomic_numbers
    for q in sorted(set(z.tolist())):
        if max(basis.shells[q]) > 3:
            raise UserError(
                f"{name}: {chemical_symbols[q]} has shells beyond f in {basis.name!r}; DFTB+ has s, p, d, f"
            )
    m = int(basis.n_orbitals(z).sum())
    for what, matrix in (("Hamiltonian", prediction.hamiltonian), ("overlap", prediction.overlap)):
        if matrix.shape != (m, m):
            raise UserError(f"{name}: wrong shells: {what} is {matrix.shape}, {basis.name!r} has {m} orbitals there")
        if not np.isfinite(matrix).all():
            raise UserError(f"{name}: {what} holds NaN or infinity")
        if np.abs(matrix - matrix.T).max() > 1e-8:
            raise UserError(f"{name}: {what} is not symmetric; DFTB+ reads one triangle of it")
    lowest = float(np.linalg.eigvalsh(prediction.overlap)[0])
    if lowest <= 1e-12:
        raise UserError(f"{name}: overlap is not positive definite (lowest eigenvalue {lowest:.1e}); DFTB+ would stop")
    electrons = prediction.basis.n_electrons(prediction.atomic_numbers) - charge
    if not 0 < electrons <= 2 * m:
        raise UserError(f"{name}: {electrons:g} electrons do not go into {m} orbitals; mind charge={charge:g}")
    distance = np.linalg.norm(prediction.positions[:, None] - prediction.positions, axis=-1) / DFTBPLUS_BOHR
    distance[np.diag_indices_from(distance)] = np.inf
    if distance.min() <= _NEAREST:
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        raise UserError(f"{name}: atoms {min(i, j)} and {max(i, j)} coincide")


def _check_setup(setup: Setup, expected: list[int]) -> None:
    if setup.spins != 1 or setup.k_points != 1 or not setup.real:
        raise UserError(
            "settings: spin polarisation and k-points cannot be had: there is one H and one S of a molecule"
        )
    if list(setup.orbitals) != expected:
        raise UserError(
            f"DFTB+ has {list(setup.orbitals)} orbitals on the atoms, the prediction {expected}: wrong shells"
        )


def _result(folder: Path, prediction: Prediction, density: np.ndarray, charge: float) -> DFTBPlusResult:
    """Read what DFTB+ wrote, and make sure that it comes from the matrices it was given."""
    h, s = prediction.hamiltonian, prediction.overlap
    c = read_eigenvectors(folder / EIGENVECTOR_FILE, len(h))
    energies = np.einsum("mi,mn,ni->i", c, h, c, optimize=True)
    fillings = np.einsum("mi,mn,ni->i", s @ c, density, s @ c, optimize=True)
    written, totals = read_band_file(folder / BAND_FILE)[0], read_energies(folder / DETAILED_FILE)
    band_energy = float(np.sum(density * h))
    electrons = prediction.basis.n_electrons(prediction.atomic_numbers) - charge
    differences = {
        "orbital energies": (np.nanmax(np.abs(written - energies), initial=0.0), _BAND_TOLERANCE),
        "normalisation": (np.abs(c.T @ s @ c - np.eye(len(s))).max(), 1e-6),
        "electrons": (abs(float(np.sum(density * s)) - electrons), 1e-6),
        "band energy": (abs(totals["band energy"] - band_energy), 1e-6 * max(1.0, abs(band_energy))),
    }
    wrong = [f"{name} differ by {error:.1e}" for name, (error, limit) in differences.items() if not error <= limit]
    if wrong:
        raise RuntimeError(f"DFTB+ did not work with the matrices it was given: {'; '.join(wrong)}")
    return DFTBPlusResult(energies, c, fillings, density, band_energy, totals["fermi level"], totals["ts"])
