"""From SMILES to relaxed and hot geometries."""

import numpy as np
import pytest
from ase.io import read

from schnorb_t.errors import UserError
from schnorb_t.reference.geometries import (
    GeometryJob,
    Molecule,
    Policy,
    embed,
    parse,
    read_molecules,
    selected,
)
from schnorb_t.reference.geometry_file import GeometryFile, complete_frames
from schnorb_t.reference.pyscf import LabelError

pytest.importorskip("rdkit")
pytest.importorskip("tblite")
#: Short: these tests ask how it is done, not how hot it gets.
QUICK = Policy(duration=5.0)


@pytest.mark.parametrize(
    "smiles,reason",
    [
        ("C1CC", "cannot read"),
        ("[Na+]", "charge 1"),
        ("C[CH2]", "radical"),
        ("O=O", ""),
        ("C.C", "several molecules"),
        ("[NH3+]CC(=O)[O-]", ""),
    ],
)
def test_only_neutral_closed_shell_molecules_in_one_piece(smiles, reason):
    if not reason:
        parse(smiles)
        return
    with pytest.raises(LabelError, match=reason):
        parse(smiles)


def test_lists_of_molecules(tmp_path):
    csv, smi = tmp_path / "a.csv", tmp_path / "b.smi"
    csv.write_text("order,split,smiles,name\n7,test,CCO,\n8,,CC,ethane\n")
    assert read_molecules(csv, "mine", "val") == [
        Molecule("CCO", "mine:7", "test", 7),
        Molecule("CC", "ethane", "val", 8),
    ]
    smi.write_text("# comment\nCCO some name\n\nCC\n")
    assert read_molecules(smi) == [Molecule("CCO", "some name", "", 0), Molecule("CC", "b:1", "", 1)]
    assert [m.order for m in selected(read_molecules(csv), max_heavy_atoms=2)] == [8]
    assert [m.order for m in selected(read_molecules(csv), orders=(7, 8))] == [7]
    assert [m.order for m in selected(read_molecules(csv), splits=["test"])] == [7]


@pytest.mark.parametrize(
    "text,message",
    [
        ("name\nx\n", "no column 'smiles'"),
        ("smiles\n", "no molecule"),
        ("smiles,order\nC,first\n", "order 'first' of C"),
        ("smiles,name\nC,a\nCC,a\n", "2 molecules are called 'a'"),
    ],
)
def test_broken_lists_are_named(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_molecules(path)
    with pytest.raises(UserError, match="no such file"):
        read_molecules(tmp_path / "absent.csv")


def test_policy_draws_by_name_and_refuses_nonsense():
    policy = Policy()
    plans = [policy.plan(Molecule("C", f"m:{i}", "train")) for i in range(2000)]
    hot = np.array([plan["hot"] for plan in plans if "hot" in plan])
    assert len(hot) / len(plans) == pytest.approx(0.6, abs=0.04)
    assert 200 <= hot.min() < 230 and 770 < hot.max() <= 800 and abs(hot.mean() - 500) < 20
    assert (
        policy.plan(Molecule("C", "a", "test")) == policy.plan(Molecule("C", "a", "val")) == {"relaxed": 0, "hot": 500}
    )
    for options in ({"hot_fraction": 1.5}, {"temperatures": (800, 200)}, {"time_step": 5.0}, {"duration": 0.0}):
        with pytest.raises(UserError):
            Policy(**options)


def test_geometries_depend_on_the_name_alone_and_say_what_they_are():
    molecule = Molecule("CC(C)S", "mine:3", "test", 3)
    relaxed, hot = GeometryJob(QUICK)(molecule)
    again = GeometryJob(QUICK)(molecule)
    other = GeometryJob(QUICK)(Molecule("CC(C)S", "mine:4", "test", 4))
    assert np.abs(again[1].positions - hot.positions).max() < 1e-9
    assert np.abs(other[1].positions - hot.positions).max() > 1e-2
    assert np.abs(hot.positions - relaxed.positions).max() > 1e-2
    assert hot.info == {
        "name": "mine:3:hot",
        "group": "CC(C)S",
        "split": "test",
        "kind": "hot",
        "temperature": 500,
        "order": 3,
        "smiles": "CC(C)S",
    }


def test_relaxed_geometries_are_minima_and_hot_ones_have_the_temperature_s_energy():
    """Potential energy of 3n - 6 harmonic modes at T: (3n - 6) kT / 2 each; 80 fs from rest reach four fifths."""
    from ase import units
    from tblite.ase import TBLite

    ratios = []
    for i, smiles in enumerate(["CCO", "CC(=O)Cl", "CNC", "CSC", "C[SiH](C)C", "COB(C)C"]):
        relaxed, hot = GeometryJob(Policy(test_temperature=300.0))(Molecule(smiles, f"m:{i}", "test", i))
        for atoms in (relaxed, hot):
            atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
        assert np.linalg.norm(relaxed.get_forces(), axis=1).max() < 0.05
        energy = hot.get_potential_energy() - relaxed.get_potential_energy()
        ratios.append(2 * energy / ((3 * len(hot) - 6) * units.kB * 300.0))
    assert 0.55 < np.mean(ratios) < 1.15


def test_a_changed_molecule_is_refused_with_the_bond():
    with pytest.raises(LabelError, match=r"bond N\d+-H\d+ broke"):  # this zwitterion hands its proton over in vacuum
        GeometryJob(QUICK)(Molecule("[NH3+]CC(=O)[O-]", "glycine", "train"))
    _, graph = parse("CCCC")
    atoms = embed("CCCC", 1)
    assert graph.change(atoms.positions) == ""
    stretched = atoms.positions.copy()
    stretched[3] += 5.0
    assert "C2-C3 broke" in graph.change(stretched)
    closed = atoms.positions.copy()
    closed[3] = closed[0] + [1.2, 0.0, 0.0]
    assert "broke" in graph.change(closed) or "C0-C3 formed" in graph.change(closed)


def test_the_file_survives_being_cut_anywhere(tmp_path):
    job, path = GeometryJob(QUICK), tmp_path / "out.xyz"
    molecules = [Molecule("C/C=C\\F", "a:0", "test", 0), Molecule("[H]C#N", "a 1", "val", 1)]
    frames = [job(m) for m in molecules]
    file = GeometryFile(path)
    for f in frames:
        file.add(f)
    whole = path.read_bytes()
    assert read(path, ":")[0].info["smiles"] == "C/C=C\\F"
    assert complete_frames(path)[0] == ["a:0:relaxed", "a:0:hot", "a 1:relaxed", "a 1:hot"]
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        again = GeometryFile(path)
        assert whole.startswith(path.read_bytes())
        for f in frames:
            again.add(f)
        assert path.read_bytes() == whole


def test_failures_are_kept_and_can_be_forgotten(tmp_path):
    file = GeometryFile(tmp_path / "out.xyz")
    file.add_failure(Molecule("C,C", "odd, name", "train", 5), "two\nlines")
    file.add_failure(Molecule("CC", "b", "train", 6), "why")
    again = GeometryFile(tmp_path / "out.xyz")
    assert again.failures == {"odd, name": "two lines", "b": "why"}
    again.forget_failures()
    assert GeometryFile(tmp_path / "out.xyz").failures == {}


def test_a_full_disk_leaves_no_half_frame(tmp_path, monkeypatch):
    import os

    file = GeometryFile(tmp_path / "out.xyz")
    frames = GeometryJob(QUICK)(Molecule("CO", "methanol", "test"))
    file.add(frames[:1])
    before = file.path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            file.add(frames)
    assert file.path.read_bytes() == before
    file.add(frames)
    assert complete_frames(file.path)[0] == ["methanol:relaxed", "methanol:hot"]


def test_another_file_is_not_overwritten(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(UserError, match="notes.txt"):
        GeometryFile(path)
    assert path.read_text() == "my notes\n"


def test_command_continues_and_lists_failures(tmp_path):
    from schnorb_t.commands.geometries import geometries

    listed, output = tmp_path / "list.smi", tmp_path / "out.xyz"
    listed.write_text("CO methanol\n[NH4+] ammonium\nCN amine\n")
    result = geometries(listed, output=output, duration=2.0, workers=1, split="test")
    assert result["geometries"] == result["added"] == 4
    assert result["failures"] == [["ammonium", "has charge 1; geometries are made for neutral molecules"]]
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) * 3 // 4])
    result = geometries(listed, output=output, duration=2.0, workers=1, split="test")
    assert result["geometries"] == 4 and 0 < result["added"] < 4
    assert sorted(a.info["name"] for a in read(output, ":")) == [
        "amine:hot",
        "amine:relaxed",
        "methanol:hot",
        "methanol:relaxed",
    ]
    with pytest.raises(UserError, match="none of its 3 molecules"):
        geometries(listed, output=output, orders=(10, 20))
