import mpmath
import numpy as np
import pytest
import scipy.integrate
import torch

from schnorb_t.physics.occupations import Smearing, chemical_potential, fill, occupations
from tests.physics.molecules import BENZENE, METHANE, WATER, hartree_fock, hartree_fock_batch

SMEARINGS = [
    Smearing("fermi-dirac", 0.05),
    Smearing("fermi-dirac", 0.002),
    Smearing("gaussian", 0.05),
    Smearing("gaussian", 0.02),
    Smearing("methfessel-paxton", 0.05, 1),
    Smearing("methfessel-paxton", 0.1, 3),
]


def filling_in_many_digits(smearing, x):
    """The textbook formulas once more, in 60 digits."""
    if smearing.kind == "fermi-dirac":
        return 2 / (1 + mpmath.exp(x))
    f = mpmath.erfc(x)
    if smearing.kind == "methfessel-paxton":
        for n in range(1, smearing.order + 1):
            a = mpmath.mpf(-1) ** n / (mpmath.factorial(n) * mpmath.mpf(4) ** n * mpmath.sqrt(mpmath.pi))
            f += 2 * a * mpmath.hermite(2 * n - 1, x) * mpmath.exp(-x * x)
    return f


def levels():
    e = torch.full((4, 9), 77.0, dtype=torch.float64)
    rows = [
        [-20.5, -1.2, -0.7, -0.45, -0.45, 0.2, 0.31, 0.31, 1.1],
        [-0.6, 0.35],
        [-0.9, -0.5, -0.5, -0.5, 0.1, 0.2],
        [-10.0, -0.3, -0.25, -0.21, 0.0, 0.4, 0.9],
    ]
    for b, row in enumerate(rows):
        e[b, : len(row)] = torch.tensor(row)
    mask = e != 77.0
    return e, mask, torch.tensor([10, 2, 6, 7])


@pytest.mark.parametrize("smearing", SMEARINGS, ids=str)
def test_chemical_potential_in_many_digits(smearing):
    """Wide gaps (1e-115 electrons) and odd electron numbers included."""
    e, mask, n = levels()
    mu = chemical_potential(e, n, mask, smearing)
    f, _ = occupations(e, n, mask, smearing)
    assert (f.sum(-1) - n).abs().max() < 1e-12 and (f[~mask] == 0).all()
    with mpmath.workdps(400):
        for b in range(len(e)):
            xs = [mpmath.mpf(v) for v in e[b][mask[b]].tolist()]
            # bisection around our root: the exact function must change sign within 1e-10 Eh of it
            signs = [
                mpmath.sign(
                    sum(filling_in_many_digits(smearing, (x - m) / mpmath.mpf(smearing.width)) for x in xs) - int(n[b])
                )
                for m in (
                    mpmath.mpf(mu[b].item()) - mpmath.mpf("1e-10"),
                    mpmath.mpf(mu[b].item()) + mpmath.mpf("1e-10"),
                )
            ]
            assert signs == [-1, 1], (b, mu[b])


@pytest.mark.parametrize("smearing", [*SMEARINGS, Smearing("methfessel-paxton", 1e-3, 4)], ids=str)
def test_electrons_add_up_for_any_spectrum(smearing):
    """2000 random spectra with degenerate levels, odd and fractional electron numbers."""
    g = torch.Generator().manual_seed(0)
    e = 2 * torch.randn(2000, 12, dtype=torch.float64, generator=g)
    e = torch.where(torch.rand(e.shape, generator=g) < 0.3, e.round(decimals=1), e).sort(-1).values
    size = torch.randint(2, 13, (2000,), generator=g)
    n = (torch.rand(2000, generator=g) * (2 * size - 1)).round().clamp(min=1).double()
    n = torch.where(torch.rand(2000, generator=g) < 0.2, n - 0.3, n)
    f, mu = occupations(e, n, torch.arange(12) < size[:, None], smearing)
    # to the last digit of mu: its rounding moves dn/dmu = 1 / width electrons
    assert (f.sum(-1) - n).abs().max() < 1e-14 / smearing.width + 1e-12 and mu.isfinite().all()


def test_a_gap_too_wide_for_any_number_gives_its_middle():
    e = torch.tensor([[-3.0, -2.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    mask, n = torch.ones(1, 4, dtype=torch.bool), torch.tensor([4])
    mu = chemical_potential(e, n, mask, Smearing("gaussian", 0.01))
    assert mu.item() == 0.0
    mu.sum().backward()
    assert torch.equal(e.grad, torch.tensor([[0, 0.5, 0.5, 0]], dtype=torch.float64))


@pytest.mark.parametrize("smearing", SMEARINGS, ids=str)
def test_slope_and_entropy_belong_to_the_filling(smearing):
    x = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
    f = smearing.filling(x)
    (slope,) = torch.autograd.grad(f.sum(), x)
    assert (slope - smearing.slope(x)).abs().max() < 1e-13
    assert (smearing.filling(-x) + f - 2).abs().max() < 1e-14
    # s' = x f' from nothing below: integrate
    for at in (-1.3, 0.0, 0.8):
        integral, _ = scipy.integrate.quad(
            lambda t: t * smearing.slope(torch.tensor(t, dtype=torch.float64)).item(), -40, at, epsabs=1e-13, limit=200
        )
        assert smearing.entropy(torch.tensor(at, dtype=torch.float64)).item() == pytest.approx(integral, abs=1e-10)


@pytest.mark.parametrize("smearing", SMEARINGS, ids=str)
def test_implicit_derivative(smearing):
    e, mask, n = levels()
    e = e[2:, :7].clone().requires_grad_()

    def function(e):
        f, mu = occupations(e, n[2:], mask[2:, :7], smearing)
        return f, mu

    assert torch.autograd.gradcheck(function, e, atol=1e-7, eps=1e-7)


def test_degenerate_frontier_is_filled_evenly():
    e, mask, n = levels()
    f = fill(e, torch.tensor([9, 1, 4, 3]), mask)
    expected = [[2, 2, 2, 1.5, 1.5], [1], [2, 2 / 3, 2 / 3, 2 / 3], [2, 1]]
    for b, row in enumerate(expected):
        assert f[b, : len(row)].numpy() == pytest.approx(np.array(row)) and f[b, len(row) :].sum() == 0
    mu = chemical_potential(e, torch.tensor([9, 2, 4, 7]), mask, Smearing())
    assert mu.tolist() == pytest.approx([-0.45, (-0.6 + 0.35) / 2, -0.5, -0.21])


@pytest.mark.parametrize("method", ["fermi", "gauss"])
def test_against_pyscf_smearing(method):
    """PySCF's own smeared SCF: occupations, chemical potential, entropy of its final Fock matrix."""
    scf = pytest.importorskip("pyscf.scf")
    from schnorb_t.physics.energies import band_energy, entropy, free_energy
    from schnorb_t.physics.state import density_matrix, electronic_state

    sigma = 0.15
    kind = {"fermi": "fermi-dirac", "gauss": "gaussian"}[method]
    for atoms in (WATER, METHANE, BENZENE):
        mol, _ = hartree_fock(atoms)
        mf = scf.addons.smearing_(scf.RHF(mol), sigma=sigma, method=method)
        mf.conv_tol, mf.conv_tol_grad = 1e-13, 1e-8
        mf.kernel()
        fock, overlap = mf.get_fock(dm=mf.make_rdm1()), mol.intor("int1e_ovlp")
        energy, c = mf.eig(fock, overlap)
        occ = mf.get_occ(energy, c)
        h, s = torch.tensor(fock)[None], torch.tensor(overlap)[None]
        mask = torch.ones(1, len(fock), dtype=torch.bool)
        state = electronic_state(h, s, mask, torch.tensor([mol.nelectron]), Smearing(kind, sigma))
        # PySCF finds mu by minimising (n - n(mu))^2 to about 1e-8 electrons
        assert np.abs(state.occupations[0].numpy() - occ).max() < 1e-6
        if method == "fermi":
            assert entropy(state).item() == pytest.approx(mf.entropy, abs=1e-5)
            density = density_matrix(state)[0].numpy()
            mine = mf.energy_tot(dm=density) - sigma * entropy(state).item()
            assert mine == pytest.approx(mf.e_free, abs=1e-8)
        assert free_energy(state).item() == pytest.approx(band_energy(state).item() - sigma * entropy(state).item())


def test_batch_against_scipy_mermin():
    import scipy.linalg
    import scipy.optimize
    import scipy.special

    from schnorb_t.physics.energies import free_energy
    from schnorb_t.physics.state import electronic_state

    molecules = [BENZENE, WATER, METHANE]
    h, s, mask, n_occ = hartree_fock_batch(molecules)
    width = 0.08
    state = electronic_state(h, s, mask, 2 * n_occ - 1, Smearing("fermi-dirac", width))
    for b in range(3):
        m = int(mask[b].sum())
        e = scipy.linalg.eigh(h[b, :m, :m], s[b, :m, :m], eigvals_only=True)
        n = 2 * int(n_occ[b]) - 1
        mu = scipy.optimize.brentq(
            lambda t, e=e, n=n: 2 * scipy.special.expit(-(e - t) / width).sum() - n, -5, 5, xtol=1e-15, rtol=1e-14
        )
        p = scipy.special.expit(-(e - mu) / width)
        s_el = 2 * (scipy.special.entr(p) + scipy.special.entr(1 - p)).sum()
        assert state.chemical_potential[b].item() == pytest.approx(mu, abs=1e-10)
        assert free_energy(state)[b].item() == pytest.approx(2 * (p * e).sum() - width * s_el, abs=1e-10)


@pytest.mark.parametrize("arguments", [("cold", 0.1), ("fermi-dirac", 0.0), ("none", 0.1), ("gaussian", -1.0)])
def test_bad_smearing(arguments):
    with pytest.raises(ValueError, match="smearing"):
        Smearing(*arguments)
