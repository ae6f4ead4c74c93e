"""What every network that is known by name, and an ensemble, must obey: rotation, reflection, translation,
permutation, batch = single, padding, symmetry.

Random weights of full size, minimal and def2-SVP bases (d shells), float32 and float64.
"""

import copy

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.spatial.transform import Rotation

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.base import MatrixNetwork, networks
from schnorb_t.nn.ensemble import EnsembleModel
from schnorb_t.nn.model import MatrixModel
from schnorb_t.training.networks import build_network
from tests.nn.molecules import minimal_basis, split_basis, structures, valence_basis
from tests.test_basis_and_conventions import standard_wigner

pytest.importorskip("pyscf")
CUTOFF = 10.0
#: relative to the largest element
BOUND = {torch.float32: 2e-5, torch.float64: 1e-11}
BASES = {"minimal": minimal_basis, "minimal, prior": minimal_basis, "def2-SVP": split_basis, "ensemble": minimal_basis}


def prior() -> dict:
    """A model of valence shells as input."""
    arguments = dict(irreps="8x0e+8x1o+4x1e+8x2e", pair_channels=[16, 8, 8, 8], hidden=16, product_channels=4)
    return {"basis": valence_basis().to_json(), "arguments": arguments}


def matrix_arguments(kind: str) -> dict:
    irreps = "16x0e+8x1o+8x1e+8x2e+4x2o" + ("+4x3o+4x3e+4x4e" if kind == "def2-SVP" else "")
    given = prior() if "prior" in kind else None
    return dict(irreps=irreps, pair_channels=(24, 8, 12, 8), hidden=32, product_channels=8, prior=given)


def light_arguments(kind: str) -> dict:
    l_max = 4 if kind == "def2-SVP" else 2
    sizes = dict(channels=16, message_channels=8, pair_inputs=8, hidden=32, product_channels=8)
    return dict(l_max=l_max, pair_channels=(24, 8, 12, 8), **sizes)


#: architecture -> arguments of a small one; whoever registers another one gets all these tests for a line here
ARGUMENTS = {"light": light_arguments, "matrix": matrix_arguments}
KINDS = [(name, kind) for name in ARGUMENTS for kind in BASES if name == "matrix" or "prior" not in kind]


def test_every_network_is_tested():
    assert set(ARGUMENTS) == set(networks(MatrixNetwork))


@pytest.fixture(scope="module", params=KINDS, ids=[", ".join(names) for names in KINDS])
def made_of(request):
    return request.param


@pytest.fixture(scope="module")
def basis(made_of):
    return BASES[made_of[1]]()


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def model(request, made_of, basis):
    torch.manual_seed(0)
    name, kind = made_of
    nets = [build_network(name, basis, ARGUMENTS[name](kind)) for _ in range(2 if kind == "ensemble" else 1)]
    for net in nets:
        stirred(net)
    net = EnsembleModel(nets) if kind == "ensemble" else nets[0]
    if request.param == torch.float64:
        net = net.double()
    net.bound = BOUND[request.param]
    return net.eval()


def stirred(net):
    """A closed-form part that is not zero, without labels, and residuals of order one."""
    nets = [net] if net.prior is None else [net, net.prior.model]
    with torch.no_grad():
        for part in (p for n in nets for p in (n.two_centre, getattr(n, "overlap_two_centre", None)) if p is not None):
            part.coefficients.normal_(0, 0.02)
            # not isotropic, as gradients leave it: only the invariant part may count
            part.onsite.normal_(0, 0.05)
            part.onsite.add_(part.invariant.sum(0).reshape(part.onsite.shape[1:]) * 0.05)
        if net.prior is not None:
            net.prior.model.two_centre.onsite.add_(torch.diag(torch.tensor([-0.6, -0.2, -0.2, -0.2])))
    net.scale.onsite.fill_(1.0)
    net.scale.height.fill_(0.0)
    if net.basis.projected:
        net.overlap_scale.onsite.fill_(0.1)
        net.overlap_scale.height.fill_(-2.3)


def predict(model, numbers, positions):
    batch = structures_to_batch(numbers, positions, model.basis, CUTOFF)
    with torch.no_grad():
        return batch, model(batch)


def matrices(model, numbers, positions):
    """H and S of each molecule, without padding."""
    batch, out = predict(model, numbers, positions)
    sizes = batch[keys.ORBITAL_MASK].sum(1).tolist()
    return [
        (out[keys.HAMILTONIAN][k, :m, :m].numpy(), out[keys.OVERLAP][k, :m, :m].numpy()) for k, m in enumerate(sizes)
    ]


def assert_close(got, wanted, bound):
    for (h, s), (h0, s0) in zip(got, wanted, strict=True):
        assert np.abs(h - h0).max() < bound * max(1.0, np.abs(h0).max())
        assert np.abs(s - s0).max() < bound


def test_the_network_contributes(model):
    """Otherwise every test below could pass on an empty network."""
    numbers, positions = structures()
    without = copy.deepcopy(model)
    without.drop_learned()
    with_net, alone = (matrices(m, numbers, positions) for m in (model, without))
    assert np.abs(with_net[0][0] - alone[0][0]).max() > 1e-2


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_rotation_and_reflection(model, improper):
    numbers, positions = structures()
    R = Rotation.random(rng=np.random.default_rng(7)).as_matrix() * (-1 if improper else 1)
    turned = matrices(model, numbers, [x @ R.T for x in positions])
    wanted = []
    for z, (h, s) in zip(numbers, matrices(model, numbers, positions), strict=True):
        D = block_diag(*[standard_wigner(l, R) for q in z for l in model.basis.shells[q]])
        wanted.append((D @ h @ D.T, D @ s @ D.T))
    assert_close(turned, wanted, model.bound)


def test_bonds_along_the_axes(model):
    """The bond frame jumps for bonds along -z; nothing may be seen of it."""
    numbers, positions = structures(("HCN",), seed=1)
    positions = [np.array([[0, 0, 0.0], [0, 0, 1.15], [0, 0, -1.07]])]
    straight = matrices(model, numbers, positions)
    nudged = matrices(model, numbers, [positions[0] + np.array([[1e-9, 0, 0], [0, -1e-9, 0], [0, 0, 0]])])
    assert_close(straight, nudged, max(model.bound, 1e-7))


def test_translation(model):
    numbers, positions = structures()
    moved = [x + np.array([3.0, -2.0, 11.0]) for x in positions]
    assert_close(matrices(model, numbers, moved), matrices(model, numbers, positions), model.bound)


def test_atom_permutation(model):
    numbers, positions = structures()
    rng = np.random.default_rng(5)
    orders = [rng.permutation(len(z)) for z in numbers]
    got = matrices(
        model,
        [z[o] for z, o in zip(numbers, orders, strict=True)],
        [x[o] for x, o in zip(positions, orders, strict=True)],
    )
    wanted = []
    for z, o, (h, s) in zip(numbers, orders, matrices(model, numbers, positions), strict=True):
        counts = model.basis.n_orbitals(z)
        starts = np.cumsum(counts) - counts
        rows = np.concatenate([np.arange(starts[k], starts[k] + counts[k]) for k in o])
        wanted.append((h[np.ix_(rows, rows)], s[np.ix_(rows, rows)]))
    assert_close(got, wanted, model.bound)


def test_batch_equals_single_and_padding_changes_nothing(model):
    numbers, positions = structures()
    together = matrices(model, numbers, positions)
    for k in range(len(numbers)):
        assert_close([together[k]], matrices(model, numbers[k : k + 1], positions[k : k + 1]), model.bound)
    batch, out = predict(model, numbers, positions)
    mask = batch[keys.ORBITAL_MASK]
    outside = ~(mask[:, :, None] & mask[:, None])
    assert outside.any()
    assert (out[keys.HAMILTONIAN][outside] == 0).all() and (out[keys.OVERLAP][outside] == 0).all()


def test_matrices_are_symmetric_to_the_last_bit(model):
    numbers, positions = structures()
    for h, s in matrices(model, numbers, positions):
        assert np.array_equal(h, h.T) and np.array_equal(s, s.T)


def test_molecules_without_any_pair(model):
    """A single atom, and two atoms beyond the cutoff: blocks on the diagonal alone."""
    numbers = [np.array([8]), np.array([1, 8])]
    positions = [np.zeros((1, 3)), np.array([[0, 0, 0], [0, 0, 50.0]])]
    for (h, s), z in zip(matrices(model, numbers, positions), numbers, strict=True):
        assert h.shape == (model.basis.n_orbitals(z).sum(),) * 2
        assert np.linalg.eigvalsh(s).min() > 0
    h, s = matrices(model, numbers, positions)[1]
    n = model.basis.n_orbitals([1])[0]
    assert (h[:n, n:] == 0).all() and (s[:n, n:] == 0).all()


def test_smooth_at_the_cutoff(model):
    """An atom that crosses a message's range moves no element by a jump."""
    numbers = [np.array([8, 1, 1, 6])]
    start = np.array([[0, 0, 0.1], [0.75, 0, -0.5], [-0.75, 0, -0.5], [0, 0, 0.0]])

    def at(d):
        x = start.copy()
        x[3] = [0, d, 0]
        return matrices(model, numbers, [x])[0][0]

    for edge in (5.0, 4.0):
        near, far = at(edge - 1e-4), at(edge + 1e-4)
        assert np.abs(near - far).max() < 1e-3


def test_overlap_is_positive_definite_for_any_weights(basis):
    """Weights far beyond anything trained, molecules squeezed by 30 %: still positive definite."""
    torch.manual_seed(1)
    irreps = "8x0e+8x1o+8x2e"
    net = MatrixModel(basis, irreps, pair_channels=(16, 8, 8, 8), hidden=16, product_channels=4)
    if basis.projected:
        net.overlap_scale.onsite.fill_(100.0)
        net.overlap_scale.height.fill_(4.6)
    numbers, positions = structures()
    for factor in (0.7, 1.0, 1.3):
        for _, s in matrices(net, numbers, [x * factor for x in positions]):
            assert np.linalg.eigvalsh(s).min() > 0


def test_gradients_reach_every_weight_and_are_finite(basis):
    torch.manual_seed(2)
    net = MatrixModel(basis, "8x0e+8x1o+4x1e+8x2e+4x2o", pair_channels=(16, 8, 8, 8), hidden=16, product_channels=4)
    batch = structures_to_batch(*structures(), basis, CUTOFF)
    out = net(batch)
    (out[keys.HAMILTONIAN].square().sum() + out[keys.OVERLAP].square().sum()).backward()
    for name, p in net.named_parameters():
        if p.numel() and p.requires_grad:
            assert p.grad is not None and torch.isfinite(p.grad).all(), name


def test_repr_tells_the_stages(basis):
    text = repr(MatrixModel(basis, "8x0e+8x1o+8x2e", pair_channels=(16, 8, 8, 8)))
    for word in ("interaction 2", "8x1o", "on-site", "off-site", "parameters"):
        assert word in text
