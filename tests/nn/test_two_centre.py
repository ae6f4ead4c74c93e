"""The two-centre fit recovers two-centre matrices and stays small where it has no data."""

import numpy as np
import pytest
import torch

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.baselines import TwoCentreModel
from schnorb_t.nn.overlap import FreeAtomOverlap
from schnorb_t.nn.two_centre import OverlapTable, TwoCentre, weighted_rows
from tests.nn.molecules import minimal_basis, structures

pytest.importorskip("pyscf")


@pytest.fixture(scope="module")
def fitted():
    """Fitted to S0 of many displaced molecules: a matrix that is exactly two-centre."""
    basis = minimal_basis()
    model = TwoCentreModel(basis, 10.0)
    batches = []
    for seed in range(12):
        batch = structures_to_batch(*structures(seed=seed), basis, 10.0)
        batch[keys.OVERLAP] = FreeAtomOverlap(basis, 10.0)(model.geometry(batch))
        batch[keys.HAMILTONIAN] = -2.0 * batch[keys.OVERLAP]
        batches.append(batch)
    model.fit(lambda: iter(batches))
    return basis, model


def test_recovers_a_two_centre_matrix_on_unseen_geometries(fitted):
    basis, model = fitted
    batch = structures_to_batch(*structures(seed=99), basis, 10.0)
    wanted = FreeAtomOverlap(basis, 10.0)(model.geometry(batch))
    with torch.no_grad():
        out = model(batch)
    assert (out[keys.OVERLAP] - wanted).abs().mean() < 2e-4
    assert (out[keys.HAMILTONIAN] + 2 * wanted).abs().mean() < 4e-4


def test_falls_off_where_it_saw_nothing(fitted):
    """Between the last data (below 6 Å) and the cutoff the functions are smaller than at 4 Å, and 0 at the cutoff."""
    basis, model = fitted
    n = len(basis.elements)
    rows = torch.arange(n * n)
    at = {
        d: model.overlap.components(rows // n, rows % n, torch.full((n * n,), d)).abs().max().item()
        for d in (1.5, 4.0, 7.0, 8.0, 9.0, 9.999)
    }
    assert at[1.5] > 0.1
    assert max(at[7.0], at[8.0], at[9.0]) < 0.5 * at[4.0] and at[9.999] < 1e-6


def test_mean_block_is_the_mean():
    basis = minimal_basis()
    part = TwoCentre(basis, 10.0, n_radial=1)
    rng = np.random.default_rng(0)
    blocks = torch.tensor(rng.normal(size=(40, 5, 5)))
    ones = torch.ones(40, dtype=torch.int64)
    onsite = torch.tensor(rng.normal(size=(3, 5, 5)))
    part.fit([(ones[:3], onsite, ones, ones, torch.rand(40) + 1, blocks)])
    got = part.components(ones[:1], ones[:1], torch.ones(1))
    assert torch.allclose(got[0], part.frame.to_components(blocks).mean(0), atol=1e-3)
    assert torch.allclose(part.onsite[1, 0, 0], onsite[:, 0, 0].mean())
    assert part.onsite[1, 0, 2:].abs().max() == 0  # an s-p element would single out a direction


def test_sums_of_weighted_rows():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(30, 5, dtype=torch.float64, generator=generator)
    rows = torch.randint(0, 30, (7, 4), generator=generator)
    weights = torch.randn(7, 4, dtype=torch.float64, generator=generator)
    wanted = torch.einsum("pk,pkn->pn", weights, table[rows])
    torch.testing.assert_close(weighted_rows(table, rows, weights), wanted, rtol=0, atol=1e-14)


def test_training_and_prediction_give_the_same_integrals():
    """Two ways of summing, one for fast gradients, one for speed without."""
    basis = minimal_basis()
    part, n = TwoCentre(basis, 10.0), len(basis.elements)
    torch.nn.init.normal_(part.coefficients)
    i, j = torch.randint(0, n, (2, 50))
    distance = torch.linspace(0.7, 9.9, 50, dtype=torch.float64)
    training = part.components(i, j, distance)
    assert training.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(part.components(i, j, distance), training, rtol=1e-13, atol=1e-13)


def test_overlaps_of_the_table_have_gradients_in_distance():
    basis = minimal_basis()
    table = OverlapTable(basis, 10.0)
    i, j = torch.randint(0, len(basis.elements), (2, 20))
    # between the grid's points, where neighbouring polynomials meet
    distance = (torch.linspace(1.0, 5.0, 20, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: table(i, j, r), (distance,), eps=1e-5, atol=1e-4)
