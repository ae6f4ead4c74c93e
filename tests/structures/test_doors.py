"""What a file says of charge, spin and cell is seen in every format, under every name, at every door."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write

import schnorb_t
from schnorb_t.commands.label import label_files
from schnorb_t.commands.label_xtb import label_xtb
from schnorb_t.commands.predict import predict
from schnorb_t.commands.write_orca import write_orca
from schnorb_t.errors import UserError
from schnorb_t.interfaces.ase import SchNOrbT
from schnorb_t.structures import electrons, fault_of, from_atoms, read_structures
from schnorb_t.structures.with_ase import statements_in_file
from tests.structures.files import (
    CARBONATE,
    CHARGED,
    EXTENDED,
    OPEN,
    OXYGEN,
    PERIODIC,
    WATER,
    columns,
    put,
    sdf_record,
    xyz,
)

KINDS = {
    "charged": (CHARGED, "has charge -2 ("),
    "open": (OPEN, "open shell: multiplicity 3 ("),
    "pbc": (PERIODIC, "is periodic ("),
}
ALL = [(kind, name) for kind, (files, _) in KINDS.items() for name in files]


@pytest.fixture(scope="module")
def model():
    return schnorb_t.load("hcnof")


@pytest.mark.parametrize("kind, name", ALL)
def test_every_format_and_key_is_seen(tmp_path, kind, name):
    files, sentence = KINDS[kind]
    (structure,) = read_structures(put(tmp_path, name, files[name]))
    wanted = {"charged": CARBONATE, "open": OXYGEN}.get(kind, WATER)
    if "Tv" not in files[name]:
        assert structure.to_atoms().get_chemical_symbols() == [s for s, *_ in wanted]
        assert np.abs(structure.positions - np.array([row[1:] for row in wanted])).max() < 1e-3
    assert sentence in fault_of(structure), fault_of(structure)


def refusal(door, *arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        door(*arguments, **options)
    return str(error.value)


@pytest.mark.parametrize(
    "kind, name",
    [
        ("charged", "total_charge.xyz"),
        ("charged", "initial_charges.xyz"),
        ("charged", "chg.sdf"),
        ("charged", "a.gjf"),
        ("open", "spin.xyz"),
        ("open", "rad.sdf"),
        ("open", "orca.inp"),
        ("pbc", "lattice.xyz"),
    ],
)
def test_every_door_says_the_same(tmp_path, model, kind, name):
    pytest.importorskip("pyscf")
    path = put(tmp_path, name, KINDS[kind][0][name])
    fault = fault_of(read_structures(path)[0])
    assert fault
    out = tmp_path / "out"
    assert fault in refusal(predict, "hcnof", path, output=tmp_path / "p.h5")
    assert fault in refusal(label_xtb, [path], output=tmp_path / "x.h5")
    assert fault in refusal(model.predict, read_structures(path))
    if kind == "charged":  # calculations of ions can be had, models of neutral molecules have none
        write_orca([path], output=out)
        assert "* xyz -2 1\n" in next(out.glob("*.inp")).read_text()
        return
    assert fault in refusal(label_files, [path], output=tmp_path / "l.h5", target="STO-3G", workers=1)
    assert fault in refusal(write_orca, [path], output=out)
    assert not out.exists() and not (tmp_path / "l.h5").exists() and not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("name", ["total_charge.xyz", "Charge.xyz", "initial_charges.xyz", "charges.xyz"])
def test_atoms_that_ase_read_say_the_same(tmp_path, model, name):
    path = put(tmp_path, name, CHARGED[name])
    atoms = read(path)
    fault = fault_of(read_structures(path)[0])
    assert fault_of(atoms) == fault
    assert fault in refusal(model.predict, atoms)
    if name != "charges.xyz":  # a result of a calculator, which the next one replaces
        atoms.calc = SchNOrbT(model)
        assert fault in refusal(atoms.calc.get_property, "gap", atoms)
        assert fault in refusal(atoms.calc.calculate_trajectory, [atoms])


def test_the_calculator_sees_initial_charges_set_later(model):
    atoms = molecule("CH3OH")
    atoms.calc = SchNOrbT(model)
    assert atoms.calc.get_property("gap", atoms) > 0
    atoms.set_initial_charges([2, 0, 0, 0, 0, 0])
    with pytest.raises(UserError, match=r"has charge \+2 \(sum of initial_charges\)"):
        atoms.calc.get_property("gap", atoms)
    atoms.set_initial_charges([0.3, -0.4, 0.05, 0.05, -0.02, 0.03])
    assert atoms.calc.get_property("gap", atoms) > 0


def test_results_and_options_of_calculators_count():
    atoms = molecule("CO2")
    atoms.calc = SinglePointCalculator(atoms, magmom=2.0)
    assert "multiplicity 3 (magmom=2.0)" in fault_of(atoms)
    atoms.calc = SinglePointCalculator(atoms, charges=np.array([0.6, -0.3, -0.3]), magmom=0.0, energy=-1.0)
    assert fault_of(atoms) == ""

    class Other:
        parameters = {"charge": -2, "xc": "PBE"}

    atoms.calc = Other()
    assert "has charge -2 (charge)" in fault_of(atoms)


def test_databases_and_trajectories_keep_charges(tmp_path):
    atoms = Atoms([s for s, *_ in CARBONATE], [row[1:] for row in CARBONATE])
    with connect(tmp_path / "a.db") as database:
        database.write(atoms, total_charge=-2)
    atoms.set_initial_charges([0, 0, -1, -1])
    write(tmp_path / "a.traj", [atoms])
    write(tmp_path / "a.json", atoms)
    for name in ("a.traj", "a.json", "a.db"):
        assert "has charge -2 (" in fault_of(read_structures(tmp_path / name)[0]), name


def test_charge_files_of_xtb_beside(tmp_path):
    path = put(tmp_path, "struc.xyz", xyz(CARBONATE))
    put(tmp_path, ".CHRG", "-2\n")
    assert "has charge -2 (.CHRG beside the file)" in fault_of(read_structures(path)[0])
    put(tmp_path, "o.xyz", xyz(OXYGEN))
    put(tmp_path, ".CHRG", "0\n")
    put(tmp_path, ".UHF", "2\n")
    assert "multiplicity 3 (.UHF beside the file" in fault_of(read_structures(tmp_path / "o.xyz")[0])


SOUND = {
    "zwitterion.sdf": sdf_record(CARBONATE, ["M  CHG  2   1   1   2  -1"]),
    "singlet_carbene.sdf": sdf_record(CARBONATE, ["M  RAD  1   1   1"]),
    "replaced.sdf": sdf_record(CARBONATE, ["M  CHG  2   1   1   2  -1"], old={3: 5}),
    "partial.xyz": columns(CARBONATE, "charges", (0.61, -0.2, -0.2, -0.2)),
    "rounded.xyz": columns(CARBONATE, "hirshfeld_charges", (0.3, -0.12, -0.09, -0.12)),
    "nuclear.xyz": columns(CARBONATE, "nuclear_charges", (6, 8, 8, 8)),
    "types.xyz": columns(CARBONATE, "types", (1, 2, 2, 2)),
    "index.xyz": xyz(WATER).replace("062\n", "062 1\n"),
    "said.xyz": xyz(WATER, EXTENDED + "charge=0 spin=1 multiplicity=1 uhf=0 magmom=0.0 total_charge=0"),
    "omol.xyz": xyz(WATER, EXTENDED + "charge=0 spin=1"),
    "s.xyz": xyz(WATER, EXTENDED + "total_spin=0 max_force=0.3 charge_model=2 nuclear_charge=10 n_atoms=3"),
    "box.xyz": xyz(WATER, f'Lattice="10 0 0 0 10 0 0 0 10" {EXTENDED}pbc="F F F"'),
    "frame.xyz": xyz(WATER, "17 1"),
    "energy.xyz": xyz(WATER, " energy: -5.070544 gnorm: 0.000075 xtb: 6.7.0"),
    "neutral.gjf": f"# hf\n\nt\n\n0 1\n{''.join(f'{s} 0 {x} {y} {z}' + chr(10) for s, x, y, z in WATER)}\n",
    "moments.xyz": columns(WATER, "magmoms", (1e-4, 0.0, -2e-3)),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_says_neutral_and_closed_passes(tmp_path, name):
    (structure,) = read_structures(put(tmp_path, name, SOUND[name]))
    assert fault_of(structure) == ""


@pytest.mark.parametrize(
    "says, message",
    [
        ("charge=neutral", r"charge is no number \(charge=neutral\); write charge=0"),
        ("multiplicity=singlet", r"multiplicity is no number \(multiplicity=singlet\); write multiplicity=1"),
        ("spin=triplet", r"spin is no number \(spin=triplet\)"),
        ("charge=0.5", r"charge is no whole number \(charge=0.5\)"),
        ("charge=nan", r"charge is no number"),
        ("multiplicity=-1", "multiplicity is no whole number"),
        ("charge=0 total_charge=-2", r"charge is -2 \(total_charge\) and \+0 \(charge\); correct the wrong one"),
    ],
)
def test_what_cannot_be_understood_is_refused_at_every_door(tmp_path, says, message):
    path = put(tmp_path, "a.xyz", xyz(WATER, says))
    with pytest.raises(UserError, match=message):
        predict("hcnof", path, output=tmp_path / "p.h5")
    with pytest.raises(UserError, match=message):
        label_files([path], output=tmp_path / "l.h5", workers=1)
    with pytest.raises(UserError, match=message):
        write_orca([path], output=tmp_path / "o")


def test_ghosts_dummies_and_drawings_are_refused(tmp_path):
    water = xyz(WATER)
    for name, text in {
        "x.xyz": water.replace("O ", "X "),
        "bq.xyz": water.replace("O ", "Bq "),
        "g.inp": f"! HF\n* xyz 0 1\n{water.split(chr(10), 2)[2].replace('O ', 'O: ')}*\n",
        "q.in": f"$molecule\n0 1\n{water.split(chr(10), 2)[2].replace('O ', '@O ')}$end\n",
    }.items():
        (structure,) = read_structures(put(tmp_path, name, text))
        assert "ghost and dummy atoms cannot be treated" in fault_of(structure), name
    flat = sdf_record([(s, x, y, 0.0) for s, x, y, _ in CARBONATE]).split("\n")
    flat[1] = "  program 0101010101".ljust(20) + "2D"
    assert "two dimensions" in fault_of(read_structures(put(tmp_path, "f.sdf", "\n".join(flat)))[0])


@pytest.mark.parametrize(
    "kind, text, charge, multiplicity",
    [
        ("gaussian-out", " Charge = -2 Multiplicity = 1\n", -2, 1),
        ("orca-output", " Total Charge  Charge  ....   -2\n Multiplicity  Mult  ....    3\n", -2, 3),
        ("nwchem-out", "          Charge           :    -2\n          Spin multiplicity:     3\n", -2, 3),
        ("nwchem-in", "charge -2\nscf\n nopen 2\nend\n", -2, 3),
        ("gamess-us-out", " CHARGE OF MOLECULE    =   -2\n SPIN MULTIPLICITY     =    3\n", -2, 3),
        ("dftb", "Hamiltonian = DFTB {\n  Charge = -2\n}\n", -2, 0),
    ],
)
def test_outputs_and_inputs_that_ase_reads_say_charge_and_spin(tmp_path, kind, text, charge, multiplicity):
    said = electrons(statements_in_file(put(tmp_path, "a.txt", text), kind), 30)
    assert (said.charge, said.multiplicity, said.fault) == (charge, multiplicity, "")


def test_pyscf_molecules_say_the_same(model):
    pytest.importorskip("pyscf")
    from pyscf import gto

    from schnorb_t.interfaces.pyscf import ModelGuess, structure_of

    mol = gto.M(atom=[(s, row) for s, *row in CARBONATE], basis="def2-SVP", charge=-2, verbose=0)
    fault = fault_of(structure_of(mol))
    assert fault.startswith("has charge -2 (mol.charge)")
    assert fault in refusal(ModelGuess("hcnof"), mol)
    triplet = gto.M(atom=[(s, row) for s, *row in OXYGEN], basis="def2-SVP", spin=2, verbose=0)
    assert "multiplicity 3 (mol.spin=2)" in refusal(ModelGuess("hcnof"), triplet)


def test_label_jobs_called_from_python_say_the_same():
    pytest.importorskip("pyscf")
    from schnorb_t.reference.labels import LabelJob
    from schnorb_t.reference.pyscf import LabelError, Level
    from schnorb_t.reference.xtb import XtbJob

    atoms = Atoms([s for s, *_ in CARBONATE], [row[1:] for row in CARBONATE], info={"net_charge": -2})
    structure = from_atoms(atoms, "carbonate")
    with pytest.raises(LabelError, match=r"has charge -2 \(net_charge\), and only neutral"):
        XtbJob()(structure)
    atoms.info["net_charge"] = -1
    for job in (LabelJob(Level(basis="STO-3G"), "full"), XtbJob()):
        with pytest.raises(LabelError, match="open shell: 31 electrons|and only neutral"):
            job(from_atoms(atoms, "radical"))


@pytest.mark.parametrize(
    "name, values, sentence",
    [
        ("qeq_charges", (0, 0, -1, -1), "has charge -2 (sum of qeq_charges)"),
        ("MyModel-charge", (0, 0, -1, -1), "has charge -2 (sum of MyModel-charge)"),
        ("dft_magmoms", (1, 0, 1, 0), "open shell: multiplicity 3 (dft_magmoms)"),
        ("core_charges", (0, 0, -1, -1), ""),
        ("site_charges_error", (0, 0, -1, -1), ""),
    ],
)
def test_columns_of_any_method_count(tmp_path, name, values, sentence):
    (structure,) = read_structures(put(tmp_path, "a.xyz", columns(CARBONATE, name, values)))
    atoms = Atoms("CO3", [row[1:] for row in CARBONATE])
    atoms.set_array(name, np.array(values, dtype=float))
    for fault in (fault_of(structure), fault_of(atoms)):
        assert fault.startswith(sentence) and bool(fault) == bool(sentence)
    text = columns(CARBONATE, name, values).replace(f"{name}:R:1", f"{name}:S:1")
    assert f"{name}:S:1" in text
    (structure,) = read_structures(put(tmp_path, "text.xyz", text))
    assert fault_of(structure).startswith(sentence)


@pytest.mark.parametrize(
    "info, sentence",
    [
        ({"charge_mult": "-2 1"}, "has charge -2 (charge_mult)"),
        ({"chargeMultiplicity": np.array([0, 3])}, "open shell: multiplicity 3 (chargeMultiplicity="),
        ({"charge_and_spin": "[0, 1]"}, ""),
        ({"total_charge": {"value": -1, "unit": "e"}}, "has charge -1 (total_charge)"),
        ({"mol_chg": -1}, "has charge -1 (mol_chg)"),
        ({"length_units": "a.u."}, "says that its positions are in a.u.; multiply them by 0.529177"),
        ({"distance_unit": "pm"}, "says that its positions are in pm; divide them by 100"),
        ({"units": "Bohr"}, "says that its positions are in Bohr"),
        ({"units": "au", "energy_unit": "nm"}, ""),
        ({"unit": "angstrom"}, ""),
    ],
)
def test_entries_of_atoms_count(info, sentence):
    atoms = molecule("H2O")
    atoms.info.update(info)
    assert fault_of(atoms).startswith(sentence) and bool(fault_of(atoms)) == bool(sentence)
