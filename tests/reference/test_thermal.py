import numpy as np
import pytest
from ase.build import molecule

from schnorb_t.reference.thermal import bonds, displaced_geometries, internal_space, seed_of, xtb_hessian

pytest.importorskip("tblite")


def test_bonds():
    atoms = molecule("CH3OH")
    assert bonds(atoms.numbers, atoms.positions) == {(0, 1), (0, 2), (0, 4), (0, 5), (1, 3)}


@pytest.mark.parametrize("name,modes", [("H2O", 3), ("CO2", 4), ("H2", 1)])
def test_internal_space_leaves_out_rigid_motion(name, modes):
    atoms = molecule(name)
    space = internal_space(atoms.get_masses(), atoms.positions)
    assert space.shape == (3 * len(atoms), modes)
    shift = np.repeat(np.sqrt(atoms.get_masses()), 3) * np.tile([1.0, 0, 0], len(atoms))
    assert np.abs(space.T @ shift).max() < 1e-12


def test_hessian_gives_the_stretch_of_hydrogen():
    """GFN2-xTB's H2 stretch lies within 15 % of the experimental 4401 cm^-1 (Huber and Herzberg)."""
    atoms = molecule("H2")
    hessian = xtb_hessian(atoms.numbers, atoms.positions)
    mass = 1.008 * 1822.888486209 / 2
    stretch = np.sqrt(hessian[2, 2] / mass) * 219474.63
    assert abs(stretch - 4401) < 0.15 * 4401


def test_geometries_are_reproducible_and_of_the_right_size():
    atoms = molecule("H2O")
    a = displaced_geometries(atoms.numbers, atoms.positions, 40, seed_of("g2/H2O"))
    b = displaced_geometries(atoms.numbers, atoms.positions, 40, seed_of("g2/H2O"))
    assert a.shape == (40, 3, 3) and np.array_equal(a, b)
    assert seed_of("g2/H2O") != seed_of("g2/HF")
    # a stiff mode: variance of the bond length is about kT / k, with k = 0.5 Eh/Bohr^2 -> 0.02 Å
    r = np.linalg.norm(a[:, 0] - a[:, 1], axis=1)
    assert 0.012 < r.std() < 0.035
    for x in a:
        assert bonds(atoms.numbers, x) == bonds(atoms.numbers, atoms.positions)
    # no translation: the centre of mass stays
    mass = atoms.get_masses()
    assert np.abs(np.einsum("a,nax->nx", mass, a - atoms.positions) / mass.sum()).max() < 1e-10
