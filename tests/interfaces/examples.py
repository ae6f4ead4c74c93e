"""A tiny model and predictions that hold given matrices."""

import numpy as np
import scipy.linalg
from ase.build import molecule

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
