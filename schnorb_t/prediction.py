"""What a model says about one molecule, as plain numpy arrays in our orbital order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms

from schnorb_t.basis import Basis
from schnorb_t.physics.charges import mulliken_charges
from schnorb_t.physics.occupations import fill
from schnorb_t.units import HARTREE

if TYPE_CHECKING:
    from schnorb_t.interfaces.viewer import View


@dataclass(frozen=True)
class Origin:
    """Which model said it.

    Attributes:
        model: name or file of the model; may be empty.
        target: kind of matrices, e.g. ``"wqvo"``, ``"full"``.
        method: level of theory of the labels it learned, e.g. ``"B3LYP/def2-SVP"``.
        calibrated: whether ``orbital_energy_spread``, where there is one, was scaled to the errors on validation
            molecules; the spread of an ensemble is not.
    """

    model: str
    target: str
    method: str
    calibrated: bool = True

    @property
    def text(self) -> str:
        """For a title: ``organic, wqvo of B3LYP/def2-SVP``."""
        what = self.method if self.target in ("full", self.method) else f"{self.target} of {self.method}"
        return f"{self.model}, {what}" if self.model else what


@dataclass(frozen=True)
class Prediction:
    """Hamiltonian, overlap and orbitals of one closed-shell molecule; float64.

    Attributes:
        atomic_numbers: [n] int64.
        positions: [n, 3], Å.
        basis: tells which orbital each row belongs to (``basis.orbital_labels(atomic_numbers)``).
        hamiltonian: [m, m], Eh, our orbital order (``schnorb_t.basis``).
        overlap: [m, m], positive definite.
        orbital_energies: [m], Eh, ascending.
        orbital_coefficients: [m, m], columns are orbitals, C^T S C = 1.
        name: of the structure, empty where it has none.
        orbital_energy_spread: [m], Eh, standard deviation of each level: calibrated, of a model that knows doubt
            (``nn.doubt``); over the members of an ensemble. It grows where the molecule is unlike those learned from.
            None of other models.
        properties: whatever else the model gives, by the field of its declaration in ``schnorb_t.keys``.
        origin: which model said it; None where that is not known.
        charge: total charge, e.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    basis: Basis
    hamiltonian: np.ndarray
    overlap: np.ndarray
    orbital_energies: np.ndarray
    orbital_coefficients: np.ndarray
    name: str = ""
    orbital_energy_spread: np.ndarray | None = None
    properties: Mapping[str, np.ndarray] = field(default_factory=dict)
    origin: Origin | None = None
    charge: int = 0

    @property
    def n_electrons(self) -> int:
        """What the orbitals hold: core included, unless the basis leaves it out."""
        return self.basis.n_electrons(self.atomic_numbers, self.charge)

    @property
    def n_occupied(self) -> int:
        """Doubly occupied orbitals."""
        return self.n_electrons // 2

    @property
    def formula(self) -> str:
        """Hill order, e.g. ``C2H6O``."""
        return Atoms(self.atomic_numbers).get_chemical_formula(mode="hill")

    def _level(self, index: int) -> float:
        return float(self.orbital_energies[index]) if 0 <= index < len(self.orbital_energies) else float("nan")

    @property
    def frontier_spread(self) -> tuple[float, float] | None:
        """``orbital_energy_spread`` of HOMO and LUMO (NaN where there is none), Eh."""
        spread = self.orbital_energy_spread
        if spread is None:
            return None
        places = self.n_occupied - 1, self.n_occupied
        homo, lumo = (float(spread[k]) if 0 <= k < len(spread) else float("nan") for k in places)
        return homo, lumo

    @property
    def doubt(self) -> float | None:
        """The larger standard deviation of HOMO and LUMO, eV; None of a model that cannot tell."""
        if self.frontier_spread is None:
            return None
        return HARTREE * float(np.nanmax(self.frontier_spread))

    @property
    def homo(self) -> float:
        """Eh."""
        return self._level(self.n_occupied - 1)

    @property
    def lumo(self) -> float:
        """Eh; NaN where the basis has no empty orbital."""
        return self._level(self.n_occupied)

    @property
    def gap(self) -> float:
        """LUMO - HOMO, Eh."""
        return self.lumo - self.homo

    @cached_property
    def occupations(self) -> np.ndarray:
        """[m] electrons per orbital, 0..2; exactly degenerate frontier levels are filled evenly."""
        energies = torch.tensor(self.orbital_energies)[None]
        electrons = torch.tensor([self.n_electrons])
        return fill(energies, electrons, torch.ones_like(energies, dtype=torch.bool))[0].numpy()

    @cached_property
    def density(self) -> np.ndarray:
        """[m, m] one-particle density matrix C diag(occupations) C^T; Tr(P S) is the number of electrons."""
        return (self.orbital_coefficients * self.occupations) @ self.orbital_coefficients.T

    @cached_property
    def mulliken_charges(self) -> np.ndarray:
        """[n], e; they sum to the total charge."""
        atom = np.repeat(np.arange(len(self.atomic_numbers)), self.basis.n_orbitals(self.atomic_numbers))
        density, overlap = (torch.from_numpy(x)[None] for x in (self.density, self.overlap))
        charges = mulliken_charges(
            density,
            overlap,
            torch.from_numpy(atom)[None],
            torch.from_numpy(self.basis.nuclear_charges(self.atomic_numbers)),
        )
        return charges.numpy()

    def html(self, path: str | Path) -> None:
        """Write a page to look at in any browser, without a network (docs/viewer.md).

        It shows the molecule in three dimensions with its orbitals, levels, density of states, charges and doubt.

        Raises:
            UserError: the disk refuses.
        """
        from schnorb_t.interfaces.viewer import write_page

        write_page(path, self)

    def view(self, height: int = 760) -> View:
        """The same page inside a notebook: the last value of a cell shows itself.

        Args:
            height: of the frame, pixels.
        """
        from schnorb_t.interfaces.viewer import View

        return View(self, height)
