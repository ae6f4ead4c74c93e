"""The energy model: gradients, symmetries, batches, padding, cutoffs, both kinds of forces, in both precisions."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.base import EnergyNetwork, networks
from schnorb_t.nn.energy import CONSERVATIVE, DIRECT, EnergyModel, without_net_force
from schnorb_t.units import BOHR
from tests.nn.molecules import structures

BASIS = Basis("valence", {1: (0,), 6: (0, 1), 7: (0, 1), 8: (0, 1)}, core={6: 2, 7: 2, 8: 2})
KINDS = (CONSERVATIVE, DIRECT)
#: largest differences that rounding makes, relative to the largest force
BOUND = {torch.float32: 1e-5, torch.float64: 1e-12}


def network(forces: str = CONSERVATIVE, dtype: torch.dtype = torch.float64, **more) -> EnergyModel:
    torch.manual_seed(3)
    arguments = {
        "irreps": "8x0e+6x1o+4x1e+4x2e",
        "hidden": 12,
        "product_channels": 4,
        "charge_channels": 3,
        "cutoff": 4,
    }
    model = EnergyModel(BASIS, **{"cutoff": 4.0, **arguments, **more}, forces=forces)
    model.scale.fill_(1.0)  # random weights make small energies
    return model.to(dtype).eval()


def predict(model, numbers, positions):
    batch = structures_to_batch(numbers, positions, BASIS, model.cutoff)
    with torch.no_grad():
        out = model(batch)
    n = [len(z) for z in numbers]
    return out[keys.TOTAL_ENERGY].numpy(), np.split(out[keys.FORCES].numpy(), np.cumsum(n)[:-1])


def test_it_is_known_by_name():
    assert networks(EnergyNetwork) == {"energy": EnergyModel}


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("kind", KINDS)
def test_rotation_reflection_translation_permutation_and_batches(kind, dtype):
    model = network(kind, dtype)
    numbers, positions = structures()
    energies, forces = predict(model, numbers, positions)
    assert all(np.abs(f).max() > 1e-4 for f in forces), "forces that are nothing prove nothing"
    close = {"energy": BOUND[dtype] * np.abs(energies).max()}
    close["force"] = BOUND[dtype] * max(np.abs(f).max() for f in forces)
    turn = Rotation.random(random_state=5).as_matrix()
    order = [np.random.default_rng(2).permutation(len(z)) for z in numbers]
    for improper in (1.0, -1.0):
        moved = [improper * x @ turn.T + [30.0, -20.0, 10.0] for x in positions]
        e, f = predict(model, numbers, moved)
        assert np.abs(e - energies).max() < close["energy"]
        for one, other in zip(f, forces, strict=True):
            assert np.abs(one - improper * other @ turn.T).max() < close["force"]
    shuffled = ([x[p] for x, p in zip(each, order, strict=True)] for each in (numbers, positions))
    e, f = predict(model, *shuffled)
    assert np.abs(e - energies).max() < close["energy"]
    assert all(np.abs(a - b[p]).max() < close["force"] for a, b, p in zip(f, forces, order, strict=True))
    for k, (z, x) in enumerate(zip(numbers, positions, strict=True)):  # alone: no padding, other molecules or places
        e, f = predict(model, [z], [x])
        assert abs(e[0] - energies[k]) < close["energy"] and np.abs(f[0] - forces[k]).max() < close["force"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_net_force_and_no_torque(kind):
    numbers, positions = structures()
    _, forces = predict(network(kind), numbers, positions)
    for x, f in zip(positions, forces, strict=True):
        assert np.abs(f.sum(0)).max() < 1e-14 and np.abs(np.cross(x, f).sum(0)).max() < 1e-9


def test_forces_without_net_force_are_left_as_they_are():
    rng = np.random.default_rng(0)
    x, f = torch.tensor(rng.normal(size=(7, 3))), torch.tensor(rng.normal(size=(7, 3)))
    molecule = torch.tensor([0, 0, 0, 0, 1, 1, 2])  # the second is linear, the third an atom
    once = without_net_force(f, x, molecule, 3)
    assert torch.allclose(without_net_force(once, x, molecule, 3), once, atol=1e-8)
    assert once[6].abs().max() < 1e-12 and (once[4] + once[5]).abs().max() < 1e-12
    assert torch.linalg.cross(x[:4], once[:4]).sum(0).abs().max() < 1e-8


@pytest.mark.parametrize(("dtype", "step", "bound"), [(torch.float64, 1e-4, 1e-9), (torch.float32, 2e-2, 2e-4)])
def test_forces_are_minus_the_gradient_of_the_energy(dtype, step, bound):
    model = network(dtype=dtype)
    numbers, positions = structures(("CH3CH2OH",))
    direction = np.random.default_rng(1).normal(size=positions[0].shape)
    _, (forces,) = predict(model, numbers, positions)
    ends = [predict(model, numbers, [positions[0] + s * step * direction])[0][0] for s in (1.0, -1.0)]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert abs(slope + (forces * direction).sum() / BOHR) < bound


def test_second_derivatives_and_gradients_of_a_loss_on_forces():
    model = network(interactions=2)
    numbers, positions = structures(("H2O",))
    batch = structures_to_batch(numbers, positions, BASIS, model.cutoff)

    def energy(x):
        return model.energy({**batch, keys.POSITIONS: x.reshape(3, 3)})

    x = batch[keys.POSITIONS].flatten().requires_grad_()
    assert torch.autograd.gradgradcheck(energy, x, atol=1e-6)
    weight = model.interactions[0].filters.out.weight

    def loss():
        return model(batch)[keys.FORCES].square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[3, 2] += sign * 1e-4
            values.append(float(loss()))
            weight[3, 2] -= sign * 1e-4
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(float(gradient[3, 2]), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_jumps_at_the_cutoff(kind):
    """Two molecules pass each other's range: forces and their slopes go on."""
    model = network(kind)
    numbers, positions = structures(("H2O", "HCN"))
    z = np.concatenate(numbers)
    nearest = np.linalg.norm(positions[0][:, None] - positions[1] - [0, 0, 6], axis=-1).min()

    def forces(shift):
        both = np.concatenate((positions[0], positions[1] + [0, 0, 6 + 4.0 - nearest + shift]))
        return predict(model, [z], [both])[1][0]

    steps = np.array([-2e-3, -1e-3, 0.0, 1e-3, 2e-3]) + 1e-7
    f = np.stack([forces(s) for s in steps])
    slopes = np.diff(f, axis=0) / 1e-3
    assert np.abs(np.diff(f, axis=0)).max() < 1e-4
    assert np.abs(np.diff(slopes, axis=0)).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode_and_no_grad_agree_with_training(kind):
    model = network(kind)
    batch = structures_to_batch(*structures(), BASIS, model.cutoff)
    out = model(batch)
    assert out[keys.FORCES].requires_grad
    with torch.inference_mode():
        inside = model({k: v.clone() for k, v in batch.items()})
    with torch.no_grad():
        quiet = model(batch)
    for name in (keys.TOTAL_ENERGY, keys.FORCES):
        assert torch.allclose(out[name], inside[name], atol=1e-14) and torch.equal(inside[name], quiet[name])
        assert not quiet[name].requires_grad


def test_energies_of_the_elements_are_found():
    model = network()
    numbers, positions = structures()
    batch = structures_to_batch(numbers, positions, BASIS, model.cutoff)
    per_atom = {1: -0.5, 6: -37.8, 7: -54.5, 8: -75.0}
    labels = torch.tensor([sum(per_atom[int(q)] for q in z) for z in numbers], dtype=torch.float64)
    forces = torch.full_like(batch[keys.POSITIONS], 0.03)
    flags = torch.ones(len(numbers), dtype=torch.bool)
    batch |= {keys.TOTAL_ENERGY: labels, keys.FORCES: forces}
    batch |= {keys.present(keys.TOTAL_ENERGY): flags, keys.present(keys.FORCES): flags}
    model.fit_reference(lambda: [batch])
    assert float(model.scale) == pytest.approx(0.03)
    with torch.no_grad():
        model.readout[2].weight.zero_()
        model.readout[2].bias.zero_()
    assert torch.allclose(model(batch)[keys.TOTAL_ENERGY].detach(), labels, atol=1e-6)


def test_values_that_cannot_be():
    for arguments, name in (
        ({"forces": "both"}, "forces"),
        ({"irreps": "8x0e", "forces": DIRECT}, "irreps"),
        ({"irreps": "8x1o"}, "irreps"),
        ({"interactions": 0}, "interactions"),
        ({"cutoff": -1.0}, "cutoff"),
    ):
        assert name in dict(EnergyModel.faults(arguments))
    assert not [*EnergyModel.faults({"irreps": "8x0e+4x1o", "forces": DIRECT, "cutoff": 4.0})]
