"""A prediction in a valence-only basis at every door out: electrons, charges and levels are those of the valence.

The PySCF object, Molden and cube files have their own in ``test_mean_field`` and ``test_molden``.
"""

import numpy as np
import pytest

from schnorb_t.interfaces.ase import dipole_moment, results_of
from schnorb_t.interfaces.dftbplus_files import read_square_matrix, write_dftbplus
from schnorb_t.interfaces.dftbplus_input import structural_files
from schnorb_t.interfaces.plots import element_densities, energy_window, level_diagram, n_core_levels
from schnorb_t.interfaces.pyscf import to_mean_field
from schnorb_t.physics.skf import read_skf
from schnorb_t.units import HARTREE
from tests.interfaces.examples import prediction_of, tilted, valence_prediction

pytest.importorskip("pyscf")
CORES = {"H2O": 1, "SO2": 7}  # core levels that the basis leaves out
MOLECULES = pytest.mark.parametrize("name", CORES)


@MOLECULES
def test_levels_and_charges(name):
    found, levels = valence_prediction(name)
    n_occupied = int(found.atomic_numbers.sum()) // 2
    assert found.n_occupied == n_occupied - CORES[name]
    assert found.homo == pytest.approx(levels[n_occupied - 1], abs=1e-8)
    assert abs(found.mulliken_charges.sum()) < 1e-8
    assert found.mulliken_charges[0] * (1 if name == "SO2" else -1) > 0.1


def test_the_shipped_valence_only_model():
    """GFN2-xTB's basis: neutral molecules have charges that sum to zero at every door."""
    import schnorb_t

    found = schnorb_t.load("gfn2").predict(tilted("CH4"))
    mf = to_mean_field(found)
    for charges in (found.mulliken_charges, results_of(found)["charges"], mf.mulliken_pop()[1], mf.lowdin_pop()[1]):
        assert abs(charges.sum()) < 1e-6
    assert np.abs(mf.mulliken_pop()[1] - found.mulliken_charges).max() < 1e-9
    assert mf.mol.nelectron == 8 == mf.mo_occ.sum() and n_core_levels(found) == 0


@MOLECULES
def test_ase_results(name):
    """Neutral, so the dipole does not depend on the origin; along the axis of H2O, from O to the hydrogens."""
    found, _ = valence_prediction(name)
    results = results_of(found)
    assert abs(results["charges"].sum()) < 1e-8
    away = prediction_of(
        found.basis, found.atomic_numbers, found.positions + [50.0, -70.0, 30.0], found.hamiltonian, found.overlap
    )
    assert np.abs(dipole_moment(away) - results["dipole"]).max() < 1e-8
    first, *others = found.positions
    axis = np.mean(others, 0) - first  # from the negative O of water, from the positive S of SO2
    cosine = results["dipole"] @ axis / np.linalg.norm(results["dipole"]) / np.linalg.norm(axis)
    assert cosine * (1 if name == "H2O" else -1) > 0.99
    assert 0.2 < np.linalg.norm(results["dipole"]) < 1.5  # e Å; Hartree-Fock has 0.4 for both


@MOLECULES
def test_no_level_is_hidden_as_core(name):
    found, _ = valence_prediction(name)
    assert n_core_levels(found) == 0
    low, high = energy_window(found)
    energies = found.orbital_energies * HARTREE
    assert low < energies[0] and energies[-1] < high
    lines = [c for c in level_diagram(found).collections if str(c.get_gid()).startswith("predicted")]
    assert sum(len(c.get_segments()) for c in lines) == len(energies)
    grid = np.linspace(low, high, 4001)
    total, _ = element_densities(found, grid, 0.1)
    assert np.trapezoid(total, grid) == pytest.approx(len(energies), rel=1e-3)


@MOLECULES
def test_dftbplus_fills_the_valence(name, tmp_path):
    found, _ = valence_prediction(name)
    elements = sorted({int(z) for z in found.atomic_numbers})
    electrons = {}
    for file, text in structural_files(found.basis, elements).items():
        (tmp_path / file).write_text(text)
        held = read_skf(tmp_path / file).onsite
        electrons[file] = {l: int(n) for l, (_, _, n) in held.items() if n}
    other = {"H2O": {"H.1.skf": {0: 1}}, "SO2": {"S.1.skf": {0: 2, 1: 4}}}[name]
    assert electrons == {"pair.skf": {}, "O.1.skf": {0: 2, 1: 4}, **other}
    write_dftbplus(tmp_path / "files", found)
    assert np.abs(read_square_matrix(tmp_path / "files" / "hamsqr1.dat") - found.hamiltonian).max() < 1e-14
