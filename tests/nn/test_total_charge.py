"""A network that reads the total charge: ions and neutral molecules in one batch, and what charge 0 is."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.model import MatrixModel
from schnorb_t.reference.rotation import orbital_rotation
from schnorb_t.units import BOHR
from tests.nn.molecules import minimal_basis, structures

pytest.importorskip("pyscf")
CHARGES = [1, -1, 0, 2, -2]
BOUND = {torch.float32: 2e-5, torch.float64: 1e-11}
ARGUMENTS = dict(irreps="8x0e+8x1o+4x1e+8x2e", pair_channels=(16, 8, 8, 8), hidden=16, product_channels=4)


def network(dtype=torch.float64, **arguments) -> MatrixModel:
    torch.manual_seed(0)
    model = MatrixModel(minimal_basis(), **ARGUMENTS, **arguments)
    model.scale.onsite.fill_(1.0)
    model.scale.height.fill_(0.0)
    return (model.double() if dtype == torch.float64 else model).eval()


def stirred(model: MatrixModel) -> MatrixModel:
    """Weights as a training leaves them: none is 0."""
    with torch.no_grad():
        for parameter in model.ions.parameters():
            parameter.normal_(0, 0.5)
    return model


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def model(request):
    net = stirred(network(request.param, total_charge=True))
    net.bound = BOUND[request.param]
    return net


def hamiltonians(model, numbers, positions, charges=CHARGES) -> list[np.ndarray]:
    batch = structures_to_batch(numbers, positions, model.basis, model.cutoff, charges)
    with torch.no_grad():
        out = model(batch)[keys.HAMILTONIAN]
    mask = batch[keys.ORBITAL_MASK]
    assert (out[~(mask[:, :, None] & mask[:, None])] == 0).all()
    return [h[:m, :m].numpy() for h, m in zip(out, mask.sum(1).tolist(), strict=True)]


def assert_close(got, wanted, bound):
    for a, b in zip(got, wanted, strict=True):
        assert np.array_equal(a, a.T)
        assert np.abs(a - b).max() < bound * max(1.0, np.abs(b).max())


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_rotation_and_reflection(model, improper):
    numbers, positions = structures()
    r = Rotation.random(rng=np.random.default_rng(3)).as_matrix() * (-1 if improper else 1)
    turns = [orbital_rotation(model.basis, z, r) for z in numbers]
    wanted = [d @ h @ d.T for d, h in zip(turns, hamiltonians(model, numbers, positions), strict=True)]
    assert_close(hamiltonians(model, numbers, [x @ r.T for x in positions]), wanted, model.bound)


def test_translation_and_permutation(model):
    numbers, positions = structures()
    wanted = hamiltonians(model, numbers, positions)
    assert_close(hamiltonians(model, numbers, [x + [3.0, -2.0, 11.0] for x in positions]), wanted, model.bound)
    rng = np.random.default_rng(5)
    orders = [rng.permutation(len(z)) for z in numbers]
    turned = [[a[o] for a, o in zip(x, orders, strict=True)] for x in (numbers, positions)]
    rows = []
    for z, o in zip(numbers, orders, strict=True):
        counts = model.basis.n_orbitals(z)
        starts = np.cumsum(counts) - counts
        rows.append(np.concatenate([np.arange(starts[k], starts[k] + counts[k]) for k in o]))
    assert_close(
        hamiltonians(model, *turned), [h[np.ix_(r, r)] for h, r in zip(wanted, rows, strict=True)], model.bound
    )


def test_batch_of_different_charges_equals_single_molecules(model):
    numbers, positions = structures()
    together = hamiltonians(model, numbers, positions)
    for k, h in enumerate(together):
        alone = hamiltonians(model, numbers[k : k + 1], positions[k : k + 1], CHARGES[k : k + 1])
        assert_close(alone, [h], model.bound)
    neutral = hamiltonians(model, numbers, positions, [0] * 5)
    for q, a, b in zip(CHARGES, together, neutral, strict=True):
        assert np.array_equal(a, b) if q == 0 else np.abs(a - b).max() > 1e-2


def test_neutral_molecules_are_predicted_as_without(model):
    """Whatever the weights of the part that reads the charge."""
    without = network(next(model.parameters()).dtype)
    missing, more = model.load_state_dict(without.state_dict(), strict=False)
    assert not more and all(name.startswith("ions.") for name in missing)
    numbers, positions = structures()
    for a, b in zip(*(hamiltonians(m, numbers, positions, [0] * 5) for m in (model, without)), strict=True):
        assert np.array_equal(a, b)


def test_latent_charges_sum_to_the_total_charge(model):
    batch = structures_to_batch(*structures(), model.basis, model.cutoff, CHARGES)
    g = model.geometry(batch)
    with torch.no_grad():
        x = {"0e": torch.randn(len(g.element), 1, 8).to(next(model.parameters()))}
        shares = model.ions.charges(x, g)
    sums = torch.zeros(5, dtype=shares.dtype).index_add_(0, batch[keys.MOLECULE], shares)
    assert torch.allclose(sums, torch.tensor(CHARGES, dtype=sums.dtype), atol=1e-6)
    assert len(shares[: len(structures()[0][0])].unique()) > 2  # not all alike
    assert (shares * torch.tensor(CHARGES)[batch[keys.MOLECULE]] >= 0).all()


def test_potential_against_its_formula():
    """A cation of two atoms and a far one: even shares, erf(R / sqrt(2)) / R, sqrt(2 / pi) for an atom's own."""
    model = network(total_charge=True)
    z, x = [np.array([8, 1]), np.array([1])], [np.array([[0, 0, 0.0], [0, 0, 0.97]]), np.zeros((1, 3))]
    g = model.geometry(structures_to_batch(z, x, model.basis, model.cutoff, [1, -1]))
    found = model.ions.potential(model.ions.charges(None, g), g)
    r = 0.97 / BOHR
    own, other = math.sqrt(2 / math.pi), math.erf(r / math.sqrt(2)) / r
    assert found.tolist() == pytest.approx([-(own + other) / 2, -(own + other) / 2, own], abs=1e-12)


def test_gradients_reach_what_reads_the_charge():
    model = stirred(network(total_charge=True))
    batch = structures_to_batch(*structures(), model.basis, model.cutoff, CHARGES)
    model(batch)[keys.HAMILTONIAN].square().sum().backward()
    for name, p in model.ions.named_parameters():
        assert torch.isfinite(p.grad).all() and (p.grad != 0).any(), name


def test_without_latent_charges_and_in_orthogonal_functions():
    numbers, positions = structures(("H2O", "HCN"))
    for more in ({"charge_channels": 0}, {"orthogonal": True}):
        model = stirred(network(total_charge=True, **more))
        cation, neutral = (hamiltonians(model, numbers, positions, [q, 0]) for q in (1, 0))
        assert np.trace(cation[0] - neutral[0]) < -0.5 and np.array_equal(cation[1], neutral[1])
