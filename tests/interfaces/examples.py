"""A tiny model and predictions that hold given matrices."""

from functools import cache

import numpy as np
import scipy.linalg
from ase.build import molecule

from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.prediction import Prediction


def prediction_of(basis, atomic_numbers, positions, hamiltonian, overlap, name="") -> Prediction:
    """What a perfect model would say: orbitals of these matrices (our order)."""
    energies, coefficients = scipy.linalg.eigh(hamiltonian, overlap)
    z = np.asarray(atomic_numbers, dtype=np.int64)
    return Prediction(z, np.asarray(positions), basis, hamiltonian, overlap, energies, coefficients, name)


def tilted(name: str, seed: int = 3):
    """A molecule of ASE's collection in no special orientation, slightly distorted."""
    atoms = molecule(name)
    random = np.random.default_rng(seed)
    atoms.rotate(77, (1, 2, 3))
    atoms.positions += random.normal(0, 0.02, atoms.positions.shape) + [0.3, -0.2, 0.1]
    return atoms


@cache
def valence_prediction(name: str) -> tuple[Prediction, np.ndarray]:
    """A perfect model's prediction in the valence-only basis wqvo, and the exact Hartree-Fock levels, core included."""
    from pyscf import scf

    from schnorb_t.reference.minimal_basis import project_molecule
    from schnorb_t.reference.pyscf import basis_from_pyscf, mole_from_basis, target_basis

    atoms = tilted(name)
    large = basis_from_pyscf("def2-SVP", atoms.numbers)
    mf = scf.RHF(mole_from_basis(large, atoms.numbers, atoms.positions)).run(verbose=0)
    fock = reorder_from_pyscf(mf.mol).matrix(mf.get_fock())
    projection, levels = project_molecule("wqvo", large, atoms.numbers, atoms.positions, fock, int(atoms.numbers.sum()))
    basis = target_basis("wqvo", atoms.numbers, "def2-SVP")
    found = prediction_of(basis, atoms.numbers, atoms.positions, projection.hamiltonian, projection.overlap, name)
    return found, levels
