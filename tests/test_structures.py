"""Structures from files, and every fault that is found before any work."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2
from ase.io import write

from schnorb_t.errors import UserError
from schnorb_t.structures import MAX_LISTED, check_structure, check_structures, fault_of, read_structures

ELEMENTS = (1, 6, 7, 8, 9)


def water(**info) -> Atoms:
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


def changed(name: str, change) -> Atoms:
    atoms = molecule(name)
    change(atoms)
    return atoms


def test_sound_molecules_have_no_fault():
    for name in g2.names:
        atoms = g2[name]
        closed = atoms.numbers.sum() % 2 == 0 and not atoms.get_initial_magnetic_moments().any()
        if closed and set(atoms.numbers) <= set(ELEMENTS):
            assert fault_of(atoms, ELEMENTS) == "", name


@pytest.mark.parametrize("name", ["N2", "C2H2", "CO", "C6H6", "H2", "F2", "LiF"])
def test_a_molecule_squeezed_by_30_percent_passes(name):
    atoms = molecule(name)
    atoms.positions *= 0.7
    assert fault_of(atoms, (3, *ELEMENTS)) == ""


FAULTS = {
    "empty": (Atoms(), "no atoms"),
    "nan": (changed("H2O", lambda a: a.positions.__setitem__((1, 2), np.nan)), r"atom 1 \(H\) is NaN or infinite"),
    "infinite": (changed("H2O", lambda a: a.positions.__setitem__((0, 0), np.inf)), r"atom 0 \(O\) is NaN"),
    "unknown element": (molecule("SiH4"), "holds Si, and the model knows only H, C, N, O, F"),
    "dummy atom": (Atoms("XH2", [[0, 0, 0], [0, 0, 1], [0, 1, 0]]), "holds X"),
    "same place": (
        Atoms("H2OO", [[0, 0.8, 0.6], [0, -0.8, 0.6], [0, 0, 0], [0, 0, 0]]),
        r"2 \(O\) and 3 \(O\).*0.000 Å",
    ),
    "bohr by mistake": (changed("CH4", lambda a: a.set_positions(0.3 * a.positions)), "overlap.*not in Å"),
    "odd": (molecule("CH3"), "open shell: 9 electrons, an odd number"),
    "charged": (water(charge=1), r"charge \+1"),
    "charged anion": (water(charge="-2"), "charge -2"),
    "charge is text": (water(charge="many"), "no number.*many"),
    "triplet": (molecule("O2"), "open shell"),
    "multiplicity": (water(multiplicity=3), "open shell"),
    "periodic": (bulk("C"), "periodic"),
    "periodic in one direction": (changed("H2O", lambda a: a.set_pbc((True, False, False))), "periodic"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_with_file_and_structure(fault):
    atoms, message = FAULTS[fault]
    with pytest.raises(UserError, match=f"(?s)some.xyz, structure 3.*{message}"):
        check_structure(atoms, ELEMENTS, 3, "some.xyz")


def test_all_structures_are_checked_and_named():
    structures = [water(), molecule("CH3"), water(name="ion", charge=1), water()]
    with pytest.raises(UserError) as error:
        check_structures(structures, ELEMENTS, "some.xyz")
    text = str(error.value)
    assert "2 of 4" in text and "structure 1: open shell: 9 electrons" in text
    assert "structure 2 (ion): has charge +1 (charge)" in text
    assert "--skip-bad" in text
    assert check_structures(structures, ELEMENTS, "some.xyz", skip_bad=True)[0] == [0, 3]
    with pytest.raises(UserError, match="2 of 2"):
        check_structures(structures[1:3], ELEMENTS, skip_bad=True)
    assert check_structures(structures[:1], ELEMENTS) == ([0], [])


def test_a_long_list_of_faults_is_cut():
    with pytest.raises(UserError) as error:
        check_structures([molecule("CH3")] * 40, ELEMENTS)
    assert str(error.value).count("structure ") == MAX_LISTED and f"{40 - MAX_LISTED} more" in str(error.value)


def test_files_of_several_formats(tmp_path):
    molecules = [molecule("CH4"), molecule("H2O")]
    for name in ("a.xyz", "a.traj", "a.json"):
        write(tmp_path / name, molecules)
        found = read_structures(tmp_path / name)
        assert [a.formula for a in found] == ["CH4", "H2O"]
        assert np.allclose(found[1].positions, molecules[1].positions, atol=1e-7)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no such file"),
        ("", "is empty"),
        ("this is\nno structure\n", "cannot read structures"),
        ("3\ncut off\nO 0 0 0\n", "announces 3 atoms, and there are 1"),
        ("1\nfirst\nO 0 0 0\n2\nsecond\nH 0 0 zero\nH 0 0 1\n", "structure 1 cannot be read"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "bad.xyz"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_structures(path)
    assert "bad.xyz" in str(error.value)


def test_an_xyz_file_with_an_empty_structure(tmp_path):
    (tmp_path / "empty.xyz").write_text("0\nnothing\n")
    with pytest.raises(UserError, match="structure 0: has no atoms|cannot read|no structure"):
        check_structures(read_structures(tmp_path / "empty.xyz"), ELEMENTS, tmp_path / "empty.xyz")
