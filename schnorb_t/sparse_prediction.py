"""What a model says about one large molecule: H and S as SciPy's sparse matrices, and what can be had of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.linalg
import scipy.sparse
from ase import Atoms

from schnorb_t.basis import Basis
from schnorb_t.physics import sparse
from schnorb_t.prediction import Origin

#: Orbitals up to which the dense eigenproblem is solved, unless so few elements are filled that sparse products are
#: quicker (estimated: 10 m^3 operations at 20 per ns against 100 m r^2 additions at 5 ns, r filled per row).
DENSE, FILLED = 6000, 0.03


@dataclass(frozen=True)
class SparsePrediction:
    """Hamiltonian and overlap of one closed-shell molecule; float64. ``Prediction`` is that of small ones.

    Attributes:
        atomic_numbers: [n] int64.
        positions: [n, 3], Å.
        basis: tells which orbital each row belongs to.
        overlap: [m, m] CSR, positive definite.
        learned_hamiltonian: [m, m] CSR, Eh: in Löwdin's orthogonal functions if ``orthogonal``, else in the basis.
        orthogonal: see ``learned_hamiltonian``.
        name: of the structure, empty where it has none.
        properties: whatever else the model gives, by the field of its declaration in ``schnorb_t.keys``.
        origin: which model said it; None where that is not known.
        charge: total charge, e.
        drop: elements below are dropped from products of matrices (``physics.sparse.DROP``).
        dense: orbitals up to which the dense eigenproblem may be solved; 0: never.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    basis: Basis
    overlap: scipy.sparse.csr_array
    learned_hamiltonian: scipy.sparse.csr_array
    orthogonal: bool
    name: str = ""
    properties: Mapping[str, np.ndarray] = field(default_factory=dict)
    origin: Origin | None = None
    charge: int = 0
    drop: float = sparse.DROP
    dense: int = DENSE

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

    @property
    def doubt(self) -> float | None:
        """Large molecules come without."""
        return None

    @property
    def _is_dense(self) -> bool:
        m = self.overlap.shape[0]
        return m <= self.dense and (m < 1000 or self.learned_hamiltonian.nnz > FILLED * m * m)

    @cached_property
    def _roots(self) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        """S^(1/2) and S^(-1/2)."""
        if self._is_dense:
            values, vectors = scipy.linalg.eigh(self.overlap.toarray())
            half, inverse = ((vectors * values**p) @ vectors.T for p in (0.5, -0.5))
            return scipy.sparse.csr_array(half), scipy.sparse.csr_array(inverse)
        return sparse.square_roots(self.overlap, self.drop)

    @cached_property
    def orthogonal_hamiltonian(self) -> scipy.sparse.csr_array:
        """[m, m] CSR, Eh: S^(-1/2) H S^(-1/2), whose plain eigenvalues are the levels."""
        if self.orthogonal:
            return self.learned_hamiltonian
        return sparse.symmetric(self._roots[1] @ self.learned_hamiltonian @ self._roots[1])

    @cached_property
    def hamiltonian(self) -> scipy.sparse.csr_array:
        """[m, m] CSR, Eh, of H C = S C diag(e): of an orthogonal model S^(1/2) H_orth S^(1/2).

        By sparse products each element is right to about three times ``drop``; ``orthogonal_hamiltonian`` is exact.
        """
        if not self.orthogonal:
            return self.learned_hamiltonian
        made = sparse.symmetric(self._roots[0] @ self.learned_hamiltonian @ self._roots[0])
        return made if self._is_dense else sparse.dropped(made, self.drop)

    @cached_property
    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        """All levels and orbitals in orthogonal functions, by the dense eigenproblem."""
        return scipy.linalg.eigh(self.orthogonal_hamiltonian.toarray(), driver="evd")

    @cached_property
    def orthogonal_density(self) -> scipy.sparse.csr_array:
        """[m, m] CSR, the projector on the occupied orbitals in orthogonal functions (of one spin).

        Raises:
            UserError: there is no gap, and too many orbitals for the dense eigenproblem.
        """
        if self._is_dense:
            occupied = self._levels[1][:, : self.n_occupied]
            return scipy.sparse.csr_array(occupied @ occupied.T)
        return sparse.projector(self.orthogonal_hamiltonian, self.n_occupied, self.drop)

    @cached_property
    def frontier(self) -> sparse.Frontier:
        """HOMO and LUMO with their orbitals in orthogonal functions (S^(-1/2) times them: in the basis)."""
        if self._is_dense:
            (energies, c), k = self._levels, self.n_occupied
            there = 0 < k, k < len(energies)
            homo, lumo = (float(energies[p]) if ok else float("nan") for p, ok in zip((k - 1, k), there, strict=True))
            return sparse.Frontier(homo, lumo, c[:, k - 1] if there[0] else None, c[:, k] if there[1] else None)
        return sparse.frontier(self.orthogonal_hamiltonian, self.orthogonal_density, self.n_occupied)

    @property
    def homo(self) -> float:
        """Eh."""
        return self.frontier.homo

    @property
    def lumo(self) -> float:
        """Eh; NaN where the basis has no empty orbital."""
        return self.frontier.lumo

    @property
    def gap(self) -> float:
        """LUMO - HOMO, Eh."""
        return self.lumo - self.homo

    @property
    def frontier_spread(self) -> tuple[float, float] | None:
        """Large molecules come without."""
        return None

    @cached_property
    def mulliken_charges(self) -> np.ndarray:
        """[n], e; they sum to the total charge."""
        root, inverse = self._roots
        populations = sparse.mulliken_populations(self.orthogonal_density, root, inverse)
        atom = np.repeat(np.arange(len(self.atomic_numbers)), self.basis.n_orbitals(self.atomic_numbers))
        electrons = np.bincount(atom, weights=populations, minlength=len(self.atomic_numbers))
        return self.basis.nuclear_charges(self.atomic_numbers) - electrons

    def levels_near(self, energy: float, count: int = 10) -> np.ndarray:
        """The ``count`` orbital energies next to an energy, Eh, ascending: by shift-invert Lanczos, or all solved.

        Args:
            energy: Eh, not a level itself.
            count: of levels.
        """
        if self._is_dense:
            energies = self._levels[0]
            return np.sort(energies[np.argsort(np.abs(energies - energy))[:count]])
        return sparse.levels_near(self.orthogonal_hamiltonian, energy, count)[0]

    def density_of_states(self, grid: np.ndarray, width: float = 0.01, vectors: int = 32) -> np.ndarray:
        """[E], 1/Eh, on a grid [E] of energies, Eh: by the kernel polynomial method (``physics.sparse``).

        Args:
            grid: [E], Eh.
            width: Eh, of the levels.
            vectors: random vectors; the noise falls with the square root of their number.
        """
        return sparse.density_of_states(self.orthogonal_hamiltonian, grid, width, vectors)
