"""DFTB+ itself with predicted matrices; where ``DFTBPLUS_LIBRARY`` names its shared library (25.1 or newer, serial)."""

import os
import threading

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import schnorb_t
from schnorb_t.basis import Basis
from schnorb_t.errors import UserError
from schnorb_t.interfaces.dftbplus import DFTBPlus
from schnorb_t.interfaces.dftbplus_input import read_band_file
from schnorb_t.physics.occupations import Smearing, occupations
from schnorb_t.units import DFTBPLUS_HARTREE
from tests.interfaces.examples import prediction_of, tilted
from tests.shared_data import shared_data

pytestmark = pytest.mark.skipif(
    not os.environ.get("DFTBPLUS_LIBRARY"),
    reason="DFTBPLUS_LIBRARY names no shared library of DFTB+ (25.1 or newer)",
)
FORMAMIDE = Atoms(
    "OCNHHH",
    [
        [1.19, 0.25, 0.0],
        [0.16, -0.38, 0.02],
        [-1.08, 0.19, 0.0],
        [0.12, -1.48, -0.01],
        [-1.17, 1.20, 0.05],
        [-1.90, -0.4, 0],
    ],
)


@pytest.fixture(scope="module")
def qm9():
    return schnorb_t.load("qm9", device="cpu")


def nine_heavy_atoms():
    with h5py.File(shared_data("qm9/labels_b3lyp_def2svp.h5")) as file:
        group = file["000000"]
        z = group["atomic_numbers"][:]
        assert (z > 1).sum() == 9
        return Atoms(z, group["positions"][:])


def random_prediction(basis, atoms, seed=0):
    """Any symmetric H and positive definite S will do."""
    random = np.random.default_rng(seed)
    m = int(basis.n_orbitals(atoms.numbers).sum())
    h, s = (x + x.T for x in random.normal(size=(2, m, m)))
    return prediction_of(basis, atoms.numbers, atoms.positions, h / 2, np.eye(m) + 0.1 * s / np.sqrt(m))


@pytest.mark.parametrize("name", ["water", "formamide", "nine heavy atoms"])
def test_it_finds_what_the_package_finds(qm9, tmp_path, name):
    atoms = {"water": tilted("H2O"), "formamide": FORMAMIDE}.get(name) or nine_heavy_atoms()
    prediction = qm9.predict(atoms)
    found = DFTBPlus(folder=tmp_path).run(prediction)
    # the two files of DFTB+ itself: band.out has four decimals of an eV
    energies, fillings = read_band_file(tmp_path / "band.out")
    assert np.abs(energies - prediction.orbital_energies).max() * DFTBPLUS_HARTREE < 5.001e-5
    assert np.abs(fillings - prediction.occupations).max() < 1e-5
    assert np.abs(found.density - prediction.density).max() < 1e-9
    # and to the last digits
    assert np.abs(found.orbital_energies - prediction.orbital_energies).max() < 1e-10
    assert np.abs(found.fillings - prediction.occupations).max() < 1e-10
    assert abs(found.band_energy - prediction.occupations @ prediction.orbital_energies) < 1e-9
    assert prediction.homo < found.fermi_level < prediction.lumo and abs(found.entropy_term) < 1e-9
    c = found.orbital_coefficients
    assert np.abs((c * found.fillings) @ c.T - found.density).max() < 1e-10
    assert np.abs(prediction.hamiltonian @ c - prediction.overlap @ c * found.orbital_energies).max() < 1e-9


def test_shells_up_to_f_in_our_order():
    basis = Basis("large", {1: (0, 0, 1), 6: (0, 0, 0, 1, 1, 2), 8: (0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3)})
    prediction = random_prediction(basis, molecule("CH3OH"))
    found = DFTBPlus().run(prediction)
    assert np.abs(found.orbital_energies - prediction.orbital_energies).max() < 1e-11
    assert np.abs(found.density - prediction.density).max() < 1e-10


@pytest.mark.parametrize(
    "smearing",
    [
        Smearing("fermi-dirac", 0.02),
        Smearing("gaussian", 0.05),
        Smearing("methfessel-paxton", 0.3, 1),
        Smearing("methfessel-paxton", 0.3, 2),
    ],
)
@pytest.mark.parametrize("charge", [0, 1, -0.5])
def test_it_fills_by_its_own_smearing(smearing, charge):
    prediction = random_prediction(Basis("double", {1: (0, 0, 1), 8: (0, 0, 0, 1, 1)}), molecule("H2O"))
    found = DFTBPlus(smearing=smearing, charge=charge).run(prediction)
    energies = torch.tensor(prediction.orbital_energies)[None]
    electrons = torch.tensor([10.0 - charge], dtype=torch.float64)
    fillings, mu = occupations(energies, electrons, torch.ones_like(energies, dtype=torch.bool), smearing)
    assert np.abs(found.fillings - fillings[0].numpy()).max() < 1e-9
    assert abs(found.fermi_level - mu.item()) < 1e-7
    assert abs(found.band_energy - float(fillings[0] @ energies[0])) < 1e-9
    if smearing.kind != "methfessel-paxton":  # see DFTBPlusResult.entropy_term
        own = float(smearing.entropy((energies - mu) / smearing.width).sum() * smearing.width)
        assert abs(found.entropy_term - own) < 1e-9


def test_many_geometries_in_one_process(qm9):
    def open_files():
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    here, solver, before = os.getcwd(), DFTBPlus(), open_files()
    for k in range(60):
        atoms = tilted(("H2O", "CH3OH", "HCN", "C2H6")[k % 4], seed=k)
        prediction = qm9.predict(atoms)
        assert np.abs(solver.run(prediction).density - prediction.density).max() < 1e-9
    assert os.getcwd() == here and open_files() <= before + 2


def test_threads_take_turns(qm9):
    prediction, solver, errors = qm9.predict(molecule("H2O")), DFTBPlus(), []

    def work():
        for _ in range(5):
            errors.append(np.abs(solver.run(prediction).density - prediction.density).max())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 15 and max(errors) < 1e-9


SPIN = """Hamiltonian = DFTB {
  SpinPolarisation = Colinear { UnpairedElectrons = 2 }
  SpinConstants { O = -0.1
    H = -0.1 }
}"""


@pytest.mark.parametrize(
    "settings, message",
    [
        ("Hamiltonian = DFTB { SCC = Yes }", "SCC cannot be had"),
        ("Hamiltonian = DFTB { scc = yes }", "SCC cannot be had"),
        ("Analysis { MullikenAnalysis = Yes }", "MullikenAnalysis cannot be had"),
        ("Analysis { PrintForces = Yes }", "PrintForces cannot be had"),
        ("Analysis { EigenvectorsAsText = Yes }", "EigenvectorsAsText cannot be had"),
        ("Options { WriteHS = Yes }", "WriteHS cannot be had"),
        ("Hamiltonian = DFTB { Charge = 1 }", "charge="),
        ("Hamiltonian = DFTB { Filling = Fermi { Temperature [Kelvin] = 300 } }", "smearing="),
        (SPIN, "spin polarisation and k-points cannot be had"),
        ("Analysis { Polarisability {} }", "ASI callback does not support perturbation"),
        ("Analysis { CalculateForces = Yes }", "knows nothing of Analysis/CalculateForces"),
        ("Hamiltonian = DFTB {", "HSD parser error"),
    ],
)
def test_settings_that_cannot_be_had_are_refused(qm9, settings, message):
    with pytest.raises(UserError, match=message):
        DFTBPlus(settings=settings).run(qm9.predict(molecule("H2O")))


@pytest.mark.parametrize(
    "settings",
    [
        "Hamiltonian = DFTB { Solver = QR {} }",
        "Driver = GeometryOptimisation {}",
        "Hamiltonian = DFTB { MaxAngularMomentum { H = s } }",
        "Analysis { WriteBandOut = No }\nOptions { WriteDetailedOut = No }\nParserOptions { StopAfterParsing = Yes }",
    ],
)
def test_other_settings_are_taken_or_replaced(qm9, settings, tmp_path):
    prediction = qm9.predict(molecule("H2O"))
    folder = tmp_path / "a folder, für Wasser"
    found = DFTBPlus(settings=settings, folder=folder).run(prediction)
    assert np.abs(found.density - prediction.density).max() < 1e-9
    assert {"band.out", "detailed.out", "eigenvec.bin", "dftb_in.hsd", "dftbplus.log"} <= {
        p.name for p in folder.iterdir()
    }
