"""Limits on features: nothing changes for molecules, nothing overflows for anything."""

import dataclasses

import pytest
import torch
from ase.build import molecule
from scipy.spatial.transform import Rotation

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.limit import limited
from schnorb_t.nn.model import MatrixModel
from schnorb_t.training.checkpoint import find_model, load_model
from tests.nn.molecules import minimal_basis, structures


def sizes(x: torch.Tensor) -> torch.Tensor:
    return x.square().flatten(1).mean(1).sqrt()


@pytest.mark.parametrize("shape", [(1, 6), (5, 6), (6,)])
def test_what_is_small_stays_and_what_is_large_ends_below_the_limit(shape):
    x = torch.randn(200, *shape, generator=torch.Generator().manual_seed(0))
    x = x / sizes(x).reshape(-1, *[1] * len(shape)) * torch.logspace(-3, 18, 200).reshape(-1, *[1] * len(shape))
    y = limited(x, 4.0, 8.0)
    small = sizes(x) < 3.99
    assert torch.equal(y[small], x[small])
    large = sizes(y)[~small]
    assert large.max() <= 8.0001 and (large.diff() >= -1e-5).all()
    torch.testing.assert_close(y / sizes(y).reshape(-1, *[1] * len(shape)), x / sizes(x).reshape(-1, *[1] * len(shape)))


def test_gradients_are_finite_and_continuous():
    x = torch.stack((torch.zeros(4), torch.full((4,), 1e30), torch.full((4,), 4.0))).requires_grad_()
    limited(x, 4.0, 8.0).sum().backward()
    assert x.grad.isfinite().all() and torch.equal(x.grad[0], torch.ones(4))
    for size in (3.999, 4.001, 5.0, 7.0, 100.0):
        y = torch.full((1, 3), size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda t: limited(t, 4.0, 8.0), (y,))
    slopes = []
    for size in (4 - 1e-6, 4 + 1e-6):
        y = torch.full((1, 3), size, dtype=torch.float64, requires_grad=True)
        limited(y, 4.0, 8.0).sum().backward()
        slopes.append(y.grad[0, 0])
    assert abs(slopes[0] - slopes[1]) < 1e-5


def test_a_model_whose_limits_act_is_equivariant():
    pytest.importorskip("pyscf")
    torch.manual_seed(0)
    basis = minimal_basis()
    model = MatrixModel(basis, "8x0e+4x1o+4x1e+4x2e", pair_channels=(12, 4, 6, 4), hidden=16, product_channels=4)
    model = model.double().eval()
    model.scale.onsite.fill_(1.0)
    model.scale.height.fill_(0.0)
    numbers, positions = structures(("CH3CONH2", "HCN"))
    turn = Rotation.random(random_state=1).as_matrix()

    def levels(positions):
        batch = structures_to_batch(numbers, positions, basis, 10.0)
        with torch.no_grad():
            return torch.linalg.eigvalsh(model(batch)[keys.HAMILTONIAN])

    free = levels(positions)
    model.constants = dataclasses.replace(model.constants, limit_atoms=(0.1, 0.2), limit_pairs=(0.1, 0.2))
    before, after = levels(positions), levels([p @ turn.T for p in positions])
    assert (before - free).abs().max() > 1e-3  # they do act
    torch.testing.assert_close(after, before, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["qm9", "hcnof", "def2svp", "gfn2"])
@pytest.mark.parametrize("factor", [0.5, 0.7, 1.3])
def test_shipped_models_are_finite_for_any_geometry(name, factor):
    """Without limits H of these molecules at half their size was 10^22 Eh, or not finite at all."""
    model, _ = load_model(find_model(name))
    atoms = [molecule(n) for n in ("C6H6", "CH3CONH2", "isobutane")]
    batch = structures_to_batch(
        [a.numbers for a in atoms], [factor * a.positions for a in atoms], model.basis, model.cutoff
    )
    with torch.no_grad():
        blocks = model.blocks(batch)
        out = model.matrices(blocks, batch)
    assert all(x.isfinite().all() for x in out.values())
    if not model.orthogonal:
        assert out[keys.HAMILTONIAN].abs().max() < 60
    if model.basis.projected:
        mask = batch[keys.ORBITAL_MASK]
        padded = out[keys.OVERLAP] + torch.diag_embed((~mask).double())
        assert torch.linalg.eigvalsh(padded).min() > 0
