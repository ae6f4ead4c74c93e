"""From a large atomic-orbital basis to a minimal one: H = A^T F A, S = A^T S1 A with a contraction A (large x minimal).

All targets span the occupied orbitals, so occupied energies survive exactly, and are built from projectors
and singular vectors of whole spaces only: no column is normalised or chosen by itself, hence A turns with the
molecule. They differ in what they keep of the virtual space.

- ``iao``: intrinsic atomic orbitals, Knizia, J. Chem. Theory Comput. 9, 4834 (2013), eq. 2, not orthogonalised.
- ``quambo``: quasi-atomic orbitals, Lu et al., Phys. Rev. B 70, 041101 (2004); Qian et al., Phys. Rev. B 78, 245112
  (2008): of the virtual orbitals the combinations that overlap most with the free-atom functions.
- ``wqao``: weighted quasi-atomic orbitals: the same with each virtual orbital weighted by 1/(eps - eps_ref)^2, so
  that low virtual orbitals win.
- ``vqao``: weighted valence quasi-atomic orbitals: the weight acts on the valence virtual space alone, the free-atom
  functions less the occupied orbitals (the valence virtual orbitals of Lu et al., J. Chem. Phys. 120, 2629 (2004)).
  That space has just the right dimension: nothing is left to choose, so no gap between singular values can close.
- ``wqvo``: weighted quasi-atomic valence orbitals: as ``wqao``, of the free atoms' valence functions and the molecule's
  valence orbitals alone, the core left out, and with the steeper weight 1/(eps - eps_ref)^3. Valence levels stay exact,
  and LUMOs come out seven times better than with ``wqao`` (3.7 meV instead of 26). The small eigenvalues of S that the
  steeper weight brings hurt nothing where H is learned in Löwdin's orthogonal functions (``MatrixModel.orthogonal``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from schnorb_t.basis import Basis, all_electrons
from schnorb_t.linalg import matrix_power
from schnorb_t.reference.pyscf import (
    VALENCE_TARGET,
    LabelError,
    cross_overlap,
    overlap_integrals,
    target_basis,
)

TARGETS = ("iao", "quambo", "wqao", "vqao", VALENCE_TARGET)
#: Pole of the weight of ``wqao`` and ``vqao``, Eh: below every virtual orbital of an ordinary molecule.
REFERENCE_ENERGY = -0.25
#: Distance, Eh, from the pole at which the weight stops to grow.
POLE_DISTANCE = 0.03
#: Power of the weight g of each target that has one.
POWERS = {"quambo": 0.0, "wqao": 2.0, "vqao": 2.0, VALENCE_TARGET: 3.0}
#: Eh, the least distance between core and valence levels; of real molecules it is 1.5 at least (Br 3d below F 2s).
CORE_GAP = 0.5
#: Below this smallest eigenvalue of the projected S the target counts as linearly dependent.
LINEAR_DEPENDENCE = 1e-4


@dataclass(frozen=True)
class Projection:
    """One molecule in a minimal basis.

    Attributes:
        hamiltonian: [n, n], Eh, our order.
        overlap: [n, n], our order.
        contraction: [m, n] A: minimal functions in terms of the large basis, rows and columns in our order.
        singular_values: of diag(g) C_vir^T S12 S2^(-1/2), descending, or empty where none are chosen (``iao``,
            ``vqao``).
        n_kept: how many of them are kept, n - n_occ.
        n_core: the molecule's lowest orbitals, which the basis leaves out; their levels are not among those of H and S.
    """

    hamiltonian: np.ndarray
    overlap: np.ndarray
    contraction: np.ndarray
    singular_values: np.ndarray
    n_kept: int
    n_core: int = 0

    @property
    def singular_value_ratio(self) -> float:
        """First dropped singular value over the last kept one; near 1 the kept space is ill-defined."""
        if self.n_kept == 0 or self.n_kept >= len(self.singular_values):
            return 0.0
        return float(self.singular_values[self.n_kept] / self.singular_values[self.n_kept - 1])


def virtual_weights(energies: np.ndarray, power: float = 2.0) -> np.ndarray:
    """g(eps) = 1/(eps - eps_ref)^power, [v] Eh -> [v]; constant nearer than ``POLE_DISTANCE`` to the pole."""
    return np.maximum(energies - REFERENCE_ENERGY, POLE_DISTANCE) ** -power


def intrinsic_contraction(occupied: np.ndarray, overlap: np.ndarray, cross: np.ndarray, free: np.ndarray) -> np.ndarray:
    """A [m, n] of the intrinsic atomic orbitals (Knizia 2013, eq. 2), columns not orthogonalised.

    A = (O O~ + (1 - O)(1 - O~)) P12 with P12 = S1^-1 S12, O = C C^T S1 and O~ = C~ C~^T S1, where C~ are the
    occupied orbitals after a journey into the free-atom functions and back, orthonormalised.

    Args:
        occupied: [m, n_occ] C, C^T S1 C = 1.
        overlap: [m, m] S1 of the large basis.
        cross: [m, n] S12 between large basis and free-atom functions.
        free: [n, n] S2 among the free-atom functions.
    """
    p12 = scipy.linalg.solve(overlap, cross, assume_a="pos")
    depolarised = p12 @ scipy.linalg.solve(free, cross.T @ occupied, assume_a="pos")
    inner = depolarised.T @ overlap @ depolarised
    o = occupied @ (occupied.T @ overlap)
    o_tilde = depolarised @ scipy.linalg.solve(inner, depolarised.T @ overlap, assume_a="pos")
    both = o @ (o_tilde @ p12)
    return p12 + 2.0 * both - o @ p12 - o_tilde @ p12


def quasi_atomic_contraction(
    energies: np.ndarray,
    coefficients: np.ndarray,
    n_occupied: int,
    cross: np.ndarray,
    free: np.ndarray,
    power: float,
    valence: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """A [m, n] of (weighted) quasi-atomic orbitals and the singular values that decided.

    P = C_vir^T S12 S2^(-1/2); U = the leading n - n_occ left singular vectors of diag(g) P; W = [C_occ, C_vir U];
    A = W W^T S12. With ``valence`` U spans the columns of diag(g) P V, V the n - n_occ directions of the free-atom
    space that are orthogonal to the occupied orbitals' rows C_occ^T S12 S2^(-1/2).

    Args:
        energies: [m] orbital energies in the large basis, Eh.
        coefficients: [m, m] orbitals, C^T S1 C = 1.
        n_occupied: doubly occupied orbitals.
        cross: [m, n] S12 between large basis and free-atom functions.
        free: [n, n] S2 among the free-atom functions.
        power: of the weight g; 0 is QUAMBO.
        valence: all of the valence virtual space instead of a choice by singular values.

    Raises:
        LabelError: fewer free-atom functions than occupied orbitals, or a large basis that is not larger.
    """
    n = cross.shape[1]
    if n < n_occupied or coefficients.shape[1] < n:
        raise LabelError(
            f"{n} minimal functions cannot stand for {n_occupied} occupied of {coefficients.shape[1]} orbitals"
        )
    occupied, virtual = coefficients[:, :n_occupied], coefficients[:, n_occupied:]
    orthogonal = cross @ matrix_power(free, -0.5)
    p = virtual.T @ orthogonal
    if valence:
        p = p @ scipy.linalg.svd(occupied.T @ orthogonal)[2][n_occupied:].T
    g = virtual_weights(energies[n_occupied:], power)
    u, singular, _ = scipy.linalg.svd(g[:, None] * p, full_matrices=False)
    w = np.hstack([occupied, virtual @ u[:, : n - n_occupied]])
    return w @ (w.T @ cross), singular[:0] if valence else singular


def project(
    target: str,
    hamiltonian: np.ndarray,
    overlap: np.ndarray,
    energies: np.ndarray,
    coefficients: np.ndarray,
    n_occupied: int,
    cross: np.ndarray,
    free: np.ndarray,
    power: float | None = None,
    n_core: int = 0,
) -> Projection:
    """Project one closed-shell molecule; matrices in one orbital order, ours by custom.

    Args:
        target: one of ``TARGETS``.
        hamiltonian: [m, m] Fock or Kohn-Sham matrix, Eh.
        overlap: [m, m].
        energies: [m] eigenvalues of (hamiltonian, overlap), Eh.
        coefficients: [m, m] their vectors.
        n_occupied: doubly occupied orbitals, core included.
        cross: [m, n] overlap between large basis and free-atom functions.
        free: [n, n] overlap among the free-atom functions.
        power: of the virtual weight, for studies of other weights than the target's.
        n_core: core orbitals, the lowest ones, that the free-atom functions leave out.

    Raises:
        LabelError: the projected functions are linearly dependent, or core and valence levels are not well apart.
        ValueError: unknown target.
    """
    singular = np.zeros(0)
    if 0 < n_core < len(energies) and energies[n_core] - energies[n_core - 1] < CORE_GAP:
        gap = energies[n_core] - energies[n_core - 1]
        raise LabelError(f"core and valence levels are {gap:.2f} Eh apart only: no core can be left out")
    energies, coefficients, n_occupied = energies[n_core:], coefficients[:, n_core:], n_occupied - n_core
    if target == "iao":
        a = intrinsic_contraction(coefficients[:, :n_occupied], overlap, cross, free)
    elif target in TARGETS:
        if power is None:
            power = POWERS[target]
        a, singular = quasi_atomic_contraction(
            energies, coefficients, n_occupied, cross, free, power, valence=target == "vqao"
        )
    else:
        raise ValueError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    h, s = a.T @ hamiltonian @ a, a.T @ overlap @ a
    h, s = 0.5 * (h + h.T), 0.5 * (s + s.T)
    smallest = float(scipy.linalg.eigvalsh(s, subset_by_index=(0, 0))[0])
    if smallest < LINEAR_DEPENDENCE:
        raise LabelError(f"linearly dependent {target} functions: smallest eigenvalue of S is {smallest:.1e}")
    return Projection(h, s, a, singular, s.shape[0] - n_occupied, n_core)


def project_molecule(
    target: str,
    large_basis: Basis,
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    hamiltonian: np.ndarray,
    n_electrons: int,
    power: float | None = None,
    overlap: np.ndarray | None = None,
) -> tuple[Projection, np.ndarray]:
    """Project one molecule of a full-basis file.

    Args:
        target: one of ``TARGETS``.
        large_basis: with Gaussian functions.
        atomic_numbers: [n].
        positions: [n, 3], Å.
        hamiltonian: [m, m] in ``large_basis``, our order, Eh.
        n_electrons: even, core included.
        power: see ``project``.
        overlap: [m, m] of the large basis; computed where it is not given.

    Returns:
        The projection and the large-basis orbital energies [m], Eh.

    Raises:
        LabelError: odd electron count, or linear dependence.
    """
    if n_electrons % 2:
        raise LabelError(f"open shell: {n_electrons} electrons")
    if overlap is None:
        overlap = overlap_integrals(large_basis, atomic_numbers, positions)
    charge = all_electrons(atomic_numbers) - n_electrons
    free_basis = target_basis(target, atomic_numbers, large_basis.name)
    n_core = (n_electrons - free_basis.n_electrons(atomic_numbers, charge)) // 2
    energies, coefficients = scipy.linalg.eigh(hamiltonian, overlap)
    cross = cross_overlap(large_basis, free_basis, atomic_numbers, positions)
    free = overlap_integrals(free_basis, atomic_numbers, positions)
    result = project(target, hamiltonian, overlap, energies, coefficients, n_electrons // 2, cross, free, power, n_core)
    return result, energies
