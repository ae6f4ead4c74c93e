"""``benchmarks/model_card.py``: rows, groups and the judgement of doubt."""

import json

import numpy as np
import pytest
from ase.build import molecule

from tests.benchmark_scripts import benchmark_script
from tests.training.examples import record, toy_files

pytest.importorskip("rdkit")


@pytest.fixture(scope="module")
def script():
    with benchmark_script("model_card") as module:
        yield module


def example(name, group=""):
    from dataclasses import replace

    atoms = molecule(name)
    atoms.info["name"] = name
    return replace(record(atoms, "test"), group=group)


def test_it_writes_tables_and_pictures(script, tmp_path, monkeypatch):
    checkpoint, data = toy_files(tmp_path)
    arguments = [checkpoint, data, "-o", tmp_path / "card"]
    monkeypatch.setattr("sys.argv", ["model_card.py", *map(str, arguments)])
    script.main()
    result = json.loads((tmp_path / "card.json").read_text())
    everything = result["errors"]["all"]["all"]
    assert everything["n"] == result["molecules"] == len(result["of_molecules"])
    mean = 1e3 * np.mean([abs(e["homo"]) for e in result["of_molecules"]])
    assert everything["homo_mev"] == pytest.approx(mean)
    assert "| heavy atoms |" in (tmp_path / "card.md").read_text()
    for name in ("card_errors.png", "card_worst.png"):
        assert (tmp_path / name).stat().st_size > 1_000


def test_molecules_fall_into_their_rows(script):
    records = [example("CH3OH"), example("HCN"), example("CH3NO2", "C[N+](=O)[O-]"), example("CH4", "not a smiles")]
    molecules = [script.molecule_of(r) for r in records]
    rows = script.rows_of(records, molecules)
    groups = rows["functional group"]
    assert groups["alcohol"] == [0] and groups["nitrile"] == [1] and groups["nitro"] == [2]
    assert rows["source"] == {"CH3OH": [0], "HCN": [1], "CH3NO2": [2], "CH4": [3]}
    assert "zwitterion" not in groups and "amine" not in groups
    assert rows["element"]["N"] == [1, 2] and rows["geometry"] == {"relaxed": [0, 1, 2, 3]}


def test_a_zwitterion_is_one(script):
    from rdkit import Chem

    pattern = Chem.MolFromSmarts(script.GROUPS["zwitterion"])
    assert Chem.MolFromSmiles("[NH3+]CC(=O)[O-]").HasSubstructMatch(pattern)
    assert not Chem.MolFromSmiles("C[N+](=O)[O-]").HasSubstructMatch(pattern)


def test_doubt_is_judged(script):
    gaps = (0.1, 0.2, 0.5, 0.9)
    errors = [
        {"homo": -0.5 * g, "lumo": 0.5 * g, "gap": g, "spread": [0.4 * g, 0.6 * g], "doubt": 0.6 * g} for g in gaps
    ]
    doubt = script.judge_doubt(errors)
    assert doubt["coverage_1_sigma"] == 0.5 and doubt["coverage_2_sigma"] == 1.0
    assert doubt["spearman_with_gap_error"] == pytest.approx(1.0) and doubt["auroc_gap_error"] == 1.0
    assert 0 <= doubt["spearman_of_an_exact_doubt"] < 1
    assert script.judge_doubt([{**errors[0], "spread": None}]) is None
