"""Properties by name and the band-pass loss on the package's own padded batches."""

import numpy as np
import pytest
import scipy.linalg
import torch

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.physics.band_pass import GROUPINGS, BandPassLoss, groups_of
from schnorb_t.physics.occupations import Smearing
from schnorb_t.physics.properties import POSITION_INTEGRALS, PROPERTIES, dipole_source
from schnorb_t.physics.state import electronic_state
from schnorb_t.units import BOHR
from tests.physics.molecules import BENZENE, METHANE, WATER, hartree_fock, hartree_fock_batch
from tests.physics.skf_sets import flat_batch
from tests.physics.test_properties import FORMALDEHYDE, NUMBER, sto3g, turned

MOLECULES = [turned(m, i) for i, m in enumerate([BENZENE, WATER, METHANE, FORMALDEHYDE])]


@pytest.fixture(scope="module")
def case():
    basis = sto3g()
    h, s, mask, n_occ = hartree_fock_batch(MOLECULES)
    atoms = [([NUMBER[x] for x, _ in m], np.array([p for _, p in m])) for m in MOLECULES]
    batch = flat_batch(basis, atoms)
    assert torch.equal(batch[keys.ORBITAL_MASK], mask)
    batch |= {
        keys.HAMILTONIAN: h,
        keys.OVERLAP: s,
        keys.N_OCCUPIED: n_occ,
        keys.N_ELECTRONS: 2 * n_occ,
        keys.N_ATOMS: torch.tensor([len(m) for m in MOLECULES]),
    }
    return basis, batch


def state_of(batch, smearing=None, shift=0.0):
    h, s = batch[keys.HAMILTONIAN], batch[keys.OVERLAP]
    options = () if smearing is None else (smearing,)
    return electronic_state(h + shift * s, s, batch[keys.ORBITAL_MASK], batch[keys.N_ELECTRONS], *options)


@pytest.mark.parametrize("name", sorted(PROPERTIES))
def test_batch_equals_single_and_padding_is_masked(case, name):
    basis, batch = case
    smearing = Smearing("fermi-dirac", 0.02)
    value, real = PROPERTIES[name](batch, state_of(batch, smearing), basis)
    assert value.shape == real.shape and (value[~real] == 0).all() and value[real].abs().max() > 0
    whole = value[real]
    parts = []
    for b in range(len(MOLECULES)):
        n = int(batch[keys.ORBITAL_MASK][b].sum())
        atoms = batch[keys.MOLECULE] == b
        one = flat_batch(basis, [(batch[keys.ATOMIC_NUMBERS][atoms].tolist(), batch[keys.POSITIONS][atoms].numpy())])
        one |= {k: batch[k][b : b + 1] for k in (keys.N_OCCUPIED, keys.N_ELECTRONS, keys.N_ATOMS)}
        one |= {k: batch[k][b : b + 1, :n, :n] for k in (keys.HAMILTONIAN, keys.OVERLAP)}
        v, m = PROPERTIES[name](one, state_of(one, smearing), basis)
        parts.append(v[m])
    assert (torch.cat(parts) - whole).abs().max() < 1e-9


def test_dipole_says_where_it_comes_from(case):
    basis, batch = case
    assert dipole_source(batch, basis) == "Löwdin charges and on-site s-p terms"
    r = torch.zeros(len(MOLECULES), 3, *batch[keys.HAMILTONIAN].shape[1:], dtype=torch.float64)
    for b, atoms in enumerate(MOLECULES):
        mol, _ = hartree_fock(atoms)
        for axis, x in enumerate(mol.intor("int1e_r")):
            r[b, axis, : mol.nao, : mol.nao] = torch.tensor(reorder_from_pyscf(mol).matrix(x))
    exact = {**batch, POSITION_INTEGRALS: r}
    assert dipole_source(exact, basis) == "position integrals"
    approximate, _ = PROPERTIES[keys.DIPOLE](batch, state_of(batch), basis)
    dipole, _ = PROPERTIES[keys.DIPOLE](exact, state_of(batch), basis)
    for b, atoms in enumerate(MOLECULES):
        reference = hartree_fock(atoms)[1].dip_moment(unit="AU", verbose=0)
        assert np.abs(dipole[b].numpy() - reference).max() < 1e-8
        # the approximation keeps the dipole's direction and most of its size; zero by symmetry stays zero
        assert np.linalg.norm(approximate[b].numpy() - reference) < 0.16
        if b in (0, 2):
            assert approximate[b].abs().max() < 1e-8
    plain = type(basis)("without functions", basis.shells)
    assert dipole_source(batch, plain) == "Mulliken charges"
    charges, _ = PROPERTIES[keys.CHARGES](batch, state_of(batch), basis)
    points, _ = PROPERTIES[keys.DIPOLE](batch, state_of(batch), plain)
    moments = charges[:, None] * batch[keys.POSITIONS] / BOHR
    assert (points - torch.zeros(4, 3).double().index_add(0, batch[keys.MOLECULE], moments)).abs().max() < 1e-9


@pytest.mark.parametrize("by", GROUPINGS)
def test_groups_hold_every_orbital_once(case, by):
    basis, batch = case
    groups = groups_of(batch, basis, by)
    assert torch.equal(groups.sum(1), batch[keys.ORBITAL_MASK].double())


@pytest.mark.parametrize("by", GROUPINGS)
def test_band_pass_loss_of_a_shift(case, by):
    basis, batch = case
    loss = BandPassLoss(3, 1, by, width=0.02, n_grid=801)
    reference = state_of(batch)
    assert loss(batch, reference, reference, basis).abs().max() < 1e-14
    assert (loss(batch, state_of(batch, shift=-0.3), reference, basis) - 0.3).abs().max() < 1e-3
    # what lies outside the window costs nothing: lift all but the frontier levels of benzene
    e, c = reference.energies, reference.coefficients
    outside = (loss.window(reference, batch[keys.N_OCCUPIED]) == 0) & reference.level_mask
    outside = outside & (torch.arange(e.shape[1]) < batch[keys.N_OCCUPIED].unsqueeze(1))
    sc = reference.overlap @ c
    deeper = {**batch, keys.HAMILTONIAN: batch[keys.HAMILTONIAN] - (sc * (0.2 * outside).unsqueeze(1)) @ sc.mT}
    assert loss(deeper, state_of(deeper), reference, basis).abs().max() < 1e-9


def test_band_pass_loss_with_orbitals_masked_out(case):
    basis, batch = case
    loss = BandPassLoss(3, 1, "element", width=0.02)
    reference = state_of(batch)
    groups = groups_of(batch, basis, "element")
    counted = groups[:, 0] == 0  # not hydrogen
    moved = batch[keys.HAMILTONIAN].clone()
    moved = moved + 0.1 * batch[keys.OVERLAP]
    state = electronic_state(moved, batch[keys.OVERLAP], batch[keys.ORBITAL_MASK], batch[keys.N_ELECTRONS])
    assert (loss(batch, state, reference, basis, counted) - 0.1).abs().max() < 1e-3
    everything = loss(batch, state, reference, basis, torch.zeros_like(counted))
    assert everything.abs().max() == 0


def test_band_pass_loss_against_a_large_basis(case):
    """Levels and Mulliken shares of an RHF/def2-SVP calculation as the reference of the STO-3G matrices."""
    scf = pytest.importorskip("pyscf.scf")
    basis, batch = case
    energies, weights = [], []
    for b, atoms in enumerate(MOLECULES):
        mol = hartree_fock(atoms)[0].copy()
        mol.basis = "def2-svp"
        mol.build()
        mf = scf.RHF(mol).run()
        e, c = scipy.linalg.eigh(mf.get_fock(), mol.intor("int1e_ovlp"))
        share = c * (mol.intor("int1e_ovlp") @ c)
        z = np.array([NUMBER[mol.atom_symbol(label[0])] for label in mol.ao_labels(fmt=None)])
        n = int(batch[keys.N_OCCUPIED][b])
        # three levels below; benzene's third and fourth are one degenerate pair: half each
        w = np.zeros(len(e))
        w[n - 3 : n + 1] = 1
        if b == 0:
            w[n - 4 : n - 2] = 0.5
        weights.append(np.stack([share[z == q].sum(0) * w for q in (1, 6, 8)]))
        energies.append(e)
    width = max(map(len, energies))
    e = torch.zeros(len(MOLECULES), width, dtype=torch.float64)
    w = torch.zeros(len(MOLECULES), 3, width, dtype=torch.float64)
    for b, (x, y) in enumerate(zip(energies, weights, strict=True)):
        e[b, : len(x)], w[b, :, : len(x)] = torch.tensor(x), torch.tensor(y)
    loss = BandPassLoss(3, 0, "element", width=0.02)
    occupied_only = torch.where(torch.arange(width) < batch[keys.N_OCCUPIED][:, None], 1.0, 0.0)
    value = loss.against_levels(batch, state_of(batch), e, w * occupied_only.unsqueeze(1), basis)
    assert ((value > 1e-3) & (value < 0.2)).all()

    def of(h):
        state = electronic_state(h, batch[keys.OVERLAP], batch[keys.ORBITAL_MASK], batch[keys.N_ELECTRONS])
        return loss.against_levels(batch, state, e, w * occupied_only.unsqueeze(1), basis).sum()

    # a step downhill on H alone brings the distributions closer, by what the gradient says
    h = batch[keys.HAMILTONIAN].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of(h), h)
    with torch.no_grad():
        lower = of(h - 1e-3 * gradient / gradient.norm())
    assert (value.sum() - lower).item() == pytest.approx(1e-3 * gradient.norm().item(), rel=0.05)


@pytest.mark.parametrize("options", [{"by": "colour"}, {"n_below": 0, "n_above": 0}])
def test_bad_options(options):
    with pytest.raises(ValueError):
        BandPassLoss(**options)


def test_dipole_of_a_projected_basis_comes_from_charges_alone(case):
    """Free-atom functions say nothing about the on-site terms of functions that were deformed."""
    basis, batch = case
    projected = Basis(basis.name, basis.shells, basis.functions, projected=True)
    assert dipole_source(batch, projected) == "Löwdin charges"
    dipole, _ = PROPERTIES[keys.DIPOLE](batch, state_of(batch), projected)
    charges, _ = PROPERTIES["lowdin_charges"](batch, state_of(batch), projected)
    moments = charges[:, None] * batch[keys.POSITIONS] / BOHR
    wanted = torch.zeros_like(dipole).index_add_(0, batch[keys.MOLECULE], moments)
    assert (dipole - wanted).abs().max() < 1e-9
