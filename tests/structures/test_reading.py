"""Every record of a file is read, or the file is refused: frames, isotopes, labels, units, QM9, long files."""

import itertools
import tracemalloc

import numpy as np
import pytest
from ase.build import molecule
from ase.collections import g2, s22
from ase.io import read, write

from schnorb_t.errors import UserError
from schnorb_t.structures import fault_of, iter_structures, read_for_labels, read_structures
from schnorb_t.structures.elements import parse_element
from tests.structures.files import CARBONATE, WATER, put, rows, sdf_record, xyz


def formulas(path) -> list[str]:
    return [s.formula for s in read_structures(path)]


@pytest.mark.parametrize("between", ["", "\n", "\n\n  \n", "\r\n"])
def test_blank_lines_between_frames_lose_none(tmp_path, between):
    path = put(tmp_path, "a.xyz", between.join([xyz(WATER, "water"), xyz(CARBONATE), xyz(WATER)]) + between)
    assert formulas(path) == ["H2O", "CO3", "H2O"]


@pytest.mark.parametrize(
    "text, message",
    [
        (
            xyz(WATER) + "end of file\n",
            "structure 1 cannot be read: line 6 is 'end of file', where the next",
        ),
        (xyz(WATER).replace("3\n", "2\n", 1), "does structure 0 announce too few atoms"),
        (
            xyz(WATER).replace("3\n", "4\n", 1),
            "structure 0 .*line 1 announces 4 atoms, and there are 3 atoms",
        ),
        (xyz(WATER).replace("3\n", "4\n", 1) + xyz(WATER), "line 6"),
        (xyz(WATER) + "\n3\n", "the file ends after the number of atoms in line 7"),
        (xyz(WATER) + xyz(WATER).replace("H ", "Foo ", 1), "structure 1 cannot be read: line 9 begins with 'Foo'"),
        (xyz(WATER).replace("0.7632", "zero"), "line 4"),
        ("3\n\nO 0 0 0\nH 0 0 1\n\n" + xyz(WATER), "2 atoms before a blank line"),
        (xyz(WATER, "Properties=species:S:1:pos:R:2"), "names no column of elements"),
        (xyz(WATER, 'Lattice="1 2 3" Properties=species:S:1:pos:R:3'), "cannot be read"),
    ],
)
def test_damaged_xyz_files_are_refused_with_the_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        read_structures(put(tmp_path, "bad.xyz", text))
    assert "bad.xyz" in str(error.value)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.inp", "! HF\n* xyz 0 1\nO 0 0\n*\n", "'O 0 0' is no atom with x, y, z"),
        ("b.inp", "! HF\n* xyz 0 1\nO 0 0 0\n", "not closed by"),
        ("c.inp", "! HF\n* int 0 1\nO 0 0 0 0 0 0\n*\n", "give Cartesian ones"),
        ("d.inp", "! HF\n* xyzfile 0 1 gone.xyz\n", "gone.xyz: no such file"),
        ("a.gjf", "# hf\n\ntitle\n\nO 0 0 0\n\n", "stands where charge and multiplicity belong"),
        ("a.in", "$molecule\nO 0 0 0\n$end\n", "does not begin with charge and multiplicity"),
        ("coord", "$coord frac\n0 0 0 o\n$end\n", "fractional coordinates"),
        ("a.sdf", "t\n\n\n  3  0  0 V2000\n    0.0       0.0       0.0    O\n", "ends the record before its 3 atoms"),
        ("b.sdf", sdf_record(WATER).replace(" O  ", " Zz "), "line 5 names 'Zz', which is no element"),
        ("c.sdf", sdf_record(WATER, ["M  CHG  1   9  -1"]), "is damaged"),
        ("a.mol2", "@<TRIPOS>MOLECULE\nm\n@<TRIPOS>ATOM\n1 O1 0 0 zero O 1 M 0\n", "line 4 is no atom"),
        ("a.xyz.gz", "no gzip", "cannot be read"),
        ("a.tar.bz2", "no archive", "cannot be read as an archive"),
        ("a.pdb", "HETATM garbage\nEND\n", "line 1 has no coordinates in columns 31 to 54"),
    ],
)
def test_damaged_files_of_other_formats_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_structures(tmp_path / name)
    assert name in str(error.value)


def test_all_records_of_an_sd_file_are_read(tmp_path):
    text = sdf_record(WATER, title="first") + sdf_record(CARBONATE, ["M  CHG  1   2  -2"], title="second")
    first, second = read_structures(put(tmp_path, "a.sdf", text + sdf_record(WATER).replace("$$$$\n", "")))[:2]
    assert (first.name, first.charge, second.name, second.charge, second.index) == ("first", 0, "second", -2, 1)
    assert len(read_structures(tmp_path / "a.sdf")) == 3
    conformers = put(tmp_path, "b.sdf", sdf_record(WATER, title="w") + sdf_record(WATER, title="w"))
    assert [s.name for s in read_for_labels([conformers])] == ["w:0", "w:1"]


def test_all_jobs_of_inputs_are_read(tmp_path):
    job = f"# hf units=au\n\nt\n\n0 1\n{rows(WATER, 1 / 0.529177210903)}\n"
    first, second, elsewhere = read_structures(
        put(tmp_path, "a.gjf", f"{job}--Link1--\n{job}--link1--\n# hf geom=allcheck\n\n")
    )
    assert np.allclose(first.positions, [r[1:] for r in WATER], atol=1e-6) and second.index == 1
    assert "takes its geometry from the job's checkpoint (geom=check)" in fault_of(elsewhere)
    z_matrix = "%chk=a\n# hf\n\nt\n\n0 1\nO\nH 1 0.96\nH 1 0.96 2 104.5\n\n"
    (water,) = read_structures(put(tmp_path, "z.gjf", z_matrix))
    assert water.formula == "H2O" and abs(np.linalg.norm(water.positions[1] - water.positions[0]) - 0.96) < 1e-6
    orca = f"! HF Bohrs\n* xyz 0 1\n{rows(WATER, 1 / 0.529177210903)}*\n$new_job\n! HF\n* xyz 0 1\n{rows(WATER)}*\n"
    assert formulas(put(tmp_path, "a.inp", orca)) == ["H2O", "H2O"]
    put(tmp_path, "w.xyz", xyz(WATER))
    (water,) = read_structures(put(tmp_path, "f.inp", "! HF\n* xyzfile -1 2 w.xyz\n"))
    assert (water.charge, water.multiplicity) == (-1, 2)


@pytest.mark.parametrize("text, mass", [("D", 2.014), ("T", 3.016), ("2H", 2.0), ("3H", 3.0), ("d", 2.014)])
def test_isotopes_are_their_elements(tmp_path, text, mass):
    heavy = put(tmp_path, "d.xyz", xyz(WATER).replace("H ", f"{text} "))
    (structure,) = read_structures(heavy)
    assert fault_of(structure, (1, 8)) == "" and structure.atomic_numbers.tolist() == [8, 1, 1]
    assert structure.symbols == ("O", text, text) and structure.to_atoms().get_masses()[1] == mass
    assert np.isnan(structure.masses[0])


def test_isotopes_of_other_formats(tmp_path):
    for name, text in {
        "a.sdf": sdf_record(WATER, ["M  ISO  1   2   2"]),
        "b.sdf": sdf_record([("D" if s == "H" else s, x, y, z) for s, x, y, z in WATER]),
        "a.gjf": f"# hf\n\nt\n\n0 1\n{rows(WATER).replace('H ', 'H(iso=2) ')}\n",
    }.items():
        (structure,) = read_structures(put(tmp_path, name, text))
        assert structure.atomic_numbers.tolist() == [8, 1, 1] and round(structure.masses[1]) == 2, name


def test_what_names_an_element():
    known = {"C": 6, "CL": 17, "cl": 17, "6": 6, "C12": 6, "N_3": 7, "O.2": 8, "13C": 6, "Xe": 54, "Mg": 12, "D1": 1}
    ghosts = ("X", "Bq", "Gh", "Du", "O:", "@H", "H-Bq", "Bq-O", "0", "Tv", "Q")
    assert {text: parse_element(text)[0] for text in known} == known
    assert {parse_element(text)[0] for text in ghosts} == {0}
    assert all(parse_element(text) is None for text in ("Foo", "300", "Zz", "8H", "", "Na+x"))


def test_names_groups_and_columns_as_ase_reads_them(tmp_path):
    atoms = molecule("CH3OH")
    atoms.info.update(name="m/1", group="m", split="val", smiles="CO")
    atoms.set_array("forces", np.ones((6, 3)))
    write(tmp_path / "a.xyz", [atoms, atoms], format="extxyz")
    for ours, theirs in zip(read_structures(tmp_path / "a.xyz"), read(tmp_path / "a.xyz", ":"), strict=True):
        assert (ours.name, ours.group, ours.split) == ("m/1", "m", "val")
        assert np.array_equal(ours.positions, theirs.positions) and np.array_equal(ours.numbers, theirs.numbers)
    text = "2\nProperties=pos:R:3:forces:R:3:Z:I:1\n0 0 0 1 1 1 1\n0 0 0.74D0 0 0 0 1\n"
    (h2,) = read_structures(put(tmp_path, "b.extxyz", text))
    assert h2.formula == "H2" and h2.positions[1, 2] == 0.74
    assert formulas(put(tmp_path, "c.xyz.gz", xyz(WATER))) == ["H2O"]


MEMBER = (
    "3\ngdb 3\t799.58812\t437.90386\t282.94545\t1.8511\t6.31\t-0.2928\t0.0687\t0.3615\t19.0002\t0.021375\t-76.404702\t"
    "-76.401867\t-76.400922\t-76.422349\t6.002\t\nO\t-0.0343604951\t 0.9775395708\t 7.6*^-3\t-0.589706\n"
    "H\t 0.0647664923\t 0.0205721989\t 0.0015346341\t 0.294853\nH\t 0.8717903737\t 1.3007924048\t 6.9*^-6\t 0.294853\n"
    "1671.4222\t3803.6305\t3907.698\nO\tO\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
)


def test_unpacked_members_of_qm9(tmp_path):
    path = put(tmp_path, "dsgdb9nsd_000003.xyz", MEMBER)
    (structure,) = read_structures(path)
    assert structure.name == "qm9:3" and fault_of(structure) == "" and structure.positions[2, 2] == 6.9e-6
    assert [s.name for s in read_for_labels([tmp_path])] == ["qm9:3"]
    assert formulas(put(tmp_path, "two.xyz", MEMBER + MEMBER.replace("gdb 3", "gdb 4"))) == ["H2O", "H2O"]
    put(tmp_path, "dsgdb9nsd_000004.xyz", MEMBER)
    with pytest.raises(UserError, match="dsgdb9nsd_000004.xyz, line 2: index 3.*unpack it again"):
        read_structures(tmp_path / "dsgdb9nsd_000004.xyz")


def test_a_folder_of_qm9_becomes_extended_xyz(tmp_path):
    from schnorb_t.commands.qm9 import qm9

    (tmp_path / "q" / "deeper").mkdir(parents=True)
    put(tmp_path / "q", "dsgdb9nsd_000003.xyz", MEMBER)
    put(tmp_path / "q" / "deeper", "dsgdb9nsd_000002.xyz", MEMBER.replace("gdb 3", "gdb 2"))
    result = qm9(tmp_path / "q", output=tmp_path / "q.xyz")
    assert result["molecules"] == 2 and [s.name for s in read_structures(tmp_path / "q.xyz")] == ["qm9:2", "qm9:3"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no dsgdb9nsd_NNNNNN.xyz"):
        qm9(tmp_path / "empty", output=tmp_path / "e.xyz")


MOLECULES = [(name, molecules[name]) for molecules in (g2, s22) for name in molecules.names if len(molecules[name]) > 1]
#: Without hydrogen and of multiple or weak bonds: 0.529 of their bonds could be other molecules' bonds.
UNSURE = {"ClNO", "O3", "F2O", "Si2", "Li2", "F2", "Na2"}


@pytest.mark.parametrize(
    "factor, advice",
    [
        (1.889726, "look like Bohr: multiply them by 0.529177"),
        (100.0, "look like pm: divide them by 100"),
        (0.1, "look like nm: multiply them by 10"),
        (0.529177, "look as if multiplied by 0.529177"),
    ],
)
def test_another_unit_is_named(factor, advice):
    for name, atoms in MOLECULES:
        if factor == 0.529177 and name in UNSURE:
            continue
        wrong = atoms.copy()
        wrong.positions *= factor
        wrong.info.clear()
        wrong.set_initial_magnetic_moments(None)
        if wrong.numbers.sum() % 2 == 0:
            assert advice in fault_of(wrong), name


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.25])
def test_molecules_stretched_and_squeezed_pass(factor):
    for name, atoms in MOLECULES:
        if atoms.numbers.sum() % 2 == 0 and not atoms.get_initial_magnetic_moments().any():
            scaled = atoms.copy()
            scaled.positions *= factor
            assert fault_of(scaled) == "", name


def test_what_has_no_bonds_by_nature_passes():
    from ase import Atoms

    for symbols, distance in (("He2", 2.97), ("Ar2", 3.76), ("NeAr", 3.5), ("Mg2", 3.9), ("H2", 0.9), ("LiF", 1.9)):
        assert fault_of(Atoms(symbols, [[0, 0, 0], [0, 0, distance]])) == "", symbols
    assert fault_of(Atoms("Ne")) == ""
    methanol = molecule("CH3OH")
    methanol.set_distance(0, 1, 1.6 * methanol.get_distance(0, 1), indices=[1, 3], fix=0)
    assert fault_of(methanol) == ""
    assert "no two atoms that are bonded" in fault_of(Atoms("N2", [[0, 0, 0], [0, 0, 9]]))


@pytest.mark.parametrize("unit", ["units: bohr", "Units=Bohr", 'unit="pm"', "unit: nm"])
def test_a_stated_unit_is_heeded(tmp_path, unit):
    (structure,) = read_structures(put(tmp_path, "u.xyz", xyz(WATER, unit)))
    assert fault_of(structure).startswith("says that its positions are in")


def test_long_files_are_read_one_frame_at_a_time(tmp_path):
    with open(tmp_path / "long.xyz", "w") as file:
        for k in range(3_000):
            file.write(xyz(WATER, f"Properties=species:S:1:pos:R:3 name=w{k} charge=0"))
    tracemalloc.start()
    total = sum(len(s) for s in iter_structures(tmp_path / "long.xyz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 9_000 and peak < 2e6
    first = list(itertools.islice(iter_structures(tmp_path / "long.xyz"), 2))
    assert [s.name for s in first] == ["w0", "w1"]


@pytest.mark.parametrize("name", ["list.smi", "molecules.csv"])
def test_smiles_are_pointed_to_the_command_that_makes_structures(tmp_path, name):
    (tmp_path / name).write_text("smiles\nCCO\n")
    with pytest.raises(UserError, match="schnorb_t geometries .* makes structures"):
        list(iter_structures(tmp_path / name))
    with pytest.raises(UserError, match="CCO: no such file.*schnorb_t geometries"):
        list(iter_structures("CCO"))
