"""Orders against the programs' own integrals on rotated molecules with d and f shells, not against a second copy."""

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.spatial.transform import Rotation

from schnorb_t.basis import Basis, GaussianShell, core_shells, electrons_in, free_atom_electrons
from schnorb_t.conventions import E3NN_AXES, reorder_from, reorder_from_pyscf, shell_order

SPD = Basis("spd", {1: (0, 0, 1), 8: (0, 0, 0, 1, 1, 2)})


def test_slots_of_a_minimal_basis():
    basis = Basis("minimal", {1: (0,), 6: (0, 0, 1)})
    assert basis.layout == (0, 0, 1) and basis.n_slots == 5
    assert basis.slot_mask_table[1].tolist() == [True, False, False, False, False]
    assert basis.n_orbitals([6, 1, 1]).tolist() == [5, 1, 1]


def test_slots_of_a_split_basis():
    assert SPD.layout == (0, 0, 0, 1, 1, 2) and SPD.n_slots == 14
    assert SPD.slot_shells(1) == (0, 1, 3)
    assert SPD.slot_mask_table[1].sum() == 5 and SPD.slot_mask_table[8].all()


def test_basis_round_trip_through_text():
    basis = Basis("b", {1: (0,)}, {1: (GaussianShell(0, (1.0, 0.1), (0.5, 0.25)),)}, projected=True)
    again = Basis.from_json(basis.to_json())
    assert again == basis and hash(again) == hash(basis)


def test_unknown_element_is_named():
    with pytest.raises(KeyError, match="Si"):
        SPD.n_orbitals([14])
    with pytest.raises(KeyError, match="Z = 200"):
        SPD.n_orbitals([200])


def test_descending_shells_are_refused():
    with pytest.raises(ValueError, match="ascend"):
        Basis("x", {6: (1, 0)})


def shells_only(z: int, shells: tuple[int, ...], core: int = 0) -> Basis:
    return Basis("shells", {z: shells}, core={z: core} if core else {})


def test_cores_of_the_periodic_table():
    """Valence electrons are those of the group, and gold keeps its d shell."""
    left = {z: z - electrons_in(core_shells(z)) for z in range(1, 87)}
    assert [left[z] for z in (1, 2, 3, 6, 10, 11, 17, 18, 19, 26, 30, 31, 35, 36, 47, 53, 54, 79, 82)] == [
        1, 2, 1, 4, 8, 1, 7, 8, 1, 8, 12, 3, 7, 8, 11, 7, 8, 11, 4
    ]  # fmt: skip
    assert core_shells(1) == core_shells(2) == {} and core_shells(6) == {0: 1} and core_shells(16) == {0: 2, 1: 1}
    assert free_atom_electrons(8) == {0: 4, 1: 4} and free_atom_electrons(26) == {0: 8, 1: 12, 2: 6}


def test_electrons_of_shells():
    assert shells_only(6, (0, 0, 1)).shell_electrons(6) == [2, 2, 2]
    assert shells_only(8, (0, 0, 0, 1, 1, 2)).shell_electrons(8) == [2, 2, 0, 4, 0, 0]
    assert shells_only(17, (0, 0, 0, 1, 1)).shell_electrons(17) == [2, 2, 2, 6, 5]
    assert shells_only(26, (0, 0, 0, 0, 1, 1, 2)).shell_electrons(26) == [2, 2, 2, 2, 6, 6, 6]
    assert shells_only(1, (0, 0, 1)).shell_electrons(1) == [1, 0, 0]
    assert shells_only(17, (0, 1), core=10).shell_electrons(17) == [2, 5]
    assert shells_only(35, (0, 1), core=28).shell_electrons(35) == [2, 5]


@pytest.mark.parametrize("z", [1, 2, 6, 9, 14, 18, 21, 29, 30, 36, 53, 54])
def test_a_minimal_basis_holds_every_electron(z):
    basis = shells_only(z, tuple(sorted([0] * 5 + [1] * 4 + [2] * 2)))
    assert sum(basis.shell_electrons(z)) == z == basis.nuclear_charges([z])[0]


@pytest.mark.parametrize(
    ("z", "shells", "core", "nucleus", "core_orbitals"),
    [
        (6, (0, 0, 1), 0, 6, 1),
        (6, (0, 1), 2, 4, 0),
        (17, (0, 0, 0, 1, 1), 0, 17, 5),
        (17, (0, 1), 10, 7, 0),
        (35, (0, 0, 1, 1, 2), 10, 25, 9),  # neon's core left out, argon's and the d shell there
        (79, (0, 1, 2), 68, 11, 0),
    ],
)
def test_nuclear_charge_and_core_levels(z, shells, core, nucleus, core_orbitals):
    basis = shells_only(z, shells, core)
    assert basis.nuclear_charges([z, z]).tolist() == [nucleus, nucleus]
    assert basis.n_core_orbitals([z, z]) == 2 * core_orbitals
    assert basis.n_electrons([z, z]) == 2 * nucleus and basis.n_electrons([z], charge=1) == nucleus - 1


@pytest.mark.parametrize("program", ["pyscf", "orca", "dftb+"])
@pytest.mark.parametrize("l", range(5))
def test_shell_order_is_a_permutation(program, l):
    ms, signs = shell_order(program, l)
    assert sorted(ms) == list(range(-l, l + 1)) and set(signs) <= {1, -1}


@pytest.mark.parametrize("program", ["pyscf", "orca"])
def test_reorder_and_back(program):
    reorder = reorder_from(program, [[0, 0, 1, 0, 1, 2, 3], [0, 1]])
    x = np.random.default_rng(0).normal(size=(29, 29))[: len(reorder.index), : len(reorder.index)]
    assert np.array_equal(reorder.inverse().matrix(reorder.matrix(x)), x)
    assert np.array_equal(reorder.inverse().rows(reorder.rows(x)), x)


def standard_wigner(l: int, rotation: np.ndarray) -> np.ndarray:
    """D of our harmonics from scipy's complex ones: an independent source of the order. Y(R v) = D Y(v)."""
    from scipy.special import sph_harm_y

    def harmonics(v):
        theta, phi = np.arccos(v[:, 2]), np.arctan2(v[:, 1], v[:, 0])
        cols = []
        for m in range(-l, l + 1):
            y = sph_harm_y(l, abs(m), theta, phi) * (-1) ** m
            cols.append(y.real if m == 0 else np.sqrt(2) * (y.imag if m < 0 else y.real))
        return np.stack(cols, 1)

    v = np.random.default_rng(1).normal(size=(60, 3))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return np.linalg.lstsq(harmonics(v), harmonics(v @ rotation.T), rcond=None)[0].T


def block_wigner(basis: Basis, atomic_numbers, rotation) -> np.ndarray:
    from scipy.linalg import block_diag

    return block_diag(*[standard_wigner(l, rotation) for z in atomic_numbers for l in basis.shells[z]])


@pytest.mark.parametrize("pyscf_basis", ["def2-svp", "def2-tzvp"])
def test_pyscf_order_on_rotated_molecule(pyscf_basis):
    """Integrals of the rotated molecule, put in our order, equal D (integrals) D^T with D of standard harmonics."""
    gto = pytest.importorskip("pyscf.gto")
    rotation = Rotation.random(rng=np.random.default_rng(3)).as_matrix()
    z = [8, 6, 1, 1]
    positions = np.array([[0.1, 0.2, 0.9], [0.0, -0.3, -0.3], [0.9, 0.2, -0.9], [-0.8, -0.5, -1.0]])

    def build(pos):
        return gto.M(atom=list(zip(z, pos.tolist(), strict=True)), basis=pyscf_basis, unit="Angstrom")

    mol, turned = build(positions), build(positions @ rotation.T)
    reorder = reorder_from_pyscf(mol)
    from schnorb_t.conventions import pyscf_shells

    basis = Basis("b", {q: tuple(sorted(s)) for q, s in zip(z, pyscf_shells(mol), strict=True)})
    D = block_wigner(basis, z, rotation)
    for integral in ("int1e_ovlp", "int1e_kin", "int1e_nuc"):
        X, Y = reorder.matrix(mol.intor(integral)), reorder.matrix(turned.intor(integral))
        assert np.abs(Y - D @ X @ D.T).max() < 1e-10 * np.abs(X).max()


@pytest.mark.parametrize("l", [0, 1, 2, 3])
def test_e3nn_axes_give_standard_harmonics(l):
    rotation = Rotation.random(rng=np.random.default_rng(4)).as_matrix()
    v = torch.tensor(np.random.default_rng(5).normal(size=(20, 3)))
    turned = v @ torch.tensor(rotation).T
    axes = list(E3NN_AXES)
    y = o3.spherical_harmonics(l, v[:, axes], normalize=True)
    y_turned = o3.spherical_harmonics(l, turned[:, axes], normalize=True)
    D = torch.tensor(standard_wigner(l, rotation))
    assert torch.allclose(y_turned, y @ D.T, atol=1e-12)
