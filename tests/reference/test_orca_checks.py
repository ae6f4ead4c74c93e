"""What ORCA files must not slip through, and the paths that the real files do not cover."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from schnorb_t.errors import UserError
from schnorb_t.reference import orca_checks
from schnorb_t.reference.orca import Collection, Job, load
from schnorb_t.reference.orca_calculation import shells_from_labels
from schnorb_t.reference.orca_checks import check
from schnorb_t.reference.orca_json import parse_json
from schnorb_t.reference.orca_output import parse_output
from schnorb_t.reference.orca_text import parse_text
from tests.reference.orca_examples import orca_json, orca_text, run, write_json
from tests.shared_data import shared_data

pytest.importorskip("pyscf")


@pytest.fixture(scope="module")
def hartree_fock():
    return run("HF")


@pytest.fixture(scope="module")
def b3lyp():
    return run("b3lyp")


def text(mf, **kwargs):
    return parse_text(parse_output("x.out", orca_text(mf, **kwargs)))


def ours(mf):
    from schnorb_t.conventions import reorder_from_pyscf

    order = reorder_from_pyscf(mf.mol)
    return order.matrix(mf.get_fock()), order.matrix(mf.get_ovlp())


# ---- what comes out is what PySCF put in -------------------------------------------------------------------------


def test_json_gives_back_the_fock_matrix(hartree_fock):
    molecule = check(parse_json("x.json", orca_json(hartree_fock)))
    fock, overlap = ours(hartree_fock)
    assert np.abs(molecule.hamiltonian - fock).max() < 1e-10
    assert np.abs(molecule.overlap - overlap).max() < 1e-12
    assert molecule.total_energy == pytest.approx(hartree_fock.e_tot, abs=1e-9)


def test_f_matrix_is_the_two_electron_part(hartree_fock):
    data = orca_json(hartree_fock, fock=True)
    molecule = check(parse_json("x.json", data))
    assert molecule.fock_source == "given"
    assert np.abs(molecule.hamiltonian - ours(hartree_fock)[0]).max() < 1e-10
    flat = copy.deepcopy(data)
    flat["Molecule"]["F-Matrix"] = data["Molecule"]["F-Matrix"][0]
    assert np.abs(check(parse_json("x.json", flat)).hamiltonian - molecule.hamiltonian).max() == 0


@pytest.mark.parametrize("wrong", ["whole Fock", "Coulomb only", "core"])
def test_wrong_f_matrix_is_refused(hartree_fock, wrong):
    data = orca_json(hartree_fock, fock=True)
    m = data["Molecule"]
    core, two_electron = np.array(m["H-Matrix"]), np.array(m["F-Matrix"][0])
    m["F-Matrix"] = [
        {"whole Fock": core + two_electron, "Coulomb only": two_electron * 1.1, "core": core}[wrong].tolist()
    ]
    with pytest.raises(UserError, match="given Fock.*--ignore-fock"):
        check(parse_json("x.json", data))


def test_f_matrix_needs_the_core_hamiltonian(hartree_fock):
    data = orca_json(hartree_fock, fock=True)
    del data["Molecule"]["H-Matrix"]
    with pytest.raises(UserError, match="without 'H-Matrix'"):
        parse_json("x.json", data)


@pytest.mark.parametrize("with_fock", [False, True])
def test_text_gives_back_the_fock_matrix(b3lyp, with_fock):
    """d functions, a functional, and of several printed Fock matrices the last before convergence."""
    molecule = check(text(b3lyp, fock=with_fock))
    fock, overlap = ours(b3lyp)
    assert molecule.fock_source == ("given" if with_fock else "S C diag(eps) C^T S")
    assert np.abs(molecule.hamiltonian - fock).max() < (1e-6 if with_fock else 3e-4)
    assert np.abs(molecule.overlap - overlap).max() < 1e-6
    assert molecule.level["method"] == "DFT(GTOs)" and molecule.level["exchange"] == "b3lyp"


def test_ignore_fock(tmp_path, hartree_fock):
    data = orca_json(hartree_fock, fock=True)
    data["Molecule"]["F-Matrix"] = data["Molecule"]["H-Matrix"]
    job = Job("x", write_json(tmp_path / "x.json", data))
    with pytest.raises(UserError, match="given Fock"):
        load(job)
    molecule = load(job, ignore_fock=True)
    assert np.abs(molecule.hamiltonian - ours(hartree_fock)[0]).max() < 1e-10


# ---- a JSON file alone ---------------------------------------------------------------------------------------


def test_json_of_a_functional_needs_its_output(tmp_path, b3lyp):
    """Neither functional nor convergence nor energy stand in orca_2json files; nothing is guessed."""
    path = write_json(tmp_path / "x.json", orca_json(b3lyp))
    with pytest.raises(UserError, match="not Hartree-Fock, or not converged.*beside it"):
        load(Job("x", path))
    output = tmp_path / "x.out"
    output.write_text(orca_text(b3lyp, matrices=False))
    molecule = load(Job("x", path, output))
    assert molecule.total_energy == pytest.approx(b3lyp.e_tot, abs=1e-7)
    assert molecule.level["method"] == "DFT(GTOs)"
    assert np.abs(molecule.hamiltonian - ours(b3lyp)[0]).max() < 1e-9


def test_json_of_an_unconverged_scf_is_refused(tmp_path, hartree_fock):
    from pyscf import scf

    mf = scf.RHF(hartree_fock.mol)
    mf.max_cycle = 2
    mf.kernel()
    assert not mf.converged
    with pytest.raises(UserError, match="not Hartree-Fock, or not converged"):
        check(parse_json("x.json", orca_json(mf)))
    output = tmp_path / "x.out"
    output.write_text(orca_text(mf, matrices=False).replace("SCF CONVERGED AFTER", "SCF NOT CONVERGED AFTER"))
    with pytest.raises(UserError, match="x.out: SCF not converged"):
        load(Job("x", write_json(tmp_path / "x.json", orca_json(mf)), output))


def test_real_json_with_its_real_output(tmp_path):
    """scf.json (6.1, no S) and scf.out (6.0) are of the same molecule and method."""
    json_path, output = shared_data("orca/json/scf.json"), shared_data("orca/text/scf.out")
    molecule = load(Job("scf", json_path, output))
    assert molecule.total_energy == pytest.approx(-75.95933498564268, abs=1e-12)
    assert molecule.calculation.basis_name == "def2-SVP" and molecule.level["method"] == "Hartree-Fock(GTOs)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("0.117300", "0.217300"), "differ at atom 0|another geometry"),
        (
            lambda t: t.replace("Total Charge           Charge          ....    0", " Charge          .... 2"),
            "electrons",
        ),
        (lambda t: t.replace("      -20.", "      -19."), "damaged"),
    ],
)
def test_output_of_another_calculation(tmp_path, hartree_fock, change, message):
    output = tmp_path / "x.out"
    output.write_text(change(orca_text(hartree_fock, matrices=False)))
    with pytest.raises(UserError, match=message):
        load(Job("x", write_json(tmp_path / "x.json", orca_json(hartree_fock)), output))


def test_swapped_orbitals_of_a_functional_fail_the_charges(tmp_path, b3lyp):
    """HOMO and LUMO exchanged keep C^T S C = 1 and every energy; the printed charges tell."""
    data = orca_json(b3lyp)
    _swapped_coefficients(data["Molecule"])
    output = tmp_path / "x.out"
    output.write_text(orca_text(b3lyp, matrices=False))
    with pytest.raises(UserError, match="failed the check Mulliken"):
        load(Job("x", write_json(tmp_path / "x.json", data), output))


def test_one_wrong_coefficient_and_one_wrong_overlap(hartree_fock):
    data = orca_json(hartree_fock)
    data["Molecule"]["MolecularOrbitals"]["MOs"][9]["MOCoefficients"][4] += 1e-6
    with pytest.raises(UserError, match="failed the check orthonormal: .*likely cause"):
        check(parse_json("x.json", data))
    data = orca_json(hartree_fock)
    data["Molecule"]["S-Matrix"][0][1] = data["Molecule"]["S-Matrix"][1][0] = 1.5
    with pytest.raises(UserError, match="failed the check positive definite"):
        check(parse_json("x.json", data))
    calculation = text(hartree_fock)
    coefficients = calculation.coefficients.copy()
    coefficients[4, 9] += 1e-3
    with pytest.raises(UserError, match="failed the check orthonormal"):
        check(replace(calculation, coefficients=coefficients))


def test_output_with_other_energies(tmp_path, hartree_fock, b3lyp):
    output = tmp_path / "x.out"
    output.write_text(orca_text(b3lyp, matrices=False))
    with pytest.raises(UserError, match="orbital energies differ by .*export again"):
        load(Job("x", write_json(tmp_path / "x.json", orca_json(hartree_fock)), output))


# ---- single lies ---------------------------------------------------------------------------------------------


def _units(m):
    m["CoordinateUnits"] = "Angs"


def _ecp(m):
    m["Atoms"][0]["NuclearCharge"] = 6.0


def _fractional(m):
    mos = m["MolecularOrbitals"]["MOs"]
    mos[4]["Occupancy"], mos[5]["Occupancy"] = 1.5, 0.5


def _swapped_orbitals(m):
    mos = m["MolecularOrbitals"]["MOs"]
    mos[3], mos[5] = mos[5], mos[3]


def _swapped_coefficients(m):
    mos = m["MolecularOrbitals"]["MOs"]
    a, b = mos[3], mos[5]
    a["MOCoefficients"], b["MOCoefficients"] = b["MOCoefficients"], a["MOCoefficients"]


def _swapped_occupied_coefficients(m):
    mos = m["MolecularOrbitals"]["MOs"]
    a, b = mos[2], mos[3]
    a["MOCoefficients"], b["MOCoefficients"] = b["MOCoefficients"], a["MOCoefficients"]


def _fewer_orbitals(m):
    m["MolecularOrbitals"]["MOs"].pop()


def _labels(m):
    labels = m["MolecularOrbitals"]["OrbitalLabels"]
    labels[3], labels[4] = labels[4], labels[3]


def _atoms(m):
    m["Atoms"][1], m["Atoms"][2] = m["Atoms"][2], m["Atoms"][1]


def _shells(m):
    for atom in m["Atoms"]:
        atom["Basis"][0], atom["Basis"][1] = atom["Basis"][1], atom["Basis"][0]


def _other_basis_on_one_atom(m):
    m["Atoms"][2]["Basis"][0]["Exponents"][0] *= 1.01


def _overlap_row(m):
    m["S-Matrix"][1], m["S-Matrix"][2] = m["S-Matrix"][2], m["S-Matrix"][1]


def _energy(m):
    m["MolecularOrbitals"]["MOs"][4]["OrbitalEnergy"] += 0.01


def _bool(m):
    m["Charge"] = False


def _huge_integer(m):
    m["Multiplicity"] = 10**400


def _huge_coefficient(m):
    m["MolecularOrbitals"]["MOs"][7]["MOCoefficients"][2] = 1e300


def _unit_of_energy(m):
    m["MolecularOrbitals"]["EnergyUnit"] = "eV"


LIES = {
    _units: "PySCF overlap",
    _ecp: "effective core potentials",
    _fractional: "occupations are not 2",
    _swapped_orbitals: "occupations are not 2",
    _swapped_coefficients: "Hartree-Fock",
    _swapped_occupied_coefficients: "Hartree-Fock",
    _fewer_orbitals: "23 orbitals for 24 basis functions",
    _labels: "in ORCA's order it would be",
    _atoms: "out of order",
    _shells: "PySCF overlap",
    _other_basis_on_one_atom: "another basis than the other H atoms",
    _overlap_row: "not symmetric",
    _energy: "Hartree-Fock",
    _bool: "'Charge' is bool",
    _huge_integer: "beyond all bounds",
    _huge_coefficient: "impossible value",
    _unit_of_energy: "in 'eV'",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda f: f.__name__)
def test_lies_in_json(hartree_fock, lie):
    data = orca_json(hartree_fock)
    lie(data["Molecule"])
    with pytest.raises(UserError, match=LIES[lie]):
        check(parse_json("x.json", data))


def _once(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HFTyp           .... RHF", "HFTyp           .... UHF", "open shell: UHF"),
        ("Mult            ....    1", "Mult            ....    3", "multiplicity 3"),
        ("TERMINATED NORMALLY", "", "is cut off"),
        ("SCF CONVERGED AFTER", "", "stops in or before|no SCF in it converged"),
        ("OVERLAP MATRIX", "OVERLAP MATRIX\nOVERLAP MATRIX", "2 times"),
        ("Program Version", "", "no ORCA output"),
        ("Dim             ....   24", "Dim             ....   25", "expected"),
        ("Dim             ....   24", "Dim             .... 99999", "too short for 99999 x 99999"),
        ("****ORCA TERMINATED", "   SCF CONVERGED AFTER 3 CYCLES\n****ORCA TERMINATED", "holds 2 SCF"),
    ],
)
def test_lies_in_text(hartree_fock, old, new, message):
    text = orca_text(hartree_fock)
    with pytest.raises(UserError, match=message):
        check(parse_text(parse_output("x.out", _once(text, old, new))))


def test_energies_of_another_run_fail_the_energy_sum(hartree_fock):
    """All orbital energies shifted alike keep F C = S C eps; only ORCA's printed energies can tell."""
    calculation = text(hartree_fock)
    sound = {r.name: r.value for r in check(calculation).residuals}
    assert sound["energy sum"] < 1e-6
    with pytest.raises(UserError, match="failed the check energy sum"):
        check(replace(calculation, energies=calculation.energies + 0.001))
    in_water = replace(calculation, level={**calculation.level, "solvent": "CPCM SOLVATION MODEL"})
    assert "energy sum" not in {r.name for r in check(in_water).residuals}


def test_numbers_that_touch():
    """-100.123456 fills its eleven places: numbers may touch and must still be told apart; stars are refused."""
    from schnorb_t.reference.orca_output import OrcaOutput
    from schnorb_t.reference.orca_text import _matrix

    lines = ["                  0          1", "      0   -2101.123456-100.123456", "      1    -100.123456   3.000000"]
    output = OrcaOutput("x.out", lines, "6", 0, 2, 2)
    assert _matrix(output, 0, 2, "F").tolist() == [[-2101.123456, -100.123456], [-100.123456, 3.0]]
    lines[2] = "      1    ***********   3.000000"
    with pytest.raises(UserError, match="line 3, F: expected 2 numbers"):
        _matrix(output, 0, 2, "F")


def test_labels_of_every_shell():
    labels = ["0C 1s", "0C 1pz", "0C 1px", "0C 1py", "0C 2s", "0C 1dz2", "0C 1dxz", "0C 1dyz", "0C 1dx2y2", "0C 1dxy"]
    f = [f"0C 1f{m}" for m in ("0", "+1", "-1", "+2", "-2", "+3", "-3")]
    assert shells_from_labels("x", [*labels, *f, "1H   1s"], [6, 1]) == ((0, 1, 0, 2, 3), (0,))
    for bad, message in (
        (["0C 1s"], "atom 1 has no orbitals"),
        (["1H 1s", "0C 1s"], "not in order"),
        (["0C 1s", "0C 1px"], "in ORCA's order"),
        (["0C 1s", "0C 1pz", "0C 1px"], "is 'nothing'"),
        (["0C 2s", "1H 1s"], "in ORCA's order it would be '0C 1s'"),
        (["0N 1s", "1H 1s"], "does not fit the list of atoms"),
        (["0C 1q", "1H 1s"], "is none of ORCA's"),
    ):
        with pytest.raises(UserError, match=message):
            shells_from_labels("x", bad, [6, 1])


# ---- without PySCF, and mixtures -----------------------------------------------------------------------------


def test_without_pyscf(monkeypatch, hartree_fock, b3lyp):
    """Text is imported unchecked against integrals; JSON alone asks for its output or for PySCF."""
    molecule = text(b3lyp)
    monkeypatch.setattr(orca_checks, "_pyscf", lambda: None)
    residual = {r.name: r for r in check(molecule).residuals}["PySCF overlap"]
    assert residual.value is None and residual.note == "PySCF is not installed"
    with pytest.raises(UserError, match=r"beside it or pip install \"schnorb_t\[pyscf\]\""):
        check(parse_json("x.json", orca_json(hartree_fock)))
    data = orca_json(hartree_fock)
    del data["Molecule"]["S-Matrix"]
    with pytest.raises(UserError, match=r"has no 'S-Matrix'.*1elIntegrals"):
        check(parse_json("x.json", data))


def test_no_mixtures(hartree_fock, b3lyp):
    first, second = check(text(hartree_fock)), check(text(b3lyp))
    collection = Collection()
    collection.join(first)
    with pytest.raises(UserError, match="another level of theory .*method DFT"):
        collection.join(second)
    collection.join(second, compare_level=False)
    other = check(text(run("HF", "def2-TZVP")))
    with pytest.raises(UserError, match="another basis for O"):
        collection.join(other)
    renamed = replace(first, calculation=replace(first.calculation, basis_name="def2-SV(P)"))
    with pytest.raises(UserError, match="in basis def2-SV"):
        collection.join(renamed)


def test_printed_and_exported_basis_are_one(hartree_fock):
    """The Gaussians of a text (10 decimals) and of a JSON file of one basis count as the same."""
    collection = Collection()
    collection.join(check(text(hartree_fock)))
    collection.join(check(parse_json("x.json", orca_json(hartree_fock))))
    assert str(collection.header().basis).startswith("def2-SVP")
    assert json.loads(json.dumps(collection.header().level))["method"] == "Hartree-Fock(GTOs)"
