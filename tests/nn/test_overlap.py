"""S0 against PySCF's own integrals; positive definite by construction."""

import numpy as np
import pytest
import torch

from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.geometry import Geometry
from schnorb_t.nn.overlap import FreeAtomOverlap, positive_definite, shrink
from schnorb_t.reference.pyscf import basis_from_pyscf
from tests.nn.molecules import structures

pytest.importorskip("pyscf")
LIMITS = 0.9, 0.995


def reference_overlap(name, numbers, positions):
    from pyscf import gto

    from schnorb_t.conventions import reorder_from_pyscf
    from schnorb_t.units import BOHR

    mol = gto.M(atom=list(zip(numbers, (positions / BOHR).tolist(), strict=True)), basis=name, unit="Bohr")
    return reorder_from_pyscf(mol).matrix(mol.intor("int1e_ovlp"))


@pytest.mark.parametrize("name", ["minao", "sto-3g", "def2-svp", "def2-tzvp"])
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
def test_overlap_against_pyscf(name, factor):
    """s to f shells, squeezed and stretched molecules at general orientation: to the table's 1e-9."""
    basis = basis_from_pyscf(name, [1, 6, 7, 8])
    numbers, positions = structures()
    positions = [x * factor for x in positions]
    batch = structures_to_batch(numbers, positions, basis, 40.0)
    s0 = FreeAtomOverlap(basis, 40.0)(Geometry(basis, 40.0)(batch))
    for k, (z, x) in enumerate(zip(numbers, positions, strict=True)):
        wanted = reference_overlap(name, z, x)
        assert np.abs(s0[k, : len(wanted), : len(wanted)].numpy() - wanted).max() < 2e-9


def positive(rng, n):
    x = rng.normal(size=(n, n))
    return np.eye(n) + 0.02 * (x @ x.T)


@pytest.mark.parametrize("size", [0.01, 0.3, 1.0, 1e3])
def test_positive_definite_whatever_the_change(size):
    """Untouched while it is safe, bounded by half a percent of S0 beyond, padding left at 0."""
    rng = np.random.default_rng(0)
    s0, change = np.zeros((2, 9, 9)), np.zeros((2, 9, 9))
    for k, n in enumerate((9, 5)):
        s0[k, :n, :n] = positive(rng, n)
        x = rng.normal(size=(n, n))
        change[k, :n, :n] = -size * x @ x.T / np.linalg.norm(x @ x.T, 2)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    s = positive_definite(torch.tensor(s0), torch.tensor(change), mask, *LIMITS).numpy()
    assert (s[1, 5:] == 0).all()
    for k, n in enumerate((9, 5)):
        assert np.linalg.eigvalsh(s[k, :n, :n]).min() > 0.005 * 0.99 * np.linalg.eigvalsh(s0[k, :n, :n]).min()
    if size < 0.9:
        assert np.array_equal(s, s0 + change)


@pytest.mark.parametrize("size", [0.1, 0.899, 0.901, 3.0])
def test_without_an_eigenproblem_where_nothing_is_shrunk(size):
    """A Cholesky decomposition alone gives what the eigenproblem gives, on both sides of its limit."""
    rng = np.random.default_rng(3)
    s0 = torch.from_numpy(np.stack([positive(rng, 5), positive(rng, 5)]))
    change = torch.from_numpy(np.stack([-0.1 * np.eye(5), -np.eye(5)])) @ s0
    mask = torch.ones(2, 5, dtype=torch.bool)
    factor = shrink(torch.tensor([0.1 * size, size], dtype=torch.float64), 0.9, 0.995)
    got = positive_definite(s0, size * change, mask, 0.9, 0.995)
    assert torch.allclose(got, s0 + factor[:, None, None] * size * change, atol=1e-12)


def test_shrink_is_smooth_and_bounded():
    u = torch.linspace(-1, 50, 200001, dtype=torch.float64)
    bounded = shrink(u, *LIMITS) * u
    assert (bounded[u <= 0.9] == u[u <= 0.9]).all() and bounded.max() < 0.9951
    slope = bounded.diff() / u.diff()
    assert slope.diff().abs().max() < 0.01 and slope.min() > -1e-12


def test_basis_without_functions_is_refused():
    from schnorb_t.basis import Basis

    with pytest.raises(ValueError, match="Gaussian functions"):
        FreeAtomOverlap(Basis("x", {1: (0,)}), 5.0)
