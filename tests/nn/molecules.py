"""Molecules of different size and composition, at general orientations, for the model tests."""

import numpy as np
from ase.build import molecule

from schnorb_t.basis import Basis
from schnorb_t.reference.pyscf import basis_from_pyscf
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
