"""Charges, bond orders, dipoles and energies of a padded batch of rotated molecules against PySCF and scipy."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.transform import Rotation

from schnorb_t.basis import Basis, GaussianShell
from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.physics.charges import lowdin_charges, mayer_bond_orders, mulliken_charges
from schnorb_t.physics.density_of_states import (
    Broadening,
    density_of_states,
    frontier_window,
    group_by,
    projected_density_of_states,
    projected_dos_loss,
    wasserstein,
)
from schnorb_t.physics.dipole import (
    atomic_dipoles,
    dipole_from_charges,
    dipole_from_integrals,
    onsite_position_integrals,
)
from schnorb_t.physics.energies import band_energy, core_orbitals, entropy, free_energy, valence_energy
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.orbitals import angular_momentum, atom_and_slot
from schnorb_t.physics.state import density_matrix, electronic_state, energy_weighted_density_matrix
from schnorb_t.units import BOHR
from tests.physics.molecules import (
    BENZENE,
    FORMALDEHYDE,
    METHANE,
    WATER,
    directional_derivative,
    hartree_fock,
    hartree_fock_batch,
)

SHELLS = {1: (0,), 6: (0, 0, 1), 8: (0, 0, 1)}
NUMBER = {"H": 1, "C": 6, "O": 8}


def turned(atoms, seed):
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    return [(symbol, tuple(rotation @ np.array(xyz) + 0.3)) for symbol, xyz in atoms]


MOLECULES = [turned(m, i) for i, m in enumerate([BENZENE, WATER, METHANE, FORMALDEHYDE])]


def sto3g() -> Basis:
    gto = pytest.importorskip("pyscf.gto")
    functions = {}
    for symbol, z in NUMBER.items():
        shells = []
        for l, *rows in gto.basis.load("sto-3g", symbol):
            shells.append(GaussianShell(l, tuple(r[0] for r in rows), tuple(r[1] for r in rows)))
        functions[z] = tuple(sorted(shells, key=lambda s: s.l))
    return Basis("sto-3g", SHELLS, functions)


class Batch:
    """H, S and everything flat of several molecules."""

    def __init__(self, molecules):
        self.basis = sto3g()
        self.h, self.s, self.mask, self.n_occ = hartree_fock_batch(molecules)
        atoms = [a for m in molecules for a in m]
        self.z = torch.tensor([NUMBER[a[0]] for a in atoms])
        self.positions = torch.tensor(np.array([a[1] for a in atoms])) / BOHR
        self.molecule = torch.tensor([b for b, m in enumerate(molecules) for _ in m])
        index = torch.full((len(atoms), self.basis.n_slots), self.mask.shape[1])
        at = 0
        for i, z in enumerate(self.z.tolist()):
            if i and self.molecule[i] != self.molecule[i - 1]:
                at = 0
            slots = np.flatnonzero(self.basis.slot_mask_table[z])
            index[i, slots] = torch.arange(at, at + len(slots))
            at += len(slots)
        self.atom, self.slot = atom_and_slot(index, self.molecule, self.mask)

    def state(self, smearing=ZERO_TEMPERATURE, charge=0):
        return electronic_state(self.h, self.s, self.mask, 2 * self.n_occ - charge, smearing)


@pytest.fixture(scope="module")
def batch():
    return Batch(MOLECULES)


def flat(molecules, function):
    return np.concatenate([function(*hartree_fock(atoms)) for atoms in molecules])


def test_maps_of_orbitals(batch):
    assert ((batch.atom >= 0) == batch.mask).all() and ((batch.slot >= 0) == batch.mask).all()
    for b, atoms in enumerate(MOLECULES):
        symbols = [a[0] for a in atoms]
        labels = batch.basis.orbital_labels([NUMBER[s] for s in symbols])
        first = sum(len(m) for m in MOLECULES[:b])
        assert batch.atom[b, : len(labels)].tolist() == [first + a for a, *_ in labels]
        assert angular_momentum(batch.slot, batch.basis)[b, : len(labels)].tolist() == [l for *_, l, _ in labels]


def test_mulliken_against_pyscf(batch):
    state = batch.state()
    q = mulliken_charges(density_matrix(state), batch.s, batch.atom, batch.z)
    reference = flat(MOLECULES, lambda mol, mf: mf.mulliken_pop(verbose=0)[1])
    assert np.abs(q.numpy() - reference).max() < 1e-8


def test_lowdin_against_scipy(batch):
    state = batch.state()
    q = lowdin_charges(density_matrix(state), state.overlap, batch.atom, batch.z)

    def reference(mol, mf):
        root = scipy.linalg.sqrtm(mol.intor("int1e_ovlp"))
        populations = np.diag(root @ mf.make_rdm1() @ root)
        atoms = [label[0] for label in mol.ao_labels(fmt=None)]
        return mol.atom_charges() - np.bincount(atoms, populations)

    assert np.abs(q.numpy() - flat(MOLECULES, reference)).max() < 1e-8


def test_mayer_against_loops(batch):
    state = batch.state()
    orders = mayer_bond_orders(density_matrix(state), batch.s, batch.atom, batch.molecule)
    for b, atoms in enumerate(MOLECULES):
        mol, mf = hartree_fock(atoms)
        ps = mf.make_rdm1() @ mol.intor("int1e_ovlp")
        slices = mol.aoslice_by_atom()[:, 2:]
        for i, (a0, a1) in enumerate(slices):
            for j, (b0, b1) in enumerate(slices):
                expected = 0.0 if i == j else np.sum(ps[a0:a1, b0:b1] * ps[b0:b1, a0:a1].T)
                assert orders[b, i, j].item() == pytest.approx(expected, abs=1e-8)
        assert (orders[b, mol.natm :] == 0).all()
    # chemistry: aromatic C-C about 1.4, C-H and O-H near 1, C=O near 2
    assert 1.35 < orders[0, 0, 1] < 1.5 and 0.9 < orders[2, 0, 1] < 1.05 and 1.9 < orders[3, 0, 1] < 2.2


def test_dipole_against_pyscf(batch):
    state = batch.state()
    r = torch.zeros(len(MOLECULES), 3, *batch.h.shape[1:], dtype=torch.float64)
    for b, atoms in enumerate(MOLECULES):
        mol, _ = hartree_fock(atoms)
        reorder = reorder_from_pyscf(mol)
        for axis, integrals in enumerate(mol.intor("int1e_r")):
            r[b, axis, : mol.nao, : mol.nao] = torch.tensor(reorder.matrix(integrals))
    dipole = dipole_from_integrals(density_matrix(state), r, batch.z, batch.positions, batch.molecule)
    for b, atoms in enumerate(MOLECULES):
        _, mf = hartree_fock(atoms)
        assert np.abs(dipole[b].numpy() - mf.dip_moment(unit="AU", verbose=0)).max() < 1e-8


def test_dipole_from_charges_against_pyscf_onsite_integrals(batch):
    """Mulliken charges and the on-site blocks of PySCF's own position integrals, atom by atom."""
    state = batch.state()
    p = density_matrix(state)
    q = mulliken_charges(p, batch.s, batch.atom, batch.z)
    local = atomic_dipoles(p, batch.atom, batch.slot, batch.z, onsite_position_integrals(batch.basis))
    dipole = dipole_from_charges(q, batch.positions, batch.molecule, len(MOLECULES), local)
    at = 0
    for b, atoms in enumerate(MOLECULES):
        mol, mf = hartree_fock(atoms)
        density, total = mf.make_rdm1(), np.zeros(3)
        charges = mf.mulliken_pop(verbose=0)[1]
        for a, (a0, a1) in enumerate(mol.aoslice_by_atom()[:, 2:]):
            with mol.with_common_origin(mol.atom_coord(a)):
                r = mol.intor("int1e_r")[:, a0:a1, a0:a1]
            own = -np.einsum("mn,xmn->x", density[a0:a1, a0:a1], r)
            assert np.abs(local[at].numpy() - own).max() < 1e-8
            total += charges[a] * mol.atom_coord(a) + own
            at += 1
        assert np.abs(dipole[b].numpy() - total).max() < 1e-8
    assert local.abs().max() > 0.1  # oxygen's lone pairs


def test_energies_against_scipy(batch):
    state = batch.state()
    n_core = core_orbitals(batch.basis, batch.z, batch.molecule, len(MOLECULES))
    assert n_core.tolist() == [6, 1, 1, 2]
    w = energy_weighted_density_matrix(state)
    for b, atoms in enumerate(MOLECULES):
        mol, mf = hartree_fock(atoms)
        fock, overlap, density = mf.get_fock(), mol.intor("int1e_ovlp"), mf.make_rdm1()
        e = scipy.linalg.eigh(fock, overlap, eigvals_only=True)
        k = mol.nelectron // 2
        assert band_energy(state)[b].item() == pytest.approx(np.sum(density * fock), abs=1e-8)
        assert valence_energy(state, n_core)[b].item() == pytest.approx(2 * e[n_core[b] : k].sum(), abs=1e-8)
        reference = reorder_from_pyscf(mol).matrix(density @ fock @ density / 2)  # P F P = 4 C e C^T
        assert np.abs(w[b, : mol.nao, : mol.nao].numpy() - reference).max() < 1e-8


@pytest.mark.parametrize("kind", ["gaussian", "lorentzian"])
def test_densities_of_states_against_loops(batch, kind):
    state = batch.state()
    broadening = Broadening(kind, 0.03)
    grid = torch.linspace(-1.5, 0.8, 47, dtype=torch.float64)
    by_element = group_by(torch.where(batch.mask, batch.z[batch.atom], -1), torch.tensor([1, 6, 8]))
    by_l = group_by(angular_momentum(batch.slot, batch.basis), torch.tensor([0, 1]))
    pdos = projected_density_of_states(state, torch.cat((by_element, by_l), 1), grid, broadening)
    total = density_of_states(state.energies, state.level_mask, grid, broadening)
    for b, atoms in enumerate(MOLECULES):
        mol, mf = hartree_fock(atoms)
        overlap = mol.intor("int1e_ovlp")
        e, c = scipy.linalg.eigh(mf.get_fock(), overlap)
        x = grid.numpy()[:, None] - e
        g = (
            np.exp(-0.5 * (x / 0.03) ** 2) / (0.03 * np.sqrt(2 * np.pi))
            if kind == "gaussian"
            else 0.03 / np.pi / (x**2 + 0.03**2)
        )
        shares = c * (overlap @ c)
        labels = mol.ao_labels(fmt=None)
        rows = [np.array([NUMBER[s] == z for _, s, *_ in labels]) for z in (1, 6, 8)]
        rows += [np.array(["p" in shell for *_, shell, _ in labels]) == p for p in (False, True)]
        for k, row in enumerate(rows):
            assert np.abs(pdos[b, k].numpy() - g @ shares[row].sum(0)).max() < 1e-8
        assert np.abs(total[b].numpy() - g.sum(1)).max() < 1e-8
    assert (pdos[:, 3:].sum(1) - total).abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["gaussian", "lorentzian"])
def test_cumulative_is_the_integral(batch, kind):
    state = batch.state()
    grid = torch.linspace(-1.0, 0.5, 3001, dtype=torch.float64)
    groups = group_by(angular_momentum(batch.slot, batch.basis), torch.tensor([0, 1]))
    density = projected_density_of_states(state, groups, grid, Broadening(kind, 0.03))
    cumulative = projected_density_of_states(state, groups, grid, Broadening(kind, 0.03), cumulative=True)
    integral = torch.trapezoid(density, grid, dim=-1)
    assert (cumulative[..., -1] - cumulative[..., 0] - integral).abs().max() < 1e-5


def test_frontier_window_counts_and_does_not_cut_degenerate_levels(batch):
    energies = batch.state().energies
    window = frontier_window(energies, batch.n_occ, batch.mask, 4, 3)
    assert (window.sum(-1) - torch.tensor([7, 6, 7, 7])).abs().max() < 1e-12  # water: 2 virtual levels
    # benzene: HOMO e1g pair, then the e2g pair: with 3 below the latter counts half each
    assert frontier_window(energies, batch.n_occ, batch.mask, 3, 0)[0, :21].tolist()[-4:] == [0.5, 0.5, 1, 1]


def test_wasserstein_against_scipy():
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(0)
    grid = torch.linspace(-2, 3, 40001, dtype=torch.float64)
    a, b = rng.normal(size=5) * 0.3, rng.normal(size=8) * 0.3 + 0.5
    wa, wb = rng.random(5), rng.random(8)
    cumulatives = [
        torch.stack([(grid >= x) * w for x, w in zip(p, q / q.sum(), strict=True)]).sum(0)
        for p, q in ((a, wa), (b, wb))
    ]
    assert wasserstein(*cumulatives, grid).item() == pytest.approx(wasserstein_distance(a, b, wa, wb), abs=2e-4)


def test_loss_of_shifted_levels_is_the_shift(batch):
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    groups = group_by(angular_momentum(batch.slot, batch.basis), torch.tensor([0, 1]))
    state = batch.state()
    window = frontier_window(state.energies, batch.n_occ, batch.mask, 3, 2)
    broadening = Broadening("gaussian", 0.02)
    args = (groups, grid, broadening)
    here = projected_density_of_states(state, *args, window, cumulative=True)
    shifted = electronic_state(batch.h + 0.05 * batch.s, batch.s, batch.mask, 2 * batch.n_occ)
    there = projected_density_of_states(shifted, *args, window, cumulative=True)
    assert projected_dos_loss(here, here, grid, 0.5).abs().max() == 0
    assert (projected_dos_loss(there, here, grid, 0.5) - 0.05).abs().max() < 1e-8
    # only the masked group counts
    only_s = torch.tensor([[True, False]]).expand(len(MOLECULES), 2)
    assert (projected_dos_loss(there, here, grid, 0.5, only_s) - 0.05).abs().max() < 1e-8
    # all mass moved to the other group costs the transfer
    apart = torch.stack((here.sum(1), torch.zeros_like(here[:, 0])), 1)
    assert (projected_dos_loss(apart.flip(1), apart, grid, 0.5) > 0.5).all()
    # Mulliken shares may be negative: the loss stays within twice the width of the grid
    below = torch.stack((1.1 * here.sum(1), -0.1 * here.sum(1)), 1)
    assert projected_dos_loss(below, here, grid, 0.5).max() < 12


SMEARINGS = [
    (ZERO_TEMPERATURE, 0),
    (Smearing("fermi-dirac", 0.05), 1),  # a part-filled degenerate HOMO
    (Smearing("gaussian", 0.1), 1),
    (Smearing("methfessel-paxton", 0.1, 2), 1),
]


@pytest.mark.parametrize("smearing,charge", SMEARINGS, ids=lambda x: getattr(x, "kind", str(x)))
@pytest.mark.parametrize("molecules", [[METHANE], [BENZENE], MOLECULES], ids=["methane", "benzene", "batch"])
def test_gradients_against_finite_differences(molecules, smearing, charge):
    """Every scalar with respect to H and S; methane and benzene are exactly degenerate."""
    batch = Batch(molecules)
    g = torch.Generator().manual_seed(0)
    n, b = len(batch.z), len(molecules)
    v, u = torch.randn(n, dtype=torch.float64, generator=g), torch.randn(b, 3, dtype=torch.float64, generator=g)
    x = torch.randn(batch.h.shape, dtype=torch.float64, generator=g)
    onsite = onsite_position_integrals(batch.basis)
    grid = torch.linspace(-1.4, 0.9, 60, dtype=torch.float64)
    groups = group_by(angular_momentum(batch.slot, batch.basis), torch.tensor([0, 1]))
    groups = torch.cat((groups, torch.rand(groups.shape, generator=g).double()), 1)
    # all of the reference's mass below the grid: F - F_ref keeps its sign, so finite differences meet no kink of |.|
    target = (1 + torch.rand(b, 4, 1, dtype=torch.float64, generator=g)).expand(b, 4, 60)
    window = frontier_window(batch.state().energies, batch.n_occ, batch.mask, 5, 2)

    def charges(s, p):
        return mulliken_charges(p, s.overlap, batch.atom, batch.z)

    def cumulative(s):
        return projected_density_of_states(s, groups, grid, Broadening("gaussian", 0.05), window, cumulative=True)

    scalars = {
        "band": lambda s, p: band_energy(s),
        "free": lambda s, p: free_energy(s),
        "mulliken": lambda s, p: charges(s, p) @ v,
        "lowdin": lambda s, p: lowdin_charges(p, s.overlap, batch.atom, batch.z) @ v,
        "mayer": lambda s, p: mayer_bond_orders(p, s.overlap, batch.atom, batch.molecule)[:, 0, 1],
        "dipole": lambda s, p: (
            u
            * dipole_from_charges(
                charges(s, p),
                batch.positions,
                batch.molecule,
                b,
                atomic_dipoles(p, batch.atom, batch.slot, batch.z, onsite),
            )
        ),
        "density": lambda s, p: x * p,
        "energy-weighted": lambda s, p: x * energy_weighted_density_matrix(s),
        "dos": lambda s, p: density_of_states(s.energies, s.level_mask, grid, Broadening("lorentzian", 0.05)) ** 2,
        "pdos": lambda s, p: projected_density_of_states(s, groups, grid, Broadening("gaussian", 0.05)) ** 2,
        "pdos loss": lambda s, p: projected_dos_loss(cumulative(s), target, grid, 0.3),
    }
    if smearing.kind != "none":
        scalars["entropy"] = lambda s, p: entropy(s)
        scalars["chemical potential"] = lambda s, p: s.chemical_potential
    for name, scalar in scalars.items():

        def function(h, s, scalar=scalar):
            state = electronic_state(h, s, batch.mask, 2 * batch.n_occ - charge, smearing)
            return scalar(state, density_matrix(state)).sum()

        analytic, numeric = directional_derivative(function, [batch.h, batch.s], real=batch.mask)
        assert analytic == pytest.approx(numeric, rel=1e-6, abs=1e-9), name
