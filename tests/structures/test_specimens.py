"""Ways in which files say charge, spin, cell, unit, isotopes, records and surroundings; and what is no fault."""

import numpy as np
import pytest

from schnorb_t.errors import UserError
from schnorb_t.structures import fault_of, read_structures
from tests.structures.files import (
    BOHR,
    CARBONATE,
    EXTENDED,
    OXYGEN,
    WATER,
    _mol2,
    _v3000,
    columns,
    put,
    rows,
    sdf_record,
    xyz,
)

SALT = "CELL(abcABC):   20.0    20.0    20.0    90.0    90.0    90.0  Step:           0  Bead:       0 "


def pdb(*atoms: str, head: str = "") -> str:
    return head + "".join(f"{atom}\n" for atom in atoms) + "END\n"


def pdb_atom(n, name, x, y, z, element="", alternate=" ", residue="HOH", charge="") -> str:
    return (
        f"HETATM{n:5d} {name:<4}{alternate}{residue} A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          "
        f"{element:>2}{charge}"
    )


PDB_WATER = tuple(pdb_atom(k, f" {s}{k}", x, y, z, s) for k, (s, x, y, z) in enumerate(WATER, 1))


def gaussian(body: str, route: str = "# hf") -> str:
    return f"%chk=a.chk\n{route}\n\ntitle\n\n{body}\n\n"


CHARGED = {
    "comment_with_colon.xyz": xyz(CARBONATE, EXTENDED + "charge: -2"),
    "json.xyz": xyz(CARBONATE, '{"molecular_charge": -2, "molecular_multiplicity": 1}'),
    "both_slash.xyz": xyz(CARBONATE, "charge/mult = -2/1"),
    "both_comma.xyz": xyz(CARBONATE, "charge, multiplicity: -2, 1"),
    "both_short.xyz": xyz(CARBONATE, "C/M -2 1"),
    "pair_comma.xyz": xyz(CARBONATE, "-2,1"),
    "pair_decimal.xyz": xyz(CARBONATE, "-2.0 1"),
    "pair_and_title.xyz": xyz(CARBONATE, "-2 1 carbonate"),
    "of.xyz": xyz(CARBONATE, "carbonate, charge of -2"),
    "sentence.xyz": xyz(CARBONATE, "The charge is -2."),
    "parentheses.xyz": xyz(CARBONATE, "carbonate (charge=-2)"),
    "minus_sign.xyz": xyz(CARBONATE, "charge: −2"),
    "unit.xyz": xyz(CARBONATE, "charge=-2|e|"),
    "title.xyz": xyz(CARBONATE, "carbonate dianion"),
    "symbols.xyz": xyz([(s + "-" * (k > 1), *x) for k, (s, *x) in enumerate(CARBONATE)]),
    "symbols_1.xyz": xyz([(s + "1-" * (k > 1), *x) for k, (s, *x) in enumerate(CARBONATE)]),
    "oxidation.xyz": columns(CARBONATE, "oxidation_states", (4, -2, -2, -2)),
    "prefixed.xyz": xyz(CARBONATE, EXTENDED + "orca_charge=-2"),
    "continued.sdf": _v3000(CARBONATE, {}).replace(" 1.117 0.0 0\n", " 1.117 -\nM  V30 0.0 0 CHG=-2\n"),
    "zch.sdf": sdf_record(CARBONATE, ["M  ZCH  2   3  -1   4  -1"]),
    "two_lines.sdf": sdf_record(CARBONATE, data="> <Charge>\n\n-2\n\n"),
    "sign_first.pdb": pdb(*(pdb_atom(k, s, *x, s, charge="-1" * (k > 1)) for k, (s, *x) in enumerate(CARBONATE))),
}
OPEN = {
    "s_is_one.xyz": xyz(OXYGEN, "CSD_code = X | q = 0 | S = 1 | Stoichiometry = O2 | MND = 7"),
    "s_squared.xyz": xyz(OXYGEN, "<S^2> = 2.01"),
    "of.xyz": xyz(OXYGEN, "O2, multiplicity of 3"),
    "electrons.xyz": xyz(OXYGEN, "oxygen with 2 unpaired electrons"),
    "title.xyz": xyz(OXYGEN, "oxygen, triplet"),
    "last_word.xyz": xyz(OXYGEN, EXTENDED + "dft_mult=3"),
    "dftb.xyz": xyz(OXYGEN, EXTENDED + "Hamiltonian_SpinPolarisation_UnpairedElectrons=2"),
    "two_lines.sdf": sdf_record(OXYGEN, data="> <Multiplicity>\n\n3\n\n"),
    "variables.gjf": gaussian("0 3\nO\nO 1 R1\n\nR1=1.207"),
}
PERIODIC = {
    "cell.xyz": xyz(WATER, EXTENDED + 'cell="10 0 0 0 10 0 0 0 10"'),
    "unit_cell.xyz": xyz(WATER, EXTENDED + 'unit_cell="10 10 10 90 90 90"'),
    "periodic.xyz": xyz(WATER, EXTENDED + "periodic=True"),
    "i_pi.xyz": xyz(WATER, f"# {SALT}positions{{angstrom}}  cell{{angstrom}}"),
    "a.pdb": pdb(*PDB_WATER, head=f"CRYST1{10:9.3f}{10:9.3f}{10:9.3f}{90:7.2f}{90:7.2f}{90:7.2f} P 1           1\n"),
}
IN_BOHR = {
    "in.xyz": "coordinates in Bohr",
    "by_itself.xyz": "water (Bohr)",
    "atomic.xyz": "coordinates in atomic units",
    "au.xyz": "water, geometry [a.u.]",
    "i_pi.xyz": f"# {SALT}positions{{atomic_unit}}  cell{{atomic_unit}}",
}
SURROUNDED = {
    "charges.gjf": (gaussian(f"0 1\n{rows(WATER)}\n2.0 0.0 0.0 1.0", "# hf charge"), "stands in point charges"),
    "field.gjf": (gaussian(f"0 1\n{rows(WATER)}", "# hf field=x+10"), "stands in an electric field"),
    "nucleus.gjf": (gaussian(f"0 1\n{rows(WATER).replace('H', 'H(ZNuc=1.5)')}"), "nuclear charge of its own"),
    "charges.inp": (f'! HF\n%pointcharges "a.pc"\n* xyz 0 1\n{rows(WATER)}*\n', "stands in point charges"),
    "field.inp": (f"! HF\n%scf efield 0,0,0.01 end\n* xyz 0 1\n{rows(WATER)}*\n", "stands in an electric field"),
    "parts.inp": (f"! QMMM\n%qmmm charge_total 0 end\n* xyz 0 1\n{rows(WATER)}*\n", "force field's surroundings"),
    "nucleus.inp": (f"! HF\n* xyz 0 1\n{rows(WATER)}H 0 0 3 Z=1.5\n*\n", "nuclear charge of its own"),
    "alternate.pdb": (
        pdb(PDB_WATER[0], *(pdb_atom(k, " H1", 0, y, -0.477, "H", "AB"[k]) for k, y in enumerate((0.763, 0.8)))),
        "atom H1 of HOH A 1 has alternate locations A, B; keep one of them",
    ),
    "no_hydrogens.sdf": (
        sdf_record([("C", 0, 0, 0), ("C", 1.5, 0, 0), ("O", 2.2, 1.2, 0)])
        .replace("  3  0  0", "  3  2  0")
        .replace("M  END", "  1  2  1  0\n  2  3  1  0\nM  END"),
        "holds no hydrogen, and its bonds leave room for 5; add hydrogens",
    ),
}
SOUND = {
    "pair.xyz": xyz(WATER, "0 1"),
    "both.xyz": xyz(WATER, "water (charge=0, multiplicity=1)"),
    "names.xyz": xyz(WATER, EXTENDED + 'config_type="ion charge 2 set" source="radical cation"'),
    "gap.xyz": xyz(WATER, "singlet-triplet gap 2.3 eV"),
    "other_units.xyz": xyz(WATER, "forces in Eh/Bohr, dipole in e*Bohr, polarizability 9.8 Bohr^3, energy in au"),
    "angstrom.xyz": xyz(WATER, "converted from Bohr to Angstrom"),
    "collinear.xyz": xyz(WATER, EXTENDED + "spin=collinear"),
    "s.xyz": xyz(WATER, "q = 0 | S = 0"),
    "s_squared.xyz": xyz(WATER, EXTENDED + "S_squared=0.0 spin_orbit=3 e_uhf=2"),
    "flags.xyz": xyz(WATER, EXTENDED + 'Lattice="10 0 0 0 10 0 0 0 10" pbc=FFF'),
    "no_cell.xyz": xyz(WATER, EXTENDED + 'Lattice="0 0 0 0 0 0 0 0 0"'),
    "i_pi.xyz": xyz(WATER, f'# {SALT}positions{{angstrom}} cell{{angstrom}} pbc="F F F"'),
    "zwitterion.xyz": xyz([("O+", 0, 0, 0.119262), ("H-", 0, 0.763239, -0.477), ("H", 0, -0.763239, -0.477)]),
    "names.pdb": pdb(*(pdb_atom(k, f" {s}W{k}"[:4], *x) for k, (s, *x) in enumerate(WATER, 1))),
    "models.pdb": f"MODEL        1\n{pdb(*PDB_WATER)[:-4]}ENDMDL\nEND\n",
    "variables.gjf": gaussian("0 1\nO\nH 1 R\nH 1 R 2 A\n\nR 0.96\nA 104.5"),
    "carbon_dioxide.sdf": sdf_record([("O", -1.16, 0, 0), ("C", 0, 0, 0), ("O", 1.16, 0, 0)])
    .replace("  3  0  0", "  3  2  0")
    .replace("M  END", "  1  2  2  0\n  2  3  2  0\nM  END"),
}
MOLECULE = f"$molecule\n0 1\n{rows(WATER)}$end\n"
SURROUNDED |= {
    "keyword.inp": (f"! QM/XTB\n* xyz 0 1\n{rows(WATER)}*\n", "force field's surroundings (QM/MM)"),
    "crystal.inp": (f"! MOL-CRYSTAL-QMMM\n* xyz 0 1\n{rows(WATER)}*\n", "force field's surroundings"),
    "charges.in": (f"{MOLECULE}$external_charges\n1 0 0 1\n$end\n", "stands in point charges"),
    "fragments.in": (f"{MOLECULE}$efp_fragments\nWATER_L 1 2 3 0 0 0\n$end\n", "stands in effective fragments"),
    "no_hydrogens.mol2": (
        _mol2([("C", 0, 0, 0), ("C", 1.5, 0, 0), ("O", 2.2, 1.2, 0)], "000") + "@<TRIPOS>BOND\n1 1 2 1\n2 2 3 1\n",
        "its bonds leave room for 5",
    ),
    "elsewhere.gjf": ("# hf geom=(check,step=3)\n\nt\n\n0 1\n\n", "geometry from the job's checkpoint (geom=check)"),
    "elsewhere.in": ("$molecule\nread a.xyz\n$end\n", "takes its geometry from a.xyz ($molecule read)"),
}
CHARGED["formal.mol2"] = (
    _mol2(CARBONATE, (0, 0, 0, "****")) + "@<TRIPOS>UNITY_ATOM_ATTR\n3 1\ncharge -1\n4 1\ncharge -1\n"
)
PERIODIC["crystal.mol2"] = _mol2(WATER, (0, 0, 0)) + "@<TRIPOS>CRYSIN\n10 10 10 90 90 90 1 1\n"
BAD = [(n, t, "has charge -2 (") for n, t in CHARGED.items()] + [(n, t, "multiplicity 3 (") for n, t in OPEN.items()]
BAD += [(n, t, "is periodic (") for n, t in PERIODIC.items()] + [(n, *both) for n, both in SURROUNDED.items()]


@pytest.mark.parametrize("name, text, message", BAD, ids=[f"{name}-{message}" for name, _, message in BAD])
def test_what_the_file_says_is_seen(tmp_path, name, text, message):
    (structure,) = read_structures(put(tmp_path, name, text))
    assert message in fault_of(structure), fault_of(structure)


@pytest.mark.parametrize("name", IN_BOHR)
def test_units_in_words(tmp_path, name):
    comment = IN_BOHR[name]
    (structure,) = read_structures(put(tmp_path, name, f"3\n{comment}\n{rows(WATER, 1 / BOHR)}"))
    assert "says that its positions are in" in fault_of(structure) and "0.529177" in fault_of(structure)


@pytest.mark.parametrize("name", SOUND)
def test_what_is_no_fault_passes(tmp_path, name):
    (structure,) = read_structures(put(tmp_path, name, SOUND[name]))
    assert fault_of(structure) == ""


@pytest.mark.parametrize(
    "name, text, masses",
    [
        ("symbols.xyz", xyz([("D", *x) if s == "H" else (s, *x) for s, *x in WATER]), 2.014),
        ("mass.inp", f"! HF\n* xyz 0 1\n{rows(WATER).replace('0.47704700', '0.47704700 M = 2.014')}*\n", 2.014),
        ("mass.gjf", gaussian(f"0 1\n{rows(WATER).replace('H', 'H(Iso=2.0141)')}"), 2.0141),
        ("iso.gjf", gaussian(f"0 1\n{rows(WATER).replace('H', 'H(Iso=2, Spin=1)')}"), 2),
        ("iso.sdf", sdf_record(WATER, ["M  ISO  2   2   2   3   2"]), 2),
        ("v3000.sdf", _v3000(WATER, {1: " MASS=2", 2: " MASS=2"}), 2),
        ("difference.sdf", sdf_record(WATER).replace(" H   0", " H   1"), 2),
        ("d.pdb", pdb(PDB_WATER[0], *(a.replace("H", "D").replace("DETATM", "HETATM") for a in PDB_WATER[1:])), 2.014),
    ],
)
def test_isotopes(tmp_path, name, text, masses):
    (structure,) = read_structures(put(tmp_path, name, text))
    assert fault_of(structure) == "" and structure.atomic_numbers.tolist() == [8, 1, 1]
    assert np.isnan(structure.masses[0]) and structure.masses[1:].tolist() == [masses, masses]


def test_a_z_matrix_with_variables_has_its_geometry(tmp_path):
    (structure,) = read_structures(put(tmp_path, "a.gjf", SOUND["variables.gjf"]))
    x = structure.positions - structure.positions[0]
    assert np.allclose(np.linalg.norm(x[1:], axis=1), 0.96)
    assert np.isclose(np.degrees(np.arccos(x[1] @ x[2] / 0.96**2)), 104.5)


def test_names_of_atoms_without_elements(tmp_path):
    """The alpha carbon is no calcium, the gamma hydrogen of serine no mercury."""
    atoms = [pdb_atom(1, " CA", 0, 0, 0), pdb_atom(2, " N", 1.45, 0, 0), pdb_atom(3, " HG", 0, 0, 1.09)]
    (structure,) = read_structures(put(tmp_path, "a.pdb", pdb(*atoms)))
    assert structure.atomic_numbers.tolist() == [6, 7, 1]
    with pytest.raises(UserError, match="names its element only as 'CA'"):
        read_structures(put(tmp_path, "b.pdb", pdb(pdb_atom(1, "CA", 0, 0, 0, residue="CA"))))


def test_every_job_of_an_output_counts(tmp_path):
    from schnorb_t.structures.with_ase import statements_in_file

    path = put(tmp_path, "a.log", " Charge =  0 Multiplicity = 1\n" * 2 + " Charge =  1 Multiplicity = 2\n")
    said = statements_in_file(path, "gaussian-out")
    assert [(s.kind, s.value) for s in said] == [
        ("charge", "0"), ("charge", "1"), ("multiplicity", "1"), ("multiplicity", "2")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.xyz", b"PK\x03\x04" + bytes(50), "is a zip archive; unpack it"),
        ("b.xyz", b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file"),
        ("c.sdf", bytes(300), "is no text"),
        ("d.xyz", b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        ("e.xyz", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "is a pointer of git-lfs"),
        ("f.nw", b"geometry\nO 0 0 0\nend\n", "an input of NWChem"),
    ],
)
def test_what_is_no_file_of_structures(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_structures(tmp_path / name)


def test_text_of_powershell(tmp_path):
    (tmp_path / "a.xyz").write_bytes(xyz(WATER, "water").encode("utf-16"))
    assert [s.formula for s in read_structures(tmp_path / "a.xyz")] == ["H2O"]


JOBS = {
    "orca.inp": f"! HF\n* xyz 0 1\n{rows(WATER)}*\n$new_job\n! HF Bohrs\n* xyz 0 1\n{rows(WATER, 1 / BOHR)}*\n",
    "back.inp": f"! Bohrs\n* xyz 0 1\n{rows(WATER, 1 / BOHR)}*\n$new_job\n! Angs\n* xyz 0 1\n{rows(WATER)}*\n",
    "comment.inp": f"! HF # of # Bohrs\n* xyz 0 1\n{rows(WATER, 1 / BOHR)}*\n",
    "qchem.in": f"{MOLECULE}@@@\n$molecule\n0 1\n{rows(WATER, 1 / BOHR)}$end\n$rem\ninput_bohr true\n$end\n",
}


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_its_own_unit(tmp_path, name):
    for structure in read_structures(put(tmp_path, name, JOBS[name])):
        assert np.allclose(structure.positions, [x for _, *x in WATER], atol=1e-6)


def test_surroundings_of_a_job_are_those_of_jobs_before_it_too(tmp_path):
    job = f"* xyz 0 1\n{rows(WATER)}*\n"
    field = f"! HF\n{job}$new_job\n%scf efield 0,0,0.01 end\n{job}$new_job\n{job}"
    structures = read_structures(put(tmp_path, "a.inp", field))
    assert ["field" in fault_of(s) for s in structures] == [False, True, True]


@pytest.mark.parametrize(
    "name, text, named",
    [
        ("psi.dat", f"molecule w {{\n0 1\n{rows(WATER)}}}\nenergy('scf')\n", "an input of Psi4"),
        ("psi.in", f"molecule {{\n0 1\n{rows(WATER)}}}\n", "an input of Psi4"),
        ("a.nwi", f"geometry units au\n{rows(WATER)}end\ncharge -2\ntask scf\n", "an input of NWChem"),
        ("a.com", f"***,t\ngeometry={{\n3\nt\n{rows(WATER)}}}\nhf\n", "an input of Molpro"),
        ("a.dat", "PM7 CHARGE=-2\nt\n\nO 0 1 0 1 0 1\nH 0 1 1 1 0 1\n", "an input of MOPAC"),
        ("a.inp", " $CONTRL SCFTYP=RHF UNITS=BOHR $END\n $DATA\nt\nC1\nO 8.0 0 0 0\n $END\n", "an input of GAMESS"),
        ("a.mol", "BASIS\nsto-3g\nt\n\nAtomtypes=1\nCharge=8.0 Atoms=1\nO 0 0 0\n", "an input of Dalton"),
        ("cp2k.inp", f"&FORCE_EVAL\n&SUBSYS\n&COORD\n{rows(WATER)}&END\n&END\n&END\n", "an input of CP2K"),
        ("a.py", "from ase import Atoms\natoms = Atoms('H2')\n", "an input of Python"),
        ("b.dat", rows(WATER), "taken for the format"),
        ("control", "$coord file=coord2\n$end\n", "stands in another file (coord2)"),
        ("qst.gjf", gaussian(f"0 1\n{rows(WATER)}\nt\n\n0 1\n{rows(WATER)}", "# hf opt=qst2"), "several geometries"),
    ],
)
def test_inputs_that_are_not_read_are_refused_by_name(tmp_path, name, text, named):
    with pytest.raises(UserError) as told:
        read_structures(put(tmp_path, name, text))
    message = str(told.value)
    assert named in message and "\n" not in message and "Error" not in message
