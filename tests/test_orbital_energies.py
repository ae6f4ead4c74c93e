"""``benchmarks/orbital_energies.py``: errors against the package's own evaluation, methods against known levels."""

import json

import numpy as np
import pytest
from ase.build import molecule

from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.training.evaluation import baseline_metrics, evaluate_model
from schnorb_t.units import HARTREE
from tests.benchmark_scripts import benchmark_script
from tests.training.examples import fitted_model, record, toy_files


@pytest.fixture(scope="module")
def script():
    with benchmark_script("orbital_energies") as module:
        yield module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbital_energies")
    return toy_files(folder)


def example(name, split):
    atoms = molecule(name)
    atoms.info["name"] = name
    return record(atoms, split)


def test_errors_are_those_of_the_evaluation(script, files, tmp_path, monkeypatch, capsys):
    checkpoint, data = files
    out = tmp_path / "levels"
    arguments = [checkpoint, "--data", data, "--skip", "gfn2", "sto-3g", "--output", out]
    monkeypatch.setattr("sys.argv", ["orbital_energies.py", *map(str, arguments)])
    script.main()
    result = json.loads(out.with_suffix(".json").read_text())
    store = Store(data)
    model = fitted_model(store)
    test = store.indices("test")
    expected = {
        "model": evaluate_model(model, store, test),
        "two-centre": baseline_metrics(store, store.indices("train"), test, model.cutoff)["two_centre"],
    }
    assert list(result["methods"]) == list(expected) and result["molecules"] == len(test)
    for name, row in result["methods"].items():
        for quantity in ("homo", "lumo", "gap"):
            mae = expected[name][f"{quantity}_mae_ev_large_basis"]
            assert row[quantity]["mae_ev"] == pytest.approx(mae, rel=1e-6), (name, quantity)
        assert row["seconds_per_molecule"] > 0
    # the large-basis levels of these examples are those of the stored matrices
    mae = expected["model"]["valence_occupied_energy_mae_ev"]
    assert result["methods"]["model"]["occupied"]["mae_ev"] == pytest.approx(mae, rel=1e-6)
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "corrected on" in capsys.readouterr().out


_NAMES = {"train": ("H2O", "CH4", "NH3", "HCN", "C2H4"), "test": ("CO2", "C2H2")}


def test_correction_is_fitted_on_training_molecules_alone(script):
    """A method that is off by a line on training molecules and by another on test molecules."""
    train, test = ([example(n, split) for n in names] for split, names in _NAMES.items())

    def method(records):
        out = []
        for r in records:
            levels = script.levels_of(r.large_basis_energies, r)
            shift = 1.0 if r.split == "train" else 1.25
            out.append(script.Levels(2.0 * levels.occupied + shift, 2.0 * levels.lumo + shift))
        return out

    row, points = script.judge(method, train, test)
    assert row["homo"]["slope"] == pytest.approx(0.5) and row["homo"]["offset_eh"] == pytest.approx(-0.5)
    assert row["homo"]["mae_ev_corrected"] == pytest.approx(0.125 * HARTREE)
    assert row["gap"]["mae_ev_corrected"] == pytest.approx(0.0, abs=1e-9)
    assert points["lumo"].shape == (3, len(test))


def test_gfn2_has_the_valence_levels_of_water(script):
    pytest.importorskip("tblite")
    (levels,) = script.gfn2([example("H2O", "test")])
    # the ionisation potential of water is 12.6 eV, and GFN2's HOMO near it; 2a1 lies 6-8 eV below the others
    assert len(levels.occupied) == 4 and -13.0 < levels.occupied[-1] * HARTREE < -11.0
    assert levels.occupied[0] < levels.occupied[1] - 0.1 and levels.lumo > levels.occupied[-1]


def test_the_small_basis_is_sto3g(script):
    pyscf_gto = pytest.importorskip("pyscf.gto")
    from pyscf import scf

    level = {"functional": "HF", "basis": "def2-SVP", "density_fitting": False}
    water = example("H2O", "test")
    (levels,) = script.small_basis_scf(level)([water])
    mol = pyscf_gto.M(atom=list(zip("OHH", water.positions, strict=True)), basis="sto-3g", verbose=0)
    energies = scf.RHF(mol).run(conv_tol=1e-10).mo_energy
    np.testing.assert_allclose(levels.occupied, energies[1:5], atol=1e-5)
    assert levels.lumo == pytest.approx(energies[5], abs=1e-5)


def test_output_folder_is_checked_first(script, files, tmp_path, monkeypatch):
    arguments = [files[0], "--data", files[1], "--output", tmp_path / "nowhere" / "x"]
    monkeypatch.setattr("sys.argv", ["orbital_energies.py", *map(str, arguments)])
    with pytest.raises(UserError, match="nowhere"):
        script.main()


def test_records_without_core_have_the_same_levels(script):
    from dataclasses import replace

    whole = example("CO2", "test")
    n_core = (whole.n_electrons - 16) // 2
    assert n_core == 3
    valence = replace(whole, n_electrons=16, large_basis_energies=whole.large_basis_energies[n_core:])
    a, b = (script.levels_of(r.large_basis_energies, r) for r in (whole, valence))
    np.testing.assert_array_equal(a.occupied, b.occupied)
    assert len(a.occupied) == 8 and a.lumo == b.lumo
