import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from scipy.spatial.transform import Rotation

from schnorb_t.errors import UserError
from schnorb_t.structures import fault_of, from_atoms, graph_key, open_shell, read_for_labels, read_structures
from tests.structures.files import WATER, put, xyz


def test_graph_key_is_blind_to_order_and_conformer():
    atoms = molecule("CH3CH2OH")
    rng = np.random.default_rng(0)
    shuffled = atoms[rng.permutation(len(atoms))]
    turned = atoms.positions @ Rotation.random(rng=rng).as_matrix() + rng.normal(scale=0.02, size=(9, 3))
    key = graph_key(atoms.numbers, atoms.positions)
    assert key.startswith("C2H6O:")
    assert graph_key(shuffled.numbers, shuffled.positions) == key
    assert graph_key(atoms.numbers, turned) == key


def test_graph_key_tells_isomers_apart():
    names = ("C3H4_C2v", "C3H4_C3v", "C3H4_D2d", "isobutene", "cyclobutane", "butadiene", "2-butyne", "cyclobutene")
    mols = [molecule(n) for n in names]
    assert len({graph_key(a.numbers, a.positions) for a in mols}) == len(names)


def test_extended_xyz_keeps_names_and_groups(tmp_path):
    atoms = molecule("H2O")
    atoms.info.update(name="w/0", group="w", split="val")
    write(tmp_path / "a.xyz", [atoms, molecule("CH4")], format="extxyz")
    first, second = read_for_labels([tmp_path / "a.xyz"])
    assert (first.name, first.group, first.split, first.order) == ("w/0", "w", "val", 0)
    assert (second.name, second.order) == ("a:1", 1) and second.group.startswith("CH4:")


def test_files_are_read_in_order_and_names_must_differ(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path / "a.xyz", molecule("H2"))
    write(tmp_path / "c.xyz", molecule("HF"))
    write(tmp_path / "b" / "a.xyz", molecule("N2"))
    assert [s.name for s in read_for_labels([tmp_path / "c.xyz", tmp_path / "a.xyz"])] == ["c:0", "a:0"]
    with pytest.raises(UserError, match="'a:0'"):
        read_for_labels([tmp_path / "a.xyz", tmp_path / "b" / "a.xyz"])


@pytest.mark.parametrize("content", ["", "3\n\nH 0 0 0\n", "no structure at all"])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "bad.xyz"
    path.write_text(content)
    with pytest.raises(UserError, match="bad.xyz"):
        read_for_labels([path])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.xyz: no such file"):
        read_for_labels([tmp_path / "gone.xyz"])


def structure(atoms):
    return from_atoms(atoms, "x", 0)


@pytest.mark.parametrize(
    "atoms,fault",
    [
        (Atoms("H2", [[0, 0, 0], [0, np.nan, 0]]), "atom 1 (H) is NaN"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.1]]), "atoms 0 (H) and 1 (H) overlap: 0.100"),
        (Atoms(), "no atoms"),
        (Atoms("XH", [[0, 0, 0], [0, 0, 1]]), "no element"),
        (Atoms("NaH", [[0, 0, 0], [0, 0, 1.9]]), "holds Na"),
        (Atoms("HF", [[0, 0, 0], [0, 0, 0.92]], info={"charge": -1}), "charge -1"),
        (Atoms("HF", [[0, 0, 0], [0, 0, 0.92]]), ""),
    ],
)
def test_faults(atoms, fault):
    found = fault_of(structure(atoms), elements=(1, 6, 7, 8, 9))
    assert fault in found and bool(fault) == bool(found)


def test_open_shells_are_seen():
    assert "9 electrons" in open_shell(structure(molecule("OH")))
    assert "multiplicity 3" in open_shell(structure(molecule("O2")))
    assert "multiplicity 3" in open_shell(structure(Atoms("O2", [[0, 0, 0], [0, 0, 1.2]], info={"multiplicity": 3})))
    assert open_shell(structure(molecule("N2"))) == ""


def test_isotopes_reach_store_predictions_and_orca(tmp_path):
    pytest.importorskip("tblite")
    import h5py

    from schnorb_t.commands.label_xtb import label_xtb
    from schnorb_t.commands.predict import predict
    from schnorb_t.commands.write_orca import write_orca
    from schnorb_t.data.store import Store

    heavy = [("D", *x) if s == "H" else (s, *x) for s, *x in WATER]
    path = put(tmp_path, "a.xyz", xyz(WATER, "") + xyz(heavy, ""))
    label_xtb([path], output=tmp_path / "l.h5")
    with Store(tmp_path / "l.h5") as store:
        assert store[0].masses is None and store.has("masses").tolist() == [False, True]
        assert np.allclose(store[1].masses, [15.999, 2.014, 2.014])
    predict("hcnof", path, output=tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        assert "masses" not in file["000000"]
        assert np.allclose(file["000001/masses"][:], [15.999, 2.014, 2.014])
    write_orca([path], output=tmp_path / "runs")
    text = (tmp_path / "runs" / "a_1.inp").read_text()
    assert text.count("M=2.014") == 2 and "M=" not in (tmp_path / "runs" / "a_0.inp").read_text()
    (again,) = read_structures(tmp_path / "runs" / "a_1.inp")
    assert again.masses[1:].tolist() == [2.014, 2.014]


def test_long_files_are_not_kept_in_memory(tmp_path, monkeypatch):
    """With a limit of two structures in memory: the same files, the same faults, windows of two."""
    import h5py

    from schnorb_t.commands.predict import predict
    from schnorb_t.structures import LabelFiles, StructureFile, reading

    path = put(tmp_path, "a.xyz", "".join(xyz(WATER, f"name=w{k}") for k in range(7)) + xyz(WATER, "charge=1"))
    predict("hcnof", path, output=tmp_path / "short.h5", skip_bad=True)
    monkeypatch.setattr(reading, "HELD", 2)
    predict("hcnof", path, output=tmp_path / "long.h5", skip_bad=True)
    with h5py.File(tmp_path / "short.h5") as short, h5py.File(tmp_path / "long.h5") as long:
        assert list(short) == list(long) and len(short) == 7 and short.attrs["skipped"] == long.attrs["skipped"]
        for name in short:
            assert np.allclose(short[name]["hamiltonian"][:], long[name]["hamiltonian"][:], atol=1e-6)
    read = StructureFile(path)
    list(read)
    assert read.count == 8 and read._held is None
    assert [places for places, _ in read.windows([0, 3, 4, 7], 2)] == [[0, 3], [4, 7]]
    files = LabelFiles([path])
    assert [s.name for s in files] == [*(f"w{k}" for k in range(7)), "a:7"] == list(files.orders)
    assert files._held is None and files.elements["w0"] == {1, 8}
    put(tmp_path, "a.xyz", xyz(WATER))
    with pytest.raises(UserError, match="changed while it was in use"):
        list(files)
