"""Molecules of different size and composition, at general orientations, for the model tests."""

import numpy as np
from ase.build import molecule
from scipy.spatial.transform import Rotation

from schnorb_t.basis import Basis
from schnorb_t.reference.pyscf import basis_from_pyscf
from schnorb_t.reference.rotation import orbital_rotation
from schnorb_t.reference.xtb import xtb_basis

NAMES = ("CH3CONH2", "H2O", "CH3CH2OH", "HCN", "C6H6")


def structures(names=NAMES, seed=0):
    """Lists of atomic numbers and positions (Å), slightly displaced so that nothing is symmetric by accident."""
    rng = np.random.default_rng(seed)
    out = [molecule(name) for name in names]
    return [a.numbers for a in out], [a.positions + rng.normal(0, 0.05, a.positions.shape) for a in out]


def minimal_basis() -> Basis:
    """s and s, s, p with PySCF's free-atom functions, as a projected basis."""
    return basis_from_pyscf("minao", [1, 6, 7, 8], projected="wqao")


def valence_basis() -> Basis:
    """GFN2-xTB's shells: s on hydrogen, s and p on the others, no core."""
    return xtb_basis([1, 6, 7, 8])


def split_basis() -> Basis:
    """def2-SVP: p on hydrogen, d on the others, as it stands."""
    return basis_from_pyscf("def2-svp", [1, 6, 7, 8])


def assert_alone_and_turned(predict, model, bound: float, seed: int) -> list[np.ndarray]:
    """Matrices of each molecule are those of the molecule alone, and turn with it.

    Args:
        predict: (model, numbers, positions) -> per molecule [..., m, m].
        bound: of differences, relative to the largest element.
        seed: of the rotation.

    Returns:
        the matrices of all molecules together.
    """
    numbers, positions = structures()
    together = predict(model, numbers, positions)
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    turned = predict(model, numbers, [x @ rotation.T for x in positions])
    for k, h in enumerate(together):
        most = bound * np.abs(h).max()
        assert np.abs(predict(model, numbers[k : k + 1], positions[k : k + 1])[0] - h).max() < most
        d = orbital_rotation(model.basis, numbers[k], rotation)
        assert np.abs(turned[k] - d @ h @ d.T).max() < most
    return together
