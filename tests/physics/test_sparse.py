"""Electronic structure from sparse matrices against dense eigenproblems."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from schnorb_t.errors import UserError
from schnorb_t.linalg import lowest_relative_eigenvalue
from schnorb_t.physics import sparse


@pytest.fixture(scope="module")
def chain():
    """A dimerised chain of 300 sites with a gap, random on-site energies: H [m, m] CSR, and its levels."""
    random = np.random.default_rng(0)
    m = 300
    hops = np.where(np.arange(m - 1) % 2, -0.1, -0.4)
    h = np.diag(random.normal(0, 0.02, m)) + np.diag(hops, 1) + np.diag(hops, -1)
    for k in (2, 3, 5):
        far = random.normal(0, 0.01 / k, m - k)
        h += np.diag(far, k) + np.diag(far, -k)
    return scipy.sparse.csr_array(h), scipy.linalg.eigh(h)


def test_projector_frontier_and_charges(chain):
    h, (energies, c) = chain
    exact = c[:, :150] @ c[:, :150].T
    for drop, error in ((1e-6, 3e-5), (1e-10, 3e-9)):
        p = sparse.projector(h, 150, drop)
        assert np.abs(p.toarray() - exact).max() < error
        found = sparse.frontier(h, p, 150)
        assert abs(found.homo - energies[149]) < 1e-8 and abs(found.lumo - energies[150]) < 1e-8
        assert abs(abs(found.homo_orbital @ c[:, 149]) - 1) < 1e-6
    assert sparse.projector(h, 150, 1e-6).nnz < 0.5 * 300**2  # it is sparse


def test_no_gap_is_told(chain):
    metal = np.diag(np.full(39, -0.3), 1) + np.diag(np.full(39, -0.3), -1)
    with pytest.raises(UserError, match="no gap above the 39 occupied"):  # one of two equal levels
        sparse.projector(scipy.sparse.csr_array(scipy.sparse.block_diag((metal, metal))), 39, 1e-6)


def test_square_roots():
    random = np.random.default_rng(1)
    a = np.eye(120) + np.diag(np.full(119, 0.8), 1) + np.diag(random.normal(0, 0.05, 117), 3)
    s = a @ a.T
    values, vectors = np.linalg.eigh(s)
    assert values[-1] / values[0] > 20
    for drop, error in ((1e-12, 1e-8), (1e-7, 1e-3)):
        for found, power in zip(sparse.square_roots(scipy.sparse.csr_array(s), drop), (0.5, -0.5), strict=True):
            assert np.abs(found.toarray() - (vectors * values**power) @ vectors.T).max() < error
    with pytest.raises(UserError, match="no square root"):
        sparse.square_roots(scipy.sparse.csr_array(s - 1.01 * values[0] * np.eye(120)), 1e-10)


def test_mulliken_populations(chain):
    h, (_, c) = chain
    random = np.random.default_rng(2)
    a = np.eye(300) + np.diag(random.normal(0, 0.1, 299), 1)
    s = scipy.sparse.csr_array(a @ a.T)
    root, inverse = sparse.square_roots(s, 1e-12)
    found = sparse.mulliken_populations(sparse.projector(h, 150, 1e-11), root, inverse)
    z = scipy.linalg.sqrtm(np.linalg.inv(s.toarray()))
    p = 2 * z @ c[:, :150] @ c[:, :150].T @ z
    assert np.abs(found - np.diag(p @ s.toarray())).max() < 1e-8 and abs(found.sum() - 300) < 1e-7


def test_levels_and_density_of_states(chain):
    h, (energies, _) = chain
    found, orbitals = sparse.levels_near(h, 0.0, 6)
    nearest = np.sort(energies[np.argsort(np.abs(energies))[:6]])
    assert np.abs(found - nearest).max() < 1e-9
    assert np.abs(h @ orbitals - orbitals * found).max() < 1e-8
    grid = np.linspace(-1.2, 1.2, 2001)
    density = sparse.density_of_states(h, grid, 0.02, vectors=64)
    assert abs(np.trapezoid(density, grid) - 300) < 1
    below = np.trapezoid(density[grid < 0], grid[grid < 0])
    assert abs(below - 150) < 5  # the noise of random vectors
    smooth = np.exp(-0.5 * ((grid[:, None] - energies) / 0.02) ** 2).sum(1) / (0.02 * np.sqrt(2 * np.pi))
    assert np.abs(density - smooth).mean() < 0.2 * smooth.mean()


def test_lowest_relative_eigenvalue():
    random = np.random.default_rng(3)
    m = 260
    a = np.eye(m) + np.diag(random.normal(0, 0.3, m - 1), 1)
    metric = a @ a.T
    change = -np.diag(random.uniform(0.0, 0.3, m)) + np.diag(x := random.normal(0, 0.05, m - 2), 2) + np.diag(x, -2)
    exact = scipy.linalg.eigh(change, metric, eigvals_only=True)[0]
    parts = scipy.sparse.csr_array(change), scipy.sparse.csr_array(metric)
    assert abs(lowest_relative_eigenvalue(*parts, enough=exact + 1.0) - exact) < 1e-9 * abs(exact)
    assert abs(lowest_relative_eigenvalue(*parts, enough=exact - 10.0) - exact) < 2e-2 * abs(exact)  # roughly will do
