"""Every real ORCA file in the reference data, with the outcome it must have."""

import json
import re

import numpy as np
import pytest
import scipy.linalg

from schnorb_t.basis import Basis
from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.errors import UserError
from schnorb_t.reference.orca import Job, load
from schnorb_t.reference.orca_json import read_json
from schnorb_t.reference.orca_text import read_text
from tests.shared_data import shared_data

pytest.importorskip("pyscf")

#: file -> shells of its heaviest element | electrons | total energy in Eh (ORCA's own where it prints one).
IMPORTED = {
    "json/01_ch4_tzvp.json": ((0,) * 5 + (1,) * 3 + (2, 2, 3), 10, None),
    "json/h2o2__rhf_000.000.orca.json": ((0, 0, 0, 1, 1), 18, None),
    "json/orca_ch4_def2svp.json": ((0, 0, 0, 1, 1, 2), 10, None),
    "json/orca_ch4_sto3g.json": ((0, 0, 1), 10, None),
    "json/orca_h2o_def2svp.json": ((0, 0, 0, 1, 1, 2), 10, None),
    "json/orca_h2o_sto3g.json": ((0, 0, 1), 10, None),
    "json/orca_hcho_def2svp.json": ((0, 0, 0, 1, 1, 2), 16, None),
    "json/scf.json": ((0, 0, 0, 1, 1, 2), 10, -75.95933498564),  # text/scf.out: the same molecule and method
    "text/orca2.6_water_mp2.out": ((0, 0, 1), 10, -74.96432845),  # of the SCF; the MP2 energy is -75.002283
    "text/orca3.0_dvb_sp.out": ((0, 0, 1), 70, -382.04265181),
    "text/orca4.2_dvb_sp.out": ((0, 0, 1), 70, -382.05075804),
    "text/orca5.0_dvb_sp.out": ((0, 0, 1), 70, -382.05510861),
    "text/orca6.0_dvb_sp_dft.out": ((0, 0, 1), 70, -382.05510839256),
}
#: file -> why it must be refused.
REFUSED = {
    "json/orca_ch4_sto3g_triplet.json": r"open shell.*UHF, multiplicity 3",
    "text/abort.out": r"aborted.*Startup.*Zero distance encountered between atoms 1 and 0",
    "text/failed_scf.out": r"SCF not converged: SCF NOT CONVERGED AFTER",
    "text/orca3.0_stopiter_scf_notconverged.out": r"stops in or before the SCF, which is not converged",
    "text/orca4.2_dvb_sp_un.out": r"open shell: UHF, multiplicity 2",
    "text/scf.out": r"prints no overlap matrix; .*schnorb_t write-orca --text",
}


def test_every_file_is_named_here():
    folder = shared_data("orca")
    there = {p.relative_to(folder).as_posix() for p in folder.glob("*/*") if p.is_file()}
    assert there == IMPORTED.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", IMPORTED)
def test_imported(name):
    path = shared_data(f"orca/{name}")
    molecule = load(Job(path.stem, path))
    heavy_shells, n_electrons, total_energy = IMPORTED[name]
    c = molecule.calculation
    assert molecule.shells[int(c.atomic_numbers.max())] == heavy_shells
    assert int(c.atomic_numbers.sum()) - c.charge == n_electrons
    if total_energy is not None:
        assert molecule.total_energy == pytest.approx(total_energy, abs=1e-6)

    # The checks' own residuals ...
    is_json = name.startswith("json")
    residuals = {r.name: r.value for r in molecule.residuals}
    assert residuals["PySCF overlap"] <= (1e-8 if is_json else 1e-6)
    assert residuals["orthonormal"] <= (1e-10 if is_json else 1e-5)
    assert residuals["positive definite"] > 1e-3
    assert residuals["orbital energies"] <= 1e-12

    # ... and, by another way, those of what comes out: our order, our units, S from the stored Gaussians.
    from schnorb_t.reference.pyscf import mole_from_basis

    assert molecule.functions is not None
    basis = Basis("x", molecule.shells, molecule.functions)
    mol = mole_from_basis(basis, c.atomic_numbers, molecule.positions)
    overlap = reorder_from_pyscf(mol).matrix(mol.intor("int1e_ovlp"))
    assert np.abs(overlap - molecule.overlap).max() <= (1e-8 if is_json else 1e-6)
    printed = np.sort((read_json if is_json else read_text)(path).energies)
    spectrum = scipy.linalg.eigvalsh(molecule.hamiltonian, molecule.overlap)
    assert np.abs(spectrum - printed).max() <= (1e-9 if is_json else 1e-6)
    # against PySCF's S the printed orbitals still have the printed energies
    shifted = scipy.linalg.eigvalsh(molecule.hamiltonian, overlap)
    assert np.abs(shifted - printed).max() <= (1e-7 if is_json else 1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    path = shared_data(f"orca/{name}")
    with pytest.raises(UserError, match=REFUSED[name]) as error:
        load(Job(path.stem, path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_core_hamiltonian_is_not_taken_for_fock():
    path = shared_data("orca/json/orca_h2o_sto3g.json")
    molecule = load(Job("x", path))
    core = np.array(json.loads(path.read_text())["Molecule"]["H-Matrix"])
    assert np.abs(np.sort(np.diag(core)) - np.sort(np.diag(molecule.hamiltonian))).max() > 5


def test_hartree_fock_energy_without_output_is_that_of_pyscf():
    """The energy that is worked out for an orca_2json file without output is that of PySCF's own SCF."""
    from pyscf import scf

    from schnorb_t.reference.pyscf import mole_from_basis

    path = shared_data("orca/json/01_ch4_tzvp.json")
    molecule = load(Job("x", path))
    basis = Basis("x", molecule.shells, molecule.functions)
    mol = mole_from_basis(basis, molecule.calculation.atomic_numbers, molecule.positions)
    mf = scf.RHF(mol).run(conv_tol=1e-10)
    assert molecule.total_energy == pytest.approx(mf.e_tot, abs=1e-7)
    assert np.abs(mf.mo_energy - molecule.energies).max() < 2e-5


def test_sp_shells_are_sorted_by_l():
    """ORCA's 6-31G order 1s 2s 1p 3s 2p: the third s must come before the first p in ours."""
    path = shared_data("orca/json/h2o2__rhf_000.000.orca.json")
    calculation = read_json(path)
    assert calculation.shells[1] == (0, 0, 1, 0, 1)
    molecule = load(Job("x", path))
    start = 2  # after the first H
    # the core-like 1s has the lowest diagonal, 2s and 3s follow, then 2 x 3 p
    diagonal = np.diag(molecule.hamiltonian)[start : start + 9]
    assert diagonal.argmin() == 0
    pp = molecule.overlap[start + 3 : start + 6, start + 6 : start + 9]
    assert np.abs(pp - np.diag(np.diag(pp))).max() < 1e-12 and np.diag(pp).min() > 0.3
    sp = molecule.overlap[start : start + 3, start + 3 : start + 9]
    assert np.abs(sp).max() < 1e-12


def test_f_functions_have_flipped_signs(monkeypatch):
    """Without the flipped signs of |m| >= 3 the check against PySCF's S must fail on the file with f functions."""
    from schnorb_t import conventions

    path = shared_data("orca/json/01_ch4_tzvp.json")
    order, _ = conventions._M_ORDER["orca"][3]
    monkeypatch.setitem(conventions._M_ORDER["orca"], 3, (order, (1,) * 7))
    with pytest.raises(UserError, match="failed the check PySCF overlap: .*likely cause"):
        load(Job("x", path))


def _second_cycle(text):
    """What a geometry optimisation prints: everything from the coordinates on once more, at a later geometry."""
    begin, end = text.index("CARTESIAN COORDINATES (ANGSTROEM)"), text.index("****ORCA TERMINATED")
    cycle = text[begin:end].replace("-1.415253", "-1.425253", 1)
    return text[:end] + "GEOMETRY OPTIMIZATION CYCLE   2\n" + cycle + text[end:]


def _second_geometry_without_scf(text):
    begin = text.index("CARTESIAN COORDINATES (ANGSTROEM)")
    at = text.index("ORBITAL ENERGIES")
    return text[:at] + text[begin : begin + 5000] + text[at:]


def _smeared(text):
    """HOMO and LUMO with 1.7 and 0.3 electrons, in both tables."""
    text = re.sub(r"(\n +34 +)2\.0000", r"\g<1>1.7000", text, count=1)
    text = re.sub(r"(\n +35 +)0\.0000(?= )", r"\g<1>0.3000", text, count=1)
    above = r"(\n +30 +31 +32 +33 +34 +35 *\n.*\n.*)2\.00000   0\.00000"
    before, mark, orbitals = text.partition("\nMOLECULAR ORBITALS\n")
    return before + mark + re.sub(above, r"\g<1>1.70000   0.30000", orbitals, count=1)


REAL_TEXT_CHANGED = {
    "optimisation": (_second_cycle, "holds 2 SCF calculations .optimisation or several jobs"),
    "another geometry at the end": (_second_geometry_without_scf, "2 times .*one file must hold one single point"),
    "two jobs": (lambda t: t + t, "holds 2 SCF calculations .optimisation or several jobs"),
    "UKS": (lambda t: re.sub(r"(HFTyp +\.\.\.\. )RHF", r"\1UKS", t), "open shell: UKS"),
    "charge and electrons": (lambda t: re.sub(r"(NEL +\.\.\.\. +)70", r"\g<1>68", t), "68 electrons, but the atoms"),
    "ghost atom": (
        lambda t: re.sub(r"(  NO LB.*\n +0 C) ( +)6\.0000 ", r"\1 :\g<2>0.0000 ", t),
        r"atom 0 \(C\) has nuclear charge 0.0000; effective core potentials and ghost",
    ),
    "core potential": (
        lambda t: re.sub(r"(  NO LB.*\n +0 C +)6\.0000 ", r"\g<1>4.0000*", t),
        r"atom 0 \(C\) has nuclear charge 4.0000; effective core potentials",
    ),
    "not converged": (lambda t: t.replace("SCF CONVERGED AFTER", "SCF NOT CONVERGED AFTER"), "SCF not converged"),
    "smearing": (_smeared, "occupations are not 2 .*fractional occupations"),
}


@pytest.mark.parametrize("kind", REAL_TEXT_CHANGED)
def test_calculations_that_are_no_single_point_of_a_closed_shell(tmp_path, kind):
    change, message = REAL_TEXT_CHANGED[kind]
    real = shared_data("orca/text/orca5.0_dvb_sp.out").read_text()
    (tmp_path / "x.out").write_text(changed := change(real))
    assert changed != real
    with pytest.raises(UserError, match=message) as error:
        load(Job("x", tmp_path / "x.out"))
    assert str(tmp_path / "x.out") in str(error.value) and "\n" not in str(error.value)
