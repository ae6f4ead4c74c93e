"""Draws of the last layer: their covariance, their symmetry, and that they grow away from what was learned."""

import numpy as np
import pytest
import torch

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.doubt import Grams, LastLayerMembers, level_deviations
from schnorb_t.nn.model import MatrixModel
from schnorb_t.training.calibration import LevelErrors, draw_members, fit_factor
from tests.nn.molecules import assert_alone_and_turned, minimal_basis, structures

pytest.importorskip("pyscf")
CUTOFF = 10.0


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    net = MatrixModel(
        minimal_basis(),
        "16x0e+8x1o+8x1e+8x2e",
        pair_channels=(24, 8, 12, 8),
        hidden=32,
        orthogonal=True,
        doubt_members=6,
    )
    net = net.double().eval()
    draw_members(net, [structures_to_batch(*structures(), net.basis, CUTOFF)], 1e-4)
    return net


def deviations(model, numbers, positions):
    batch = structures_to_batch(numbers, positions, model.basis, CUTOFF)
    with torch.no_grad():
        out = model(batch)[keys.HAMILTONIAN_DEVIATIONS]
    mask = batch[keys.ORBITAL_MASK]
    assert not out[:, ~(mask[:, :, None] & mask[:, None])].any()
    return [out[:, k, :m, :m].numpy() for k, m in enumerate(mask.sum(1).tolist())]


def test_deviations_are_matrices_like_h(model):
    for d in assert_alone_and_turned(deviations, model, 1e-9, seed=2):
        assert np.abs(d).max() > 0 and np.array_equal(d, d.transpose(0, 2, 1))


def test_training_does_not_pay_for_doubt(model):
    batch = structures_to_batch(*structures(), model.basis, CUTOFF)
    model.train()
    try:
        assert keys.HAMILTONIAN_DEVIATIONS not in model(batch)
    finally:
        model.eval()
    assert not any(p.requires_grad for p in model.doubt.parameters())


def test_draws_have_the_covariance_of_ridge_regression():
    """Many draws for one linear map: <w w^T> = (F^T F + r s 1)^-1, s the mean diagonal."""
    torch.manual_seed(0)
    members = LastLayerMembers((0,), 1, "3x0e", [4, 0, 0], 20000)
    grams = Grams(members)
    features = torch.randn(50, 3) @ torch.diag(torch.tensor([3.0, 1.0, 0.1]))
    grams.onsite["0e"][0] = (features.T @ features).double()
    grams.offsite[0] = torch.eye(4, dtype=torch.float64)
    members.draw(grams, ridge=1e-2)
    w = members.onsite.weights[0][0].double()  # [3, couplings * members], one coupling: s s
    gram = grams.onsite["0e"][0]
    wanted = torch.linalg.inv(gram + 1e-2 * gram.diagonal().mean() * torch.eye(3, dtype=torch.float64))
    assert torch.allclose(w @ w.T / w.shape[1], wanted, rtol=0.05, atol=0.02 * float(wanted.abs().max()))
    assert w.mean(1).abs().max() < 1e-6  # members deviate about the model itself


def test_levels_move_to_first_order():
    rng = np.random.default_rng(4)
    h = rng.normal(size=(1, 8, 8))
    h = torch.tensor(h + h.transpose(0, 2, 1))
    d = 1e-5 * torch.tensor(rng.normal(size=(3, 1, 8, 8)))
    d = d + d.mT
    energies, c = torch.linalg.eigh(h)
    exact = torch.linalg.eigvalsh(h + d) - energies
    assert torch.allclose(level_deviations(d, c), exact, atol=1e-8)


def test_doubt_grows_away_from_what_was_learned(model):
    """Squeezed to 80 %, molecules have wider levels than at their minimum."""
    numbers, positions = structures()

    def width(scale):
        batch = structures_to_batch(numbers, [scale * x for x in positions], model.basis, CUTOFF)
        with torch.no_grad():
            blocks = model.blocks(batch)
            h = model.learned_matrices(blocks, batch)[keys.HAMILTONIAN]
            d = model.matrices(blocks, batch)[keys.HAMILTONIAN_DEVIATIONS]
        spread = level_deviations(d, torch.linalg.eigh(h)[1]).std(0)
        return float(spread[batch[keys.ORBITAL_MASK]].mean())

    assert width(0.8) > 1.5 * width(1.0)


def test_factor_and_floor_are_found_again():
    generator = torch.Generator().manual_seed(1)
    spread = torch.rand(4000, generator=generator, dtype=torch.float64) * 0.02
    error = torch.randn(4000, generator=generator, dtype=torch.float64) * ((2.5 * spread) ** 2 + 0.004**2).sqrt()
    factor, floor, _ = fit_factor(LevelErrors(error, spread, torch.arange(4000) % 8 == 0))
    assert factor == pytest.approx(2.5, rel=0.1) and floor == pytest.approx(0.004, rel=0.15)
