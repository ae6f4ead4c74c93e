"""DFTB as a calculator of ASE: properties, optimisation, vibrations, dynamics, and bad input in one line."""

import shutil

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.interfaces.ase import DFTB
from tests.shared_data import shared_data


@pytest.fixture(scope="module")
def ob():
    return shared_data("skf/3ob-3-1")


def shaken(name, seed=0):
    atoms = molecule(name)
    atoms.positions += np.random.default_rng(seed).normal(size=(len(atoms), 3)) * 0.05
    return atoms


def test_forces_are_the_derivative_of_the_free_energy(ob):
    """Along a random direction, in ASE's units; tests/physics/test_dftb.py has all the rest."""
    atoms = shaken("CH3OH")
    x, step = atoms.positions.copy(), 1e-4
    direction = np.random.default_rng(1).normal(size=x.shape)
    for options in ({}, {"smearing": 0.05}, {"order": 2, "charge": 1.0, "smearing": 0.05}):
        atoms.calc = DFTB(ob, **options)
        atoms.positions = x
        along = (atoms.get_forces() * direction).sum()
        assert (abs(atoms.calc.results["energy"] - atoms.calc.results["free_energy"]) > 1e-4) == ("smearing" in options)
        energies = []
        for sign in (1, -1):
            atoms.positions = x + sign * step * direction
            energies.append(atoms.get_potential_energy(force_consistent=True))
        assert along == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-4) and abs(along) > 0.1


def test_properties(ob):
    atoms = molecule("H2O")
    atoms.calc = DFTB(ob)
    assert atoms.get_potential_energy() == pytest.approx(-4.07068025 * 27.211386246, abs=1e-5)  # Sparrow's
    charges, dipole = atoms.get_charges(), atoms.get_dipole_moment()
    assert charges == pytest.approx([-0.706600766, 0.353300383, 0.353300383], abs=1e-7)
    assert dipole == pytest.approx(charges @ atoms.positions, abs=1e-9)
    levels = atoms.calc.get_property("orbital_energies", atoms)
    assert atoms.calc.results["homo"] == levels[3] and atoms.calc.results["gap"] == levels[4] - levels[3]
    assert atoms.calc.results["occupations"].tolist() == [2, 2, 2, 2, 0, 0]


def test_the_charge_of_a_molecule(ob):
    atoms = molecule("NH3") + Atoms("H", [(0.0, 0.0, 1.14)])
    atoms.calc = DFTB(ob, charge=1)
    cation = atoms.get_potential_energy()
    assert atoms.get_charges().sum() == pytest.approx(1, abs=1e-9)
    atoms.info["charge"] = -1  # ASE alone would not see that this changes anything
    assert atoms.get_charges().sum() == pytest.approx(-1, abs=1e-9) and atoms.get_potential_energy() != cation


def test_relaxed_water_and_its_vibrations(ob, tmp_path):
    """Frequencies from forces equal those from second differences of energies."""
    atoms = shaken("H2O")
    atoms.calc = DFTB(ob)
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=50)
    assert atoms.get_distance(0, 1) == pytest.approx(atoms.get_distance(0, 2), abs=1e-4)
    assert 0.94 < atoms.get_distance(0, 1) < 0.98 and 103 < atoms.get_angle(1, 0, 2) < 113
    vibrations = Vibrations(atoms, name=str(tmp_path / "vibrations"))
    vibrations.run()
    found = np.sort(vibrations.get_frequencies().real)
    x, h = atoms.positions.ravel().copy(), 0.01
    unit = np.eye(9) * h
    corners = [(s, t, i, j) for i in range(9) for j in range(9) for s in (1, -1) for t in (1, -1)]
    model = atoms.calc.model(atoms.numbers)
    shifted = [(x + s * unit[i] + t * unit[j]).reshape(-1, 3) for s, t, i, j in corners]
    batch = structures_to_batch([atoms.numbers] * len(corners), shifted, model.basis, 1.0)
    energies = model(batch).energy.numpy() * units.Hartree  # all of them at once
    hessian = np.zeros((9, 9))
    for (s, t, i, j), energy in zip(corners, energies, strict=True):
        hessian[i, j] += energy * s * t / (4 * h * h)
    masses = np.sqrt(np.repeat(atoms.get_masses(), 3))
    squares = np.linalg.eigvalsh(hessian / masses[:, None] / masses)
    expected = units._hbar * 1e10 / np.sqrt(units._e * units._amu) * np.sqrt(squares[-3:]) / units.invcm
    assert found[-3:] == pytest.approx(expected, abs=5) and np.abs(found[:6]).max() < 30
    assert 1300 < found[-3] < 1800 and 3400 < found[-1] < 4200


def test_dynamics_at_constant_energy(ob):
    """30 fs; ten picoseconds are in the slow test of benchmarks/dftb.py."""
    atoms = molecule("H2O")
    atoms.calc = DFTB(ob)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=50)
    velocities = np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.set_velocities(velocities * np.sqrt(300 * units.kB / atoms.get_masses())[:, None])
    dynamics, energies = VelocityVerlet(atoms, 0.5 * units.fs), []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(60)
    assert np.std(energies) < 2e-3 and np.ptp(energies[::10]) < 5e-3  # eV
    assert atoms.get_kinetic_energy() > 0.02


class Springs(torch.nn.Module):
    """A repulsion that learns: one number per molecule."""

    def __init__(self):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, batch):
        x, which = batch[keys.POSITIONS], batch[keys.MOLECULE]
        out = torch.zeros(len(batch[keys.ORBITAL_MASK]), dtype=torch.float64)
        return out.index_add(0, which, self.strength * (x**2).sum(-1))


def test_a_repulsion_of_ones_own(ob):
    atoms = shaken("H2O")
    atoms.calc = DFTB(ob, repulsion=Springs())
    plain = shaken("H2O")
    plain.calc = DFTB(ob)
    assert abs(atoms.get_potential_energy() - plain.get_potential_energy()) > 1
    forces, x, step, energies = atoms.get_forces(), atoms.positions.copy(), 1e-4, []
    direction = np.random.default_rng(0).normal(size=x.shape)
    for sign in (1, -1):
        atoms.positions = x + sign * step * direction
        energies.append(atoms.get_potential_energy())
    along = (forces * direction).sum()
    assert along == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-4) and abs(along) > 0.1


def test_gold(tmp_path):
    atoms = Atoms("Au2", [(0, 0, 0), (0, 0, 2.6)])
    atoms.calc = DFTB(shared_data("skf/auorg-1-1"), order=2, shell_resolved=True)
    assert atoms.get_charges() == pytest.approx([0, 0], abs=1e-8)
    assert atoms.get_forces()[0] == pytest.approx(-atoms.get_forces()[1])


def test_bad_input_in_one_line(ob, tmp_path):
    def refused(atoms, match, calculator=None):
        atoms.calc = DFTB(ob) if calculator is None else calculator
        with pytest.raises(UserError, match=match) as caught:
            atoms.get_potential_energy()
        assert "\n" not in str(caught.value)

    with pytest.raises(UserError, match="nowhere: no such folder"):
        DFTB(tmp_path / "nowhere")
    with pytest.raises(UserError, match="order=4"):
        DFTB(ob, order=4)
    refused(molecule("SiH4"), "H-Si.skf: not there|Si-H.skf: not there|Si-Si.skf: not there")
    for name in ("H-H", "O-O", "H-O"):
        shutil.copy(ob / f"{name}.skf", tmp_path)
    refused(molecule("H2O"), "O-H.skf: not there", DFTB(tmp_path))
    shutil.copy(ob / "O-H.skf", tmp_path)
    refused(molecule("H2O"), "no Hubbard derivative of H, O.*order=2", DFTB(tmp_path))
    assert DFTB(tmp_path, order=2).get_potential_energy(molecule("H2O")) < 0
    refused(molecule("CH3"), "H3C|CH3.*7 valence electrons.*smearing")
    assert DFTB(ob, smearing=0.002).get_potential_energy(molecule("CH3")) < 0
    refused(molecule("H2O"), r"charge \+8 leaves 0 electrons", DFTB(ob, charge=8))
    twice = molecule("H2O")
    twice.positions[2] = twice.positions[1]
    refused(twice, r"atoms 1 \(H\) and 2 \(H\) are 0.000 Å apart")
    periodic = molecule("H2O", vacuum=3.0)
    periodic.pbc = True
    refused(periodic, "periodic")
    refused(molecule("CH3OH"), "have not converged in 3 iterations.*smear", DFTB(ob, max_iterations=3))
    odd = molecule("H2O")
    odd.info["charge"] = "plus one"
    refused(odd, "'plus one' is no number")
