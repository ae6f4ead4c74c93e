import numpy as np
import pytest
import scipy.linalg
import torch

from schnorb_t.errors import UserError
from schnorb_t.physics.eigen import energies_only, frontier, occupations, solve, solve_checked
from tests.physics.molecules import (
    BENZENE,
    METHANE,
    WATER,
    directional_derivative,
    hartree_fock,
    hartree_fock_batch,
    random_batch,
)

SIZES = [7, 3, 12, 1, 9]


def test_against_scipy_per_molecule():
    h, s, mask = random_batch(SIZES)
    energies, c = solve(h, s, mask)
    for b, n in enumerate(SIZES):
        e, v = scipy.linalg.eigh(h[b, :n, :n].numpy(), s[b, :n, :n].numpy())
        assert np.abs(energies[b, :n].numpy() - e).max() < 1e-10
        real = c[b, :n, :n].numpy()
        assert np.abs(np.abs(np.diag(v.T @ s[b, :n, :n].numpy() @ real)) - 1).max() < 1e-10
        assert np.abs(real.T @ s[b, :n, :n].numpy() @ real - np.eye(n)).max() < 1e-10
        assert (c[b, :n, n:] == 0).all() and (c[b, n:, :n] == 0).all()
        assert (energies[b, n:] > energies[b, n - 1]).all() and (energies[b, n:].diff() > 1e-3).all()


def test_padding_anywhere_and_more_of_it_changes_nothing():
    h, s, mask = random_batch(SIZES)
    energies, _ = solve(h, s, mask)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    big_h, big_s = torch.full((5, 25, 25), 3.7), torch.full((5, 25, 25), -0.4)
    big_h, big_s, big_mask = big_h.double(), big_s.double(), torch.zeros(5, 25, dtype=torch.bool)
    big_h[:, :12, :12], big_s[:, :12, :12], big_mask[:, :12] = h, s, mask
    big_h, big_s, big_mask = big_h[:, order][:, :, order], big_s[:, order][:, :, order], big_mask[:, order]
    again, c = solve(big_h, big_s, big_mask)
    for b, n in enumerate(SIZES):
        assert (again[b, :n] - energies[b, :n]).abs().max() < 1e-12
        assert (c[b, ~big_mask[b]][:, :n] == 0).all()


@pytest.mark.parametrize("what", ["energies", "coefficients"])
def test_no_gradient_reaches_padding(what):
    h, s, mask = random_batch(SIZES)
    h.requires_grad_(), s.requires_grad_()
    energies, c = solve(h, s, mask)
    (energies.sum() if what == "energies" else (c**4).sum()).backward()
    real = mask[:, :, None] & mask[:, None, :]
    for x in (h, s):
        assert x.grad.isfinite().all() and (x.grad[~real] == 0).all() and x.grad[real].abs().max() > 1e-3


def test_float32_is_solved_in_float64():
    h, s, mask = random_batch(SIZES, dtype=torch.float32)
    h.requires_grad_()
    energies, c = solve(h, s, mask)
    reference, _ = solve(h.double(), s.double(), mask)
    assert energies.dtype == c.dtype == torch.float64
    assert torch.equal(energies, reference)
    energies[mask].sum().backward()
    assert h.grad.dtype == torch.float32


def test_energies_only():
    h, s, mask = random_batch(SIZES)
    reference = solve(h, s, mask)[0]
    assert (energies_only(h, s, mask) - reference)[mask].abs().max() < 1e-12
    h.requires_grad_()
    assert energies_only(h, s, mask).requires_grad


def test_gradients_without_degeneracy():
    """Every function of energies and coefficients whose sign does not matter, second derivatives of levels too."""
    h, s, mask = random_batch([4, 3], seed=3)
    h, s = (
        torch.where(mask[:, :, None] & mask[:, None, :], h, 0.0),
        torch.where(mask[:, :, None] & mask[:, None, :], s, 0.0),
    )

    def symmetric(x):
        return (x + x.mT) / 2

    def loss(h, s):
        e, c = solve(symmetric(h), symmetric(s), mask)
        return torch.where(mask, e, 0.0) * torch.arange(1, 5), c**2

    h.requires_grad_(), s.requires_grad_()
    assert torch.autograd.gradcheck(loss, (h, s), atol=1e-7)
    assert torch.autograd.gradgradcheck(lambda h, s: loss(h, s)[0].sum(), (h, s), atol=1e-6)


@pytest.mark.parametrize("molecules", [[METHANE], [BENZENE], [BENZENE, WATER, METHANE]])
def test_gradients_of_degenerate_molecules(molecules):
    """Occupied density (through C) and band energy against finite differences, where native eigh fails."""
    h, s, mask, n_occ = hartree_fock_batch(molecules)
    e, _ = solve(h, s, mask)
    assert (e[0, : mask[0].sum()].diff().min()) < 1e-9, "the molecule must be degenerate for this test to mean anything"
    weight = torch.randn(h.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def density_functional(h, s):
        e, c = solve(h, s, mask)
        density = (c * occupations(e, n_occ).unsqueeze(-2)) @ c.mT
        return (density * weight).sum() + (density @ s * h).sum()

    def band_energy(h, s):
        e, _ = solve(h, s, mask)
        return (e * occupations(e, n_occ)).sum()

    for function in (density_functional, band_energy):
        analytic, numeric = directional_derivative(function, [h, s], real=mask)
        assert analytic == pytest.approx(numeric, rel=1e-6)


def test_frontier_and_occupations_against_hartree_fock():
    molecules = [BENZENE, WATER, METHANE]
    h, s, mask, n_occ = hartree_fock_batch(molecules)
    energies, _ = solve(h, s, mask)
    homo, lumo, gap = frontier(energies, n_occ, mask)
    occ = occupations(energies, n_occ)
    for b, atoms in enumerate(molecules):
        mol, mf = hartree_fock(atoms)
        e = scipy.linalg.eigh(mf.get_fock(), mol.intor("int1e_ovlp"), eigvals_only=True)
        k = mol.nelectron // 2
        assert abs(homo[b].item() - e[k - 1]) < 1e-10 and abs(lumo[b].item() - e[k]) < 1e-10
        assert abs(gap[b].item() - (e[k] - e[k - 1])) < 1e-10
        assert occ[b].sum() == mol.nelectron and (occ[b, :k] == 2).all()


def test_no_virtual_level_has_no_lumo():
    h, s, mask = random_batch([2, 4])
    homo, lumo, gap = frontier(solve(h, s, mask)[0], torch.tensor([2, 4]), mask)
    assert homo.isfinite().all() and lumo.isnan().all() and gap.isnan().all()


def test_a_bad_overlap_spoils_only_its_molecule_and_is_named():
    h, s, mask = random_batch(SIZES)
    good = solve(h, s, mask)[0]
    s = s.clone()
    s[1, 0, 1] = s[1, 1, 0] = 5.0
    h = h.clone()
    h[3, 0, 0] = torch.nan
    energies, c = solve(h, s, mask)
    assert energies[[1, 3]].isnan().all() and c[[1, 3]].isnan().all()
    assert torch.equal(energies[[0, 2, 4]], good[[0, 2, 4]])
    assert energies_only(h, s, mask)[[1, 3]].isnan().all()
    with pytest.raises(UserError, match=r"b: overlap is not positive definite.*d: .*NaN"):
        solve_checked(h, s, mask, names="abcde")
    assert torch.equal(solve_checked(h[[0, 2]], s[[0, 2]], mask[[0, 2]])[0], energies[[0, 2]])
