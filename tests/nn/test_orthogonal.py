"""Learning H in Löwdin's orthogonal functions: roots of S, symmetry, and a closed-form start that is exact there."""

import numpy as np
import pytest
import scipy.linalg
import torch

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.linalg import padded_matrix_power
from schnorb_t.nn.model import MatrixModel
from schnorb_t.nn.overlap import to_orthogonal
from schnorb_t.physics.eigen import orbitals, solve
from schnorb_t.training.losses import Output, Quantities
from tests.nn.molecules import assert_alone_and_turned, minimal_basis, split_basis, structures

pytest.importorskip("pyscf")
CUTOFF = 10.0


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    irreps = "16x0e+8x1o+8x1e+8x2e+4x2o+4x3o+4x3e+4x4e"
    net = MatrixModel(
        split_basis(), irreps, pair_channels=(24, 8, 12, 8), hidden=32, product_channels=8, orthogonal=True
    )
    with torch.no_grad():
        net.two_centre.coefficients.normal_(0, 0.02)
    return net.double().eval()


def batch_of(model, names=None):
    return structures_to_batch(*structures(*([names] if names else [])), model.basis, CUTOFF)


def test_powers_of_the_overlap(model):
    batch = batch_of(model)
    mask = batch[keys.ORBITAL_MASK]
    overlap = model.overlap0(model.geometry(batch))
    root, inverse = (padded_matrix_power(overlap, mask, p) for p in (0.5, -0.5))
    one = torch.diag_embed(mask.double())
    assert (root @ root - overlap).abs().max() < 1e-12 and (inverse @ root - one).abs().max() < 1e-11
    outside = ~(mask[:, :, None] & mask[:, None])
    assert outside.any() and not root[outside].any() and not inverse[outside].any()


def test_matrices_are_those_of_the_orthogonal_functions(model):
    batch = batch_of(model)
    with torch.no_grad():
        out = model(batch)
        orthogonal = model.blocks(batch)["hamiltonian"].padded()
    inverse = padded_matrix_power(out[keys.OVERLAP], batch[keys.ORBITAL_MASK], -0.5)
    again = inverse @ out[keys.HAMILTONIAN] @ inverse
    assert (again - orthogonal).abs().max() < 1e-9 * orthogonal.abs().max()
    assert (out[keys.HAMILTONIAN] - orthogonal).abs().max() > 1e-3
    assert torch.equal(out[keys.HAMILTONIAN], out[keys.HAMILTONIAN].mT)


def matrices(model, numbers, positions):
    batch = structures_to_batch(numbers, positions, model.basis, CUTOFF)
    with torch.no_grad():
        h = model(batch)[keys.HAMILTONIAN]
    return [h[k, :m, :m].numpy() for k, m in enumerate(batch[keys.ORBITAL_MASK].sum(1).tolist())]


def test_alone_as_in_a_batch_and_turned(model):
    assert_alone_and_turned(matrices, model, 1e-10, seed=7)


def test_the_closed_form_start_is_exact_for_two_centre_matrices_of_orthogonal_functions(model):
    """Labels S^(1/2) X S^(1/2) with two-centre X: the fit leaves the network nothing to learn."""
    torch.manual_seed(1)
    start = MatrixModel(split_basis(), "8x0e+4x1o", pair_channels=(8, 4, 4, 4), hidden=16, orthogonal=True).double()
    for part in (start.onsite_blocks, start.offsite_blocks):
        for p in part.parameters():
            torch.nn.init.zeros_(p)
    start.electrostatics = None
    with torch.no_grad():
        start.two_centre.onsite.copy_(torch.eye(start.basis.n_slots))
        start.two_centre.coefficients[:, 0] = 0.3  # one smooth function of distance for all
    batch = batch_of(start)
    with torch.no_grad():
        labels = start(batch)[keys.HAMILTONIAN]
    labelled = {**batch, keys.HAMILTONIAN: labels, keys.OVERLAP: start.overlap0(start.geometry(batch))}
    with torch.no_grad():
        start.two_centre.coefficients.zero_()
        start.two_centre.onsite.zero_()
        far = (start(batch)[keys.HAMILTONIAN] - labels).abs().max()
    start.fit_reference(lambda: [labelled])
    with torch.no_grad():
        near = (start(batch)[keys.HAMILTONIAN] - labels).abs().max()
    assert far > 0.5 and near < 1e-2 * far


@pytest.fixture(scope="module")
def projected_model():
    """H in Löwdin's functions of a learned S."""
    torch.manual_seed(3)
    net = MatrixModel(minimal_basis(), "16x0e+8x1o+8x1e+8x2e", pair_channels=(24, 8, 12, 8), hidden=32, orthogonal=True)
    with torch.no_grad():
        net.two_centre.coefficients.normal_(0, 0.02)
        net.overlap_two_centre.coefficients.normal_(0, 0.02)
    return net.double().eval()


def test_levels_do_not_feel_a_learned_overlap(projected_model):
    """The levels of (H, S) are the plain eigenvalues of the learned matrix, whatever S is."""
    model = projected_model
    batch = structures_to_batch(*structures(), model.basis, CUTOFF)
    mask = batch[keys.ORBITAL_MASK]
    with torch.no_grad():
        blocks = model.blocks(batch)
        learned, out = model.learned_matrices(blocks, batch), model.matrices(blocks, batch)
    padding = torch.diag_embed((~mask).double())
    for b, m in enumerate(mask.sum(1).tolist()):
        h, s = (out[k][b, :m, :m].numpy() for k in (keys.HAMILTONIAN, keys.OVERLAP))
        wanted = np.linalg.eigvalsh(learned[keys.HAMILTONIAN][b, :m, :m].numpy())
        assert np.linalg.eigvalsh(s)[0] > 0 and np.abs(scipy.linalg.eigvalsh(h, s) - wanted).max() < 1e-9
    assert (torch.linalg.eigvalsh(out[keys.OVERLAP] + padding) > 0).all()


def test_orbitals_by_the_root_that_is_at_hand(projected_model):
    """The ordinary eigenproblem in orthogonal functions gives what the generalised one of H and S gives."""
    batch = batch_of(projected_model, ("H2O", "CH3CONH2"))
    mask = batch[keys.ORBITAL_MASK]
    with torch.no_grad():
        out = projected_model(batch)
    energies, coefficients = orbitals(out, mask)
    wanted, _ = solve(out[keys.HAMILTONIAN], out[keys.OVERLAP], mask)
    for k, n in enumerate(mask.sum(1).tolist()):
        c, h, s = coefficients[k, :n, :n], out[keys.HAMILTONIAN][k, :n, :n], out[keys.OVERLAP][k, :n, :n]
        assert (energies[k, :n] - wanted[k, :n]).abs().max() < 1e-10
        assert (c.T @ s @ c - torch.eye(n)).abs().max() < 1e-9
        assert (h @ c - s @ c * energies[k, :n]).abs().max() < 1e-9
        assert (coefficients[k, n:, :n] == 0).all()


def test_orbitals_of_a_matrix_that_is_not_finite_are_nan(projected_model):
    batch = batch_of(projected_model, ("H2O", "CH3CONH2"))
    with torch.no_grad():
        out = projected_model(batch)
    out[keys.ORTHOGONAL_HAMILTONIAN][0, 0, 0] = torch.nan
    energies, coefficients = orbitals(out, batch[keys.ORBITAL_MASK])
    assert energies[0].isnan().all() and coefficients[0].isnan().all()
    assert energies[1].isfinite().all() and coefficients[1].isfinite().all()


def test_a_learned_overlap_alone_as_in_a_batch_and_turned(projected_model):
    assert_alone_and_turned(matrices, projected_model, 1e-9, seed=9)


def test_losses_compare_in_the_orthogonal_functions(projected_model):
    """An error in S alone leaves every loss on H and on levels at zero."""
    model = projected_model
    batch = structures_to_batch(*structures(), model.basis, CUTOFF)
    mask = batch[keys.ORBITAL_MASK]
    with torch.no_grad():
        blocks = model.blocks(batch)
        h = model.learned_matrices(blocks, batch)[keys.HAMILTONIAN]
        s = model.matrices(blocks, batch)[keys.OVERLAP]
    n = mask.sum(1)
    batch |= {keys.N_ELECTRONS: n - n % 2, keys.N_OCCUPIED: n // 2}
    reference = Quantities(batch, h, s, orthogonal=True)
    other = Quantities(batch, h, 1.1 * s, reference, orthogonal=True)
    for name in ("hamiltonian", "orbital_energies", "gap", "hamiltonian_in_orbitals"):
        assert Output(name)(other, reference) < 1e-9, name
    assert Output("overlap")(other, reference) > 1e-3
    again = to_orthogonal(reference.h, s, mask)
    assert (again - h).abs().max() < 1e-9
