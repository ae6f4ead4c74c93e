"""Nothing jumps where a pair of atoms leaves the cutoff."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.embedding import smooth_end
from schnorb_t.nn.model import MatrixModel
from schnorb_t.training.checkpoint import MODELS, find_model, load_model, load_single
from schnorb_t.training.configuration import asked_architecture, parse_configuration, shipped_configurations
from schnorb_t.training.networks import DEFAULT, build_network
from tests.nn.molecules import minimal_basis, split_basis, valence_basis

pytest.importorskip("pyscf")
STEP = 1e-5
#: of networks of matrices; tests/nn/test_energy.py is about the others
CONFIGS = [path for path in shipped_configurations().values() if asked_architecture(path) == DEFAULT]


def test_the_envelope_has_continuous_curvature():
    r = torch.linspace(7.0, 10.5, 3501, dtype=torch.float64)
    y = smooth_end(r, 10.0, 2.0)
    assert (y[r <= 8.0] == 1).all() and (y[r >= 10.0] == 0).all() and (y.diff() <= 0).all()
    second = y.diff().diff() / 1e-6
    assert second.diff().abs().max() < 0.02  # no jump of the curvature; a step of slope would give 1000
    assert (smooth_end(r, 10.0, 0.0) == 1).all()


def pair_at(distance: float):
    """Water and acetamide whose oxygen atoms are ``distance`` Å apart, nothing symmetric."""
    a, b = molecule("H2O"), molecule("CH3CONH2")
    b.rotate(37, (1, 2, 3))
    o, p = a.positions[a.numbers == 8][0], b.positions[b.numbers == 8][0]
    b.positions += o - p + distance * np.array([0.48, 0.6, 0.64])
    both = a + b
    return both.numbers, both.positions


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("basis", [minimal_basis, split_basis])
@pytest.mark.parametrize("cutoff", ["cutoff", "message_cutoff", "triangle_cutoff"])
def test_no_jump_of_matrices_or_slopes(basis, orthogonal, cutoff):
    torch.manual_seed(1)
    ends = {"cutoff": 7.0, "message_cutoff": 4.5, "triangle_cutoff": 5.5}
    irreps = "16x0e+8x1o+8x1e+8x2e+4x2o" + ("+4x3o+4x3e+4x4e" if basis is split_basis else "")
    model = MatrixModel(
        basis(), irreps, pair_channels=(24, 8, 12, 8), hidden=32, product_channels=8, orthogonal=orthogonal, **ends
    )
    with torch.no_grad():
        model.two_centre.coefficients.normal_(0, 0.05)
        model.scale.slope.zero_()  # residuals as large at the cutoff as anywhere
    model = model.double().eval()

    def matrices(distance):
        batch = structures_to_batch(*([x] for x in pair_at(distance)), model.basis, ends["cutoff"])
        with torch.no_grad():
            out = model(batch)
        return torch.stack([out[keys.HAMILTONIAN], out[keys.OVERLAP]])

    end = ends[cutoff]
    far = [matrices(end + k * STEP) for k in (-2, -1, 0, 1, 2)]
    steps = [b - a for a, b in zip(far[:-1], far[1:], strict=True)]
    largest = max(s.abs().max() for s in (steps[0], steps[3]))
    assert max(s.abs().max() for s in steps[1:3]) < largest + 1e-9
    slopes = [s / STEP for s in steps]
    assert (slopes[3] - slopes[0]).abs().max() < 1e-3 * max(1.0, float(slopes[0].abs().max()))


def test_without_envelope_there_is_a_jump():
    """The test above can fail: a model of a format before 4 does."""
    torch.manual_seed(1)
    model = MatrixModel(minimal_basis(), "16x0e+8x1o+8x1e+8x2e", hidden=32, cutoff=7.0, envelope=0.0).double().eval()
    model.scale.slope.zero_()
    h = []
    for distance in (7.0 - 1e-7, 7.0 + 1e-7):
        batch = structures_to_batch(*([x] for x in pair_at(distance)), model.basis, 7.0)
        with torch.no_grad():
            h.append(model(batch)[keys.HAMILTONIAN])
    assert (h[1] - h[0]).abs().max() > 1e-4


def ends_of(model) -> set[float]:
    """Every cutoff of a model, its prior's too, Å."""
    networks = [model] + ([model.prior.model] if model.prior is not None else [])
    ends = {n.cutoff for n in networks}
    ends |= {i.cutoff for n in networks for i in n.interactions}
    return ends | {n.pair.triangles.cutoff for n in networks if n.pair.triangles is not None}


def assert_no_jump(model) -> None:
    """A step across a cutoff does what a step beside it does."""

    def matrices(distance):
        batch = structures_to_batch(*([x] for x in pair_at(distance)), model.basis, model.cutoff)
        with torch.no_grad():
            out = model(batch)
        return torch.stack([out[keys.HAMILTONIAN], out[keys.OVERLAP]])

    ends = ends_of(model)
    assert len(ends) > 1
    for end in ends:
        across = matrices(end + STEP) - matrices(end - STEP)
        beside = matrices(end + 3 * STEP) - matrices(end + STEP)
        assert across.abs().max() < beside.abs().max() + 1e-6, end
        assert (across - beside).abs().max() < 1e-6, end


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.ckpt")))
def test_shipped_models_do_not_jump(name):
    model, _ = load_model(find_model(name))
    assert_no_jump(model.double().eval())


#: basis of the data of a configuration, where it is not the minimal one
BASES = {"def2svp": split_basis, "gfn2": valence_basis}


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_no_network_of_a_configuration_jumps(path):
    """As it is built for training, with weights of its start and residuals as large at the cutoff as anywhere."""
    config = parse_configuration(path)
    arguments = config.model.network.as_dict() | {"cutoff": config.data.cutoff}
    torch.manual_seed(0)
    if arguments.get("prior"):
        _, card = load_single(find_model(arguments["prior"]))
        arguments["prior"] = {"basis": card.basis.to_json(), "arguments": card.arguments}
    model = build_network(config.model.architecture, BASES.get(path.stem, minimal_basis)(), arguments)
    for network in [model] + ([model.prior.model] if model.prior is not None else []):
        network.scale.slope.zero_()
        with torch.no_grad():
            network.two_centre.coefficients.normal_(0, 0.02)
            levels = torch.linspace(-0.6, -0.2, network.basis.n_slots)
            network.two_centre.onsite.add_(torch.diag(levels.double()))
    assert_no_jump(model.double().eval())


def test_configurations_are_there():
    assert len(CONFIGS) > 4
