"""Ensembles: the mean of their members in every respect, one prior for all, a spread that eigenvalues confirm."""

import copy

import numpy as np
import pytest
import torch

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.interfaces.slater_koster_files import two_centre_integrals
from schnorb_t.nn.ensemble import EnsembleModel, level_spread
from schnorb_t.nn.model import MatrixModel
from schnorb_t.physics.eigen import solve
from schnorb_t.physics.state import thermal_density_matrix
from tests.nn.molecules import minimal_basis, split_basis, structures, valence_basis

pytest.importorskip("pyscf")
NETWORK = dict(irreps="8x0e+8x1o+4x1e+8x2e", interactions=1, pair_channels=[16, 8, 8, 8], hidden=16, product_channels=4)
PRIOR = {"basis": valence_basis().to_json(), "arguments": NETWORK}


def member(seed: int, prior: dict | None = PRIOR, basis=None) -> MatrixModel:
    torch.manual_seed(seed)
    net = MatrixModel(basis or minimal_basis(), **NETWORK, prior=prior, density=thermal_density_matrix)
    with torch.no_grad():
        for part in (net.two_centre, net.overlap_two_centre) if net.basis.projected else (net.two_centre,):
            part.coefficients.normal_(0, 0.01)
            part.onsite.add_(part.invariant.sum(0).reshape(part.onsite.shape[1:]) * 0.05)
        net.two_centre.onsite.sub_(torch.diag(torch.tensor([9.0, 0.7, 0.3, 0.3, 0.3])) if net.basis.projected else 0)
        if prior:
            torch.manual_seed(0)
            net.prior.model.two_centre.coefficients.normal_(0, 0.02)
            net.prior.model.two_centre.onsite.add_(torch.diag(torch.tensor([-0.6, -0.2, -0.2, -0.2])))
    net.scale.onsite.fill_(0.02)
    return net.double().eval()


@pytest.fixture(scope="module")
def members():
    first, second = member(1), member(2)
    second.prior.model.load_state_dict(first.prior.model.state_dict())
    return first, second


@pytest.fixture(scope="module")
def ensemble(members):
    return EnsembleModel([copy.deepcopy(m) for m in members]).eval()


@pytest.fixture(scope="module")
def batch():
    return structures_to_batch(*structures(), minimal_basis(), 10.0)


def test_matrices_are_the_mean_of_the_members(ensemble, members, batch):
    with torch.no_grad():
        out, single = ensemble(batch), [m(batch) for m in members]
    for name, key in (("member_hamiltonian", keys.HAMILTONIAN), ("member_overlap", keys.OVERLAP)):
        apart = torch.stack([x[key] for x in single])
        assert (apart[0] - apart[1]).abs().max() > 1e-3
        assert torch.allclose(out[name], apart, atol=1e-12)
        assert torch.allclose(out[key], apart.mean(0), atol=1e-12)
        assert torch.equal(out[key], out[key].mT)
    # the door that benchmarks use
    with torch.no_grad():
        again = ensemble.matrices(ensemble.blocks(batch), batch)
    assert torch.equal(again[keys.HAMILTONIAN], out[keys.HAMILTONIAN])


def test_one_prior_is_computed_once(ensemble, members, batch, monkeypatch):
    assert ensemble.shares_prior
    calls, forward = [], ensemble.prior.model.forward
    monkeypatch.setattr(ensemble.prior.model, "forward", lambda b: calls.append(1) or forward(b))
    with torch.no_grad():
        ensemble(batch)
    assert len(calls) == 1
    count = sum(m.n_parameters() for m in members) - members[0].prior.model.n_parameters()
    assert ensemble.n_parameters() == count
    assert "one prior" in repr(ensemble)


def test_priors_that_differ_stay_apart(batch):
    first, second = member(1), member(2)
    with torch.no_grad():
        second.prior.model.two_centre.onsite.mul_(1.5)
        wanted = 0.5 * (first(batch)[keys.HAMILTONIAN] + second(batch)[keys.HAMILTONIAN])
        both = EnsembleModel([first, second])
        assert not both.shares_prior
        assert torch.allclose(both(batch)[keys.HAMILTONIAN], wanted, atol=1e-12)


def test_two_centre_part_is_the_mean(ensemble, members):
    """What Slater-Koster files are made of."""
    grid = np.linspace(1.0, 12.0, 7)
    single = [two_centre_integrals(m, grid) for m in members]
    for k, got in enumerate(two_centre_integrals(ensemble, grid)):
        assert np.allclose(got, 0.5 * (single[0][k] + single[1][k]), atol=1e-12)
    assert np.abs(single[0][0] - single[1][0]).max() > 1e-4


def test_spread_is_that_of_the_members_levels():
    """Members close to one another: first order is all there is, and eigenvalues tell each level's spread."""
    random = torch.Generator().manual_seed(0)
    m, real = 7, 5
    mask = torch.arange(m) < real
    step = torch.randn(3, 2, m, m, generator=random, dtype=torch.float64) * 1e-6
    step = (step + step.mT) * (mask[:, None] & mask)
    h0 = torch.diag(torch.arange(m) * 1.0) + 0.1
    s0 = torch.eye(m, dtype=torch.float64) + 0.05
    inside = (mask[:, None] & mask).double()
    h, s = (x * inside + d for x, d in ((h0, step[:, :1]), (s0, step[:, 1:])))
    masks = mask.expand(1, m)
    energies, coefficients = solve(h.mean(0), s.mean(0), masks)
    wanted = torch.stack([solve(a, b, masks)[0][0, :real] for a, b in zip(h, s, strict=True)]).std(0)
    got = level_spread(h, s, energies, coefficients, masks)[0]
    assert torch.allclose(got[:real], wanted, rtol=1e-3, atol=1e-11) and (got[real:] == 0).all()
    assert wanted.min() > 1e-8


def test_what_cannot_be_averaged():
    with pytest.raises(ValueError, match="two members or more"):
        EnsembleModel([member(1, None)])
    with pytest.raises(ValueError, match="same basis"):
        EnsembleModel([member(1, None), member(1, None, split_basis())])
