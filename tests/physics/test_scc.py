import mpmath
import numpy as np
import pytest
import torch

from schnorb_t import keys
from schnorb_t.physics.coulomb import gamma, gamma_matrix
from schnorb_t.physics.energies import total_energy
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.orbitals import atom_and_slot
from schnorb_t.physics.repulsion import Repulsion
from schnorb_t.physics.scc import self_consistent_charges
from schnorb_t.physics.skf import read_skf_set
from schnorb_t.physics.slater_koster import SlaterKoster
from schnorb_t.units import BOHR
from tests.physics.dense_dftb import Tables, scc
from tests.physics.molecules import BENZENE, FORMALDEHYDE, METHANE, WATER, directional_derivative
from tests.physics.skf_sets import SHELLS, flat_batch, write_set
from tests.shared_data import shared_data

NUMBER = {"H": 1, "C": 6, "N": 7, "O": 8, "S": 16}
HCN = [("H", (0, 0, -1.07)), ("C", (0, 0, 0.0)), ("N", (0, 0.0, 1.16))]
ALANINE_LIKE = [
    ("N", (-1.4, 0.6, 0.2)),
    ("C", (0.0, 0.4, -0.3)),
    ("C", (0.6, -0.9, 0.2)),
    ("O", (-0.1, -1.8, 0.6)),
    ("O", (1.9, -0.95, 0.1)),
    ("H", (-1.8, 1.5, -0.1)),
    ("H", (-1.4, 0.5, 1.2)),
    ("H", (0.0, 0.4, -1.4)),
    ("H", (0.6, 1.2, 0.1)),
    ("H", (2.2, -1.8, 0.45)),
]
H2S_LIKE = [("S", (0, 0, 0.1)), ("H", (0.97, 0.1, -0.9)), ("H", (-0.96, 0.0, -0.85))]
CS_LIKE = [("C", (0, 0.1, 0)), ("S", (0.3, 0.2, 1.5)), ("H", (0.9, 0.1, -0.6)), ("H", (-0.9, 0.1, -0.6))]


def plain(atoms):
    return [NUMBER[s] for s, _ in atoms], np.array([p for _, p in atoms], dtype=float)


class System:
    """Tables of a folder and molecules in one batch."""

    def __init__(self, folder, molecules):
        self.molecules = [plain(m) for m in molecules]
        self.tables = read_skf_set(folder, {z for numbers, _ in self.molecules for z in numbers})
        model = SlaterKoster(self.tables)
        self.batch = flat_batch(model.basis, self.molecules)
        self.h, self.s = (x.detach() for x in model(self.batch))
        self.mask, self.molecule = self.batch[keys.ORBITAL_MASK], self.batch[keys.MOLECULE]
        self.atom, _ = atom_and_slot(self.batch[keys.ORBITAL_INDEX], self.molecule, self.mask)
        z = self.batch[keys.ATOMIC_NUMBERS]
        self.valence = torch.tensor(self.tables.valence_charges)[z]
        n_atoms = max(len(numbers) for numbers, _ in self.molecules)
        positions = self.batch[keys.POSITIONS] / BOHR
        hubbard = torch.tensor(self.tables.hubbard)[z]
        self.gamma = gamma_matrix(positions, hubbard, self.molecule, len(self.molecules), n_atoms)

    def solve(self, h=None, s=None, g=None, **options):
        h, s, g = (x if x is not None else y for x, y in ((h, self.h), (s, self.s), (g, self.gamma)))
        return self_consistent_charges(h, s, self.mask, self.atom, self.molecule, g, self.valence, **options)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    pytest.importorskip("pyscf")
    folder = write_set(tmp_path_factory.mktemp("skf"), hamiltonian="wolfsberg-helmholz")
    return folder, System(folder, [CS_LIKE, H2S_LIKE, METHANE])


@pytest.fixture(scope="module")
def mio():
    folder = shared_data("skf/mio-1-1")
    return folder, System(folder, [WATER, BENZENE, ALANINE_LIKE, METHANE, HCN, FORMALDEHYDE])


@pytest.mark.parametrize("which", ["own", "mio"])
@pytest.mark.parametrize("kt", [0.0, 0.02])
def test_charges_and_energy_against_dense_reference(which, kt, request):
    folder, system = request.getfixturevalue(which)
    smearing = Smearing("fermi-dirac", kt) if kt else ZERO_TEMPERATURE
    result = system.solve(smearing=smearing)
    assert result.converged.all()
    assert len(set(result.iterations.tolist())) > 1, "molecules must leave the batch at different times"
    shells = SHELLS if which == "own" else {1: (0,), 6: (0, 1), 7: (0, 1), 8: (0, 1)}
    dense = Tables(folder, shells)
    for b, (numbers, positions) in enumerate(system.molecules):
        charges, energy = scc(dense, numbers, positions / BOHR, kt=kt)
        mine = result.charges[system.molecule == b]
        assert np.abs(mine.numpy() - charges).max() < 1e-8
        assert result.energy[b].item() == pytest.approx(energy, abs=1e-8)
        assert np.abs(charges).max() > 0.01


def test_total_energy_of_water_with_mio(mio):
    """Known size of the published set: H2O stands near -4.07 Eh, oxygen near -0.6 e."""
    _, system = mio
    result = system.solve()
    total = result.energy + Repulsion(system.tables)(system.batch)
    assert -4.08 < total[0] < -4.06 and -0.65 < result.charges[0] < -0.55


def test_repulsion_is_a_hook_of_the_total_energy(mio):
    _, system = mio
    state = system.solve().state
    repulsion = Repulsion(system.tables)
    band = (state.occupations * state.energies)[system.mask].sum()
    total = total_energy(state, repulsion, system.batch).sum()
    assert total.item() == pytest.approx((band + repulsion(system.batch).sum()).item(), abs=1e-9)


def test_ions_and_batch_equals_single(own):
    folder, system = own
    whole = system.solve(n_electrons=torch.tensor([10.0, 6.0, 8.0]))  # CSH2 with 12 - 2, H2S 8 - 2
    dense = Tables(folder, SHELLS)
    for b, (numbers, positions) in enumerate(system.molecules):
        charges, energy = scc(dense, numbers, positions / BOHR, charge=[2, 2, 0][b])
        assert np.abs(whole.charges[system.molecule == b].numpy() - charges).max() < 1e-8
        assert whole.energy[b].item() == pytest.approx(energy, abs=1e-8)


@pytest.mark.parametrize(
    "which,smearing", [("own", ZERO_TEMPERATURE), ("own", Smearing("fermi-dirac", 0.03)), ("mio", ZERO_TEMPERATURE)]
)
def test_implicit_gradient_equals_finite_differences(which, smearing, request):
    """Charges, orbital energies and energy with respect to H0, S and gamma; methane and benzene are degenerate."""
    _, system = request.getfixturevalue(which)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(len(system.molecule), dtype=torch.float64, generator=generator)
    real_atoms = (system.gamma.diagonal(dim1=1, dim2=2) > 0)[:, :, None]
    real_atoms = real_atoms & real_atoms.mT
    functions = {
        "charges": lambda r: (r.charges * v).sum(),
        "energy": lambda r: r.energy.sum(),
        "orbital energies": lambda r: (r.state.energies * r.state.occupations**2)[system.mask].sum(),
    }
    for name, function in functions.items():

        def of(h, s, g, function=function):
            g = torch.where(real_atoms, g, 0.0)
            return function(system.solve(h, s, g, smearing=smearing, tolerance=1e-12))

        analytic, numeric = directional_derivative(of, [system.h, system.s, system.gamma], real=None, step=2e-4)
        assert analytic == pytest.approx(numeric, rel=1e-6), name


def test_gradient_reaches_the_tables(own):
    """From learnable splines through the self-consistency to a loss on charges."""
    folder, system = own
    model = SlaterKoster(system.tables, spacing=0.2)
    h, s = model(system.batch)
    loss = (system.solve(h, s).charges ** 2).sum()
    loss.backward()
    gradient = model.coefficients.grad
    step = 1e-4 * gradient / gradient.norm()

    def shifted(sign):
        with torch.no_grad():
            model.coefficients += sign * step
            value = (system.solve(*model(system.batch)).charges ** 2).sum().item()
            model.coefficients -= sign * step
        return value

    assert (shifted(1) - shifted(-1)) / 2e-4 == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_unconverged_is_said(own):
    _, system = own
    result = system.solve(max_iterations=2)
    assert not result.converged.any() and (result.iterations == 2).all() and result.energy.isfinite().all()


def test_gamma_in_many_digits():
    """Near, at and far from equal Hubbard parameters against the printed formula in 60 digits."""
    r = torch.linspace(0.8, 12.0, 15, dtype=torch.float64)
    with mpmath.workdps(60):
        for ua, ub in [
            (0.42, 0.36),
            (0.4, 0.4),
            (0.4, 0.4 + 1e-9),
            (0.4, 0.4003),
            (0.4, 0.4079),
            (0.4, 0.4081),
            (0.2, 0.6),
        ]:
            value = gamma(r, torch.full_like(r, ua), torch.full_like(r, ub))
            for k, x in enumerate(r.tolist()):
                t, u, q = (mpmath.mpf(3.2) * mpmath.mpf(ua), mpmath.mpf(3.2) * mpmath.mpf(ub), mpmath.mpf(x))
                if t == u:
                    u = t + mpmath.mpf("1e-15")

                def part(a, b, q=q):
                    return mpmath.exp(-a * q) * (
                        b**4 * a / (2 * (a**2 - b**2) ** 2) - (b**6 - 3 * b**4 * a**2) / ((a**2 - b**2) ** 3 * q)
                    )

                assert abs(value[k].item() - float(1 / q - part(t, u) - part(u, t))) < 1e-10, (ua, ub, x)


def test_gamma_gradient():
    r = torch.tensor([1.0, 2.5, 6.0], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([0.4, 0.4, 0.4], dtype=torch.float64, requires_grad=True)
    for other in ([0.4, 0.4, 0.4], [0.401, 0.401, 0.401], [0.3, 0.3, 0.5]):
        b = torch.tensor(other, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(gamma, (r, a, b))
