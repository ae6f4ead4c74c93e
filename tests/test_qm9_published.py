"""benchmarks/qm9_published.py, on a table of a few molecules in qm9pack's form."""

import csv
import json

import numpy as np
import pytest
from ase.build import molecule
from ase.data.g2 import molecule_names

import schnorb_t
from schnorb_t.errors import UserError
from schnorb_t.units import HARTREE
from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def script():
    with benchmark_script("qm9_published") as module:
        yield module


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Values that are those of ``hcnof`` on a line, so that a correction leaves nothing."""
    folder = tmp_path_factory.mktemp("qm9pack")
    model = schnorb_t.load("hcnof")
    atoms = [molecule(n) for n in molecule_names]
    known = {1, 6, 7, 8}
    atoms = [a for a in atoms if known.issuperset(a.numbers.tolist()) and a.numbers.sum() % 2 == 0 and len(a) > 3][:24]
    rng = np.random.default_rng(0)
    index = np.sort(rng.choice(133_885, len(atoms), replace=False) + 1)
    with open(folder / "qm9_part1.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Index", "SMILES", "Elements", "XYZ_Ang", "HOMO_au", "LUMO_au"])
        for k, a, x in zip(index, atoms, model.predict(atoms), strict=True):
            symbols = "[" + ",".join(f"'{s}'" for s in a.get_chemical_symbols()) + "]"
            values = [0.9 * e - 0.02 for e in (x.homo, x.lumo)]
            writer.writerow([k, "C", symbols, json.dumps(a.positions.tolist()), *values])
    return folder, index


def test_molecules_are_read_as_published(script, table):
    folder, index = table
    found = script.published(folder, set(index[:5].tolist()))
    assert [m.index for m in found] == index[:5].tolist() and found[0].atoms.numbers.max() <= 8
    assert -20 < found[0].homo < found[0].lumo  # eV
    with pytest.raises(UserError, match="pip install qm9pack"):
        script.published(folder / "absent", {1})


def test_errors_before_and_after_the_correction(script, table):
    pytest.importorskip("tblite")
    folder, index = table
    drawn = np.arange(len(index)) < 10
    molecules = script.published(folder, set(index.tolist()))
    reference = np.array([[m.homo, m.lumo] for m in molecules])
    values = HARTREE * np.array(
        [[x.homo, x.lumo] for x in schnorb_t.load("hcnof").predict([m.atoms for m in molecules])]
    )
    row = script.judge(values, reference, drawn, ~drawn)
    assert row["n"] == len(index) - 10 and row["HOMO"]["slope"] == pytest.approx(0.9, abs=1e-3)
    assert row["HOMO"]["mae_ev"] > 0.1 and row["HOMO"]["mae_ev_corrected"] < 2e-3 > row["LUMO"]["mae_ev_corrected"]
    values[0] = np.nan
    assert np.isfinite(script.judge(values, reference, drawn, ~drawn)["gap"]["mae_ev_corrected"])
    other = script.gfn2(molecules[:3])
    assert other.shape == (3, 2) and (other[:, 0] < other[:, 1]).all()


def test_the_whole_command_leaves_out_what_was_learned(script, table, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tblite")
    folder, index = table
    monkeypatch.setattr(script, "candidates", lambda rng, n: set(index.tolist()))
    monkeypatch.setattr(script, "identities", lambda m: {f"qm9:{m.index}"})
    arguments = ["hcnof", "--data", str(folder), "--molecules", "8", "--correction", "8", "-o", str(tmp_path / "out")]
    script.main(arguments)
    result = json.loads((tmp_path / "out.json").read_text())
    assert set(result["methods"]) == {"hcnof", "GFN2-xTB"} and (tmp_path / "out.png").stat().st_size > 5_000
    assert result["methods"]["hcnof"]["gap"]["mae_ev_corrected"] < 2e-3
    learned = schnorb_t.load("hcnof").card.training_groups[0]
    monkeypatch.setattr(script, "identities", lambda m: {learned})
    with pytest.raises(UserError, match="no model was trained on"):
        script.main(arguments)


def test_names_of_a_molecule_in_stores(script):
    found = script.identities(script.Molecule(7, "OC", molecule("CH3OH"), -7.0, 1.0))
    assert {"qm9:7", "OC", "smiles/OC"} <= found
    pytest.importorskip("rdkit")
    assert "CO" in script.identities(script.Molecule(7, "OC", molecule("CH3OH"), -7.0, 1.0))
