"""Reports of real users that concern how molecules come in, each by the command or call that they gave."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.data.s22 import create_s22_system

import schnorb_t
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.interfaces.ase import SchNOrbT
from tests.structures.files import CARBONATE, EXTENDED, OXYGEN, WATER, columns, put, xyz
from tests.structures.test_reading import MEMBER

ROOT = Path(__file__).resolve().parents[1]
ACETALDEHYDE = molecule("CH3CHO")


def run(*arguments, cwd) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300)


def refused(done: subprocess.CompletedProcess, message: str) -> None:
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def predict(folder, name, *more, model="hcnof"):
    return run("-m", "schnorb_t.predict", model, name, "-o", "out.h5", "--force", *more, cwd=folder)


METHYLENE = (("C", 0.0, 0.0, 0.0), ("H", 0.0, 0.98, 0.5), ("H", 0.0, -0.98, 0.5))
C01 = {
    "co3_total_charge": (CARBONATE, "total_charge=-2", "has charge -2 (total_charge)"),
    "co3_Charge": (CARBONATE, "Charge=-2 Multiplicity=1", "has charge -2 (Charge)"),
    "co3_net_charge": (CARBONATE, "net_charge=-2", "has charge -2 (net_charge)"),
    "o2_spin": (OXYGEN, "charge=0 spin=3", "multiplicity 3 (spin=3)"),
    "o2_total_spin": (OXYGEN, "total_charge=0 total_spin=3", "multiplicity 3 (total_spin=3)"),
    "ch2_uhf": (METHYLENE, "spin_multiplicity=3", "multiplicity 3 (spin_multiplicity=3)"),
}


@pytest.mark.parametrize("name", ["co3_total_charge", "o2_spin"])
def test_c01_charge_and_spin_keys_reach_predict_and_labeller(tmp_path, name):
    pytest.importorskip("pyscf")
    atoms, says, message = C01[name]
    put(tmp_path, "a.xyz", xyz(atoms, EXTENDED + says))
    refused(predict(tmp_path, "a.xyz"), message)
    label = run(ROOT / "data_prep/label_pyscf.py", "a.xyz", "-o", "l.h5", "--target", "STO-3G", cwd=tmp_path)
    assert not (tmp_path / "out.h5").exists()
    if name == "o2_spin":
        refused(label, message)
        assert not (tmp_path / "l.h5").exists()
    else:  # labelled as the ion that it is
        assert label.returncode == 0, label.stderr
        with Store(tmp_path / "l.h5") as store:
            assert store.total_charges.tolist() == [-2] and store[0].n_electrons == 32


@pytest.mark.parametrize("name", C01)
def test_c01_every_key(tmp_path, name):
    atoms, says, message = C01[name]
    (structure,) = schnorb_t.structures.read_structures(put(tmp_path, "a.xyz", xyz(atoms, EXTENDED + says)))
    assert message in schnorb_t.structures.fault_of(structure)


def test_c02_initial_charges(tmp_path):
    put(tmp_path, "a.xyz", columns(CARBONATE, "initial_charges", (0, 0, -1, -1)))
    refused(predict(tmp_path, "a.xyz"), "has charge -2 (sum of initial_charges)")
    atoms = molecule("CH3OH")
    atoms.set_initial_charges([2, 0, 0, 0, 0, 0])
    atoms.calc = SchNOrbT("hcnof")
    with pytest.raises(UserError, match=r"has charge \+2"):
        atoms.calc.get_property("gap", atoms)


def test_c05_blank_line_between_frames(tmp_path):
    put(tmp_path, "a.xyz", xyz(WATER, "water") + "\n" + xyz(WATER, "water2"))
    done = predict(tmp_path, "a.xyz")
    assert done.returncode == 0 and "2 structures" in done.stdout, done.stderr


@pytest.mark.parametrize("unit, factor", [("Bohr", 1 / 0.529177), ("pm", 100.0), ("nm", 0.1)])
def test_c13_coordinates_in_another_unit(tmp_path, unit, factor):
    symbols, x = ACETALDEHYDE.get_chemical_symbols(), ACETALDEHYDE.positions
    put(
        tmp_path,
        "a.xyz",
        xyz([(s, *row) for s, row in zip(symbols, (x * factor).tolist(), strict=True)], "acetaldehyde"),
    )
    refused(predict(tmp_path, "a.xyz"), f"they look like {unit}")


@pytest.mark.parametrize("says", ["charge=neutral", "multiplicity=singlet"])
def test_c17_text_for_charge_or_multiplicity(tmp_path, says):
    pytest.importorskip("pyscf")
    put(tmp_path, "a.xyz", xyz(WATER, says))
    for script in ("label_pyscf.py", "label_xtb.py"):
        refused(run(ROOT / "data_prep" / script, "a.xyz", "-o", "l.h5", cwd=tmp_path), f"is no number ({says})")


def test_c19_unpacked_qm9(tmp_path):
    (tmp_path / "q").mkdir()
    put(tmp_path / "q", "dsgdb9nsd_000003.xyz", MEMBER)
    done = predict(tmp_path, "q/dsgdb9nsd_000003.xyz", model="qm9")
    assert done.returncode == 0 and "1 structures" in done.stdout, done.stderr
    done = run(ROOT / "data_prep/qm9.py", "q", "-o", "q.xyz", cwd=tmp_path)
    assert done.returncode == 0 and "q.xyz: 1 molecules" in done.stdout, done.stderr


def test_c20_isotopes(tmp_path):
    put(tmp_path, "a.xyz", xyz(WATER) + xyz(WATER).replace("H ", "D ") + xyz(WATER).replace("H ", "T "))
    done = predict(tmp_path, "a.xyz")
    assert done.returncode == 0, done.stderr
    assert "3 structures" in done.stdout
    model = schnorb_t.load("hcnof")
    light, heavy = model.predict(schnorb_t.structures.read_structures(tmp_path / "a.xyz")[:2])
    assert np.array_equal(light.orbital_energies, heavy.orbital_energies)


@pytest.fixture(scope="module")
def orca_water():
    pytest.importorskip("pyscf")
    from tests.reference.orca_examples import orca_text, run

    return orca_text(run(basis="sto-3g"))


def test_c22_files_of_a_scheduler_among_those_of_orca(tmp_path, orca_water):
    put(tmp_path, "water.out", orca_water)
    put(tmp_path, "settings.json", '{"partition": "short"}\n')
    put(tmp_path, "slurm-123456.out", "slurmstepd: error: *** JOB 123456 ON node01 CANCELLED ***\n")
    put(tmp_path, "slurm-7.out", "")
    done = run(ROOT / "data_prep/import_orca.py", ".", "-o", "o.h5", cwd=tmp_path)
    assert done.returncode == 0 and "o.h5: 1 molecules, 0 refused" in done.stdout, done.stderr
    for name in ("settings.json", "slurm-123456.out", "slurm-7.out"):
        assert f"left out: {name}: no file of ORCA" in done.stdout
    put(tmp_path, "methane.inp", "! HF")
    put(tmp_path, "methane.out", "")  # of a job that never began
    refused(run(ROOT / "data_prep/import_orca.py", ".", "-o", "p.h5", cwd=tmp_path), "methane.out: is no ORCA output")
    (tmp_path / "water.out").unlink()
    (tmp_path / "methane.inp").unlink()
    (tmp_path / "methane.out").unlink()
    refused(run(ROOT / "data_prep/import_orca.py", ".", "-o", "p.h5", cwd=tmp_path), "of other programs: settings.json")


def test_c23_the_bohr_of_orca_2_6(tmp_path, orca_water):
    """Far from the origin the two lists of positions differ by more than rounding, unless Å are ORCA 2.6's."""

    lines, section, shift = orca_water.replace("Version 6.0.0", "Version 2.6.35").split("\n"), "", 8.0
    bohr = []
    for i, line in enumerate(lines):
        section = line if line.startswith("CARTESIAN") else section if line.strip() else ""
        words = line.split()
        if section.endswith("(A.U.)") and len(words) == 8 and words[0].isdigit():
            bohr.append([float(w) for w in words[5:]])
            bohr[-1][2] += shift
            lines[i] = line[:-36] + "".join(f"{v:12.6f}" for v in bohr[-1])
    at = lines.index("CARTESIAN COORDINATES (ANGSTROEM)") + 2
    for k, row in enumerate(bohr):
        lines[at + k] = lines[at + k][:6] + "".join(f"{v * 0.529167:12.6f}" for v in row)
    put(tmp_path, "w.out", "\n".join(lines))
    done = run(ROOT / "data_prep/import_orca.py", "w.out", "-o", "o.h5", cwd=tmp_path)
    assert done.returncode == 0 and "1 molecules, 0 refused" in done.stdout, done.stderr
    with Store(tmp_path / "o.h5") as store:  # Å that give back the Bohr of ORCA's integrals
        assert np.abs(store[0].positions / 0.529177210903 - bohr).max() < 1e-6
    lines[at] = lines[at][:6] + "".join(f"{v * 0.5293:12.6f}" for v in bohr[0])
    put(tmp_path, "w.out", "\n".join(lines))
    refused(run(ROOT / "data_prep/import_orca.py", "w.out", "-o", "p.h5", cwd=tmp_path), "differ at atom 0")


def test_a_charged_molecule_of_orca_is_imported_as_the_ion_that_it_is(tmp_path):
    pytest.importorskip("pyscf")
    from pyscf import gto, scf

    from tests.reference.orca_examples import orca_text

    mol = gto.M(atom=[("O", (0, 0, 0)), ("H", (0, 0, 0.97))], charge=-1, basis="sto-3g", verbose=0)
    mf = scf.RHF(mol)
    mf.conv_tol = 1e-11
    mf.kernel()
    text = orca_text(mf).replace("Charge          ....    0", "Charge          ....   -1")
    put(tmp_path, "oh.out", text.replace("NEL             ....    9", "NEL             ....   10"))
    done = run(ROOT / "data_prep/import_orca.py", "oh.out", "-o", "o.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "o.h5") as store:
        assert store.total_charges.tolist() == [-1] and store[0].n_electrons == 10
    # whoever knows neutral molecules only says so in the same sentence as of a geometry
    put(tmp_path, "oh.xyz", xyz((("O", 0, 0, 0), ("H", 0, 0, 0.97)), EXTENDED + "charge=-1"))
    refused(predict(tmp_path, "oh.xyz"), "has charge -1")


def test_c26_what_molecules_are_far_from_is_their_uncertainty_not_their_bonds():
    """H2 and the water dimer are molecules: they pass the door. The same atoms without any bond do not."""
    model = schnorb_t.load("hcnof")
    for atoms in (molecule("H2"), create_s22_system("Water_dimer")):
        assert np.isfinite(model.predict(atoms).orbital_energies).all()
        apart = atoms.copy()
        apart.positions *= 4
        with pytest.raises(UserError, match="no two atoms that are bonded"):
            model.predict(apart)
