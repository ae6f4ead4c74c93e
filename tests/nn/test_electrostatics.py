"""Potential and field of latent charges and dipoles, against explicit sums and derivatives."""

import numpy as np
import pytest
import torch

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.electrostatics import Electrostatics, smeared_coulomb
from schnorb_t.nn.geometry import Geometry
from schnorb_t.nn.model import MatrixModel
from schnorb_t.units import BOHR
from tests.nn.molecules import minimal_basis, structures

pytest.importorskip("pyscf")


def test_kernels_are_derivatives_of_the_first_one():
    r = torch.linspace(0.5, 20.0, 40, dtype=torch.float64, requires_grad=True)
    width = torch.tensor(1.3, dtype=torch.float64)
    k, k1, k2 = smeared_coulomb(r, width)
    torch.testing.assert_close(k1, -torch.autograd.grad(k.sum(), r, create_graph=True)[0] / r)
    torch.testing.assert_close(k2, torch.autograd.grad(k1.sum(), r)[0] / r, rtol=1e-9, atol=1e-12)
    # far away it is a point charge
    assert abs(k[-1].item() * 20.0 - 1) < 1e-12


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    layer = Electrostatics(scalars=4, vectors=3, channels=2, cutoff=6.0).double()
    with torch.no_grad():
        layer.charge[2].weight.normal_()
        layer.dipole.weight.normal_()
    return layer


@pytest.fixture(scope="module")
def batch():
    return structures_to_batch(*structures(), minimal_basis(), 10.0)


def features(batch):
    torch.manual_seed(1)
    n = len(batch[keys.ATOMIC_NUMBERS])
    return {"0e": torch.randn(n, 1, 4, dtype=torch.float64), "1o": torch.randn(n, 3, 3, dtype=torch.float64)}


def test_sum_over_all_other_atoms(layer, batch):
    """Charges and dipoles, pair by pair, in Cartesian axes; every molecule neutral; nothing from another molecule."""
    x = features(batch)
    with torch.no_grad():
        v, e = layer(x, Geometry(minimal_basis(), 10.0)(batch))
        q, d = (
            layer.charges(x, Geometry(minimal_basis(), 10.0)(batch)),
            layer.dipole(x["1o"]).roll(1, 1),
        )  # y z x -> x y z
    width = layer.log_width.detach().exp()
    r = batch[keys.POSITIONS] / BOHR
    molecule = batch[keys.MOLECULE]
    for b in range(int(molecule.max()) + 1):
        atoms = (molecule == b).nonzero().flatten().tolist()
        charges = q[atoms]
        assert charges.abs().max() > 1e-2 and charges.sum(0).abs().max() < 1e-12
        for i in atoms:
            potential, field = torch.zeros(2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
            for c, j in zip(charges, atoms, strict=True):
                if i == j:
                    continue
                bond = r[i] - r[j]
                k, k1, k2 = smeared_coulomb(bond.norm(), width)
                along = bond @ d[j]
                potential += c * k + along * k1
                field += bond[:, None] * (c * k1 - along * k2) - d[j] * k1
            torch.testing.assert_close(v[i], potential)
            torch.testing.assert_close(e[i].roll(1, 0), field)


def test_the_field_is_the_slope_of_the_potential(layer, batch, monkeypatch):
    """Of fixed charges: how charges follow the atoms is no part of the field."""
    x = features(batch)
    charges = layer.charges(x, Geometry(minimal_basis(), 10.0)(batch)).detach()
    monkeypatch.setattr(layer, "charges", lambda x, g: charges)
    moved = dict(batch)
    moved[keys.POSITIONS] = batch[keys.POSITIONS].clone().requires_grad_()
    v, e = layer(x, Geometry(minimal_basis(), 10.0)(moved))
    for atom in (0, 5, len(v) - 1):
        slope = torch.autograd.grad(v[atom, 1], moved[keys.POSITIONS], retain_graph=True)[0][atom] * BOHR
        torch.testing.assert_close(e[atom, :, 1].roll(1, 0), -slope)


def test_distant_atoms_are_felt():
    """H of an atom beyond every cutoff of messages still follows a polar group's distance, as 1 / R^2 of its dipole."""
    torch.manual_seed(0)
    model = MatrixModel(minimal_basis(), "8x0e+4x1o+4x1e+4x2e", hidden=8, product_channels=4).double()
    water, probe = structures(("H2O",)), np.array([1])

    def shift(distance):
        numbers = np.concatenate((probe, water[0][0]))
        positions = np.concatenate(([[0.0, 0.0, distance]], water[1][0]))
        with torch.no_grad():
            return model(structures_to_batch([numbers], [positions], model.basis, model.cutoff))["hamiltonian"][0, 0, 0]

    far = shift(4000.0)
    near, twice = shift(20.0) - far, shift(40.0) - far
    assert abs(near) > 1e-7
    assert abs(twice / near) < 0.6
