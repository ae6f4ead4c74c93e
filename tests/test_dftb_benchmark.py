"""benchmarks/dftb.py: ISO34 with the published error of DFTB3/3ob, files, and bad input in one line."""

import json
import sys

import numpy as np
import pytest
from ase.build import molecule

from schnorb_t.errors import UserError
from tests.benchmark_scripts import benchmark_script
from tests.shared_data import shared_data


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["dftb.py", *map(str, arguments)])
    script.main()


def test_iso34(tmp_path, monkeypatch, capsys):
    sets, iso34 = shared_data("skf/3ob-3-1"), shared_data("iso34")
    with benchmark_script("dftb") as script:
        run(script, monkeypatch, "--skf", sets, "--iso34", iso34, "--out", tmp_path / "new" / "iso", "--dynamics", 0.01)
    found = json.loads((tmp_path / "new" / "iso.json").read_text())
    assert found["mean_absolute_error_kcal_mol"]["DFTB3/3ob-3-1"] == pytest.approx(3.44, abs=0.05)
    assert len(found["reactions"]) == 34
    for method, errors in found["errors_kcal_mol"].items():
        assert found["mean_absolute_error_kcal_mol"][method] == pytest.approx(np.abs(errors).mean())
    assert found["dynamics"]["spread_kelvin"] < 20
    assert (tmp_path / "new" / "iso.png").stat().st_size > 10_000
    assert "3.44" in capsys.readouterr().out


@pytest.mark.slow
def test_ten_picoseconds_at_constant_energy():
    """Of methanol from 300 K: the total energy drifts by less than 1 K per ps."""
    with benchmark_script("dftb") as script:
        found = script.drift(molecule("CH3OH"), script.DFTB(shared_data("skf/3ob-3-1")), 10.0)
    assert abs(found["drift_kelvin_per_ps"]) < 1 and found["spread_kelvin"] < 5


def test_bad_folders_are_told(tmp_path, monkeypatch):
    sets = shared_data("skf/3ob-3-1")
    with benchmark_script("dftb") as script:
        with pytest.raises(UserError, match="reactions.csv: not there"):
            run(script, monkeypatch, "--skf", sets, "--iso34", tmp_path)
        (tmp_path / "reactions.csv").write_text("educt,product,reference_kcal_mol\nA,B,1.0\n")
        with pytest.raises(UserError, match="A.xyz: not there"):
            run(script, monkeypatch, "--skf", sets, "--iso34", tmp_path)
        (tmp_path / "reactions.csv").write_text("educt,product\nA,B\n")
        with pytest.raises(UserError, match="expected columns"):
            run(script, monkeypatch, "--skf", sets, "--iso34", tmp_path)
        with pytest.raises(UserError, match="no such folder"):
            run(script, monkeypatch, "--skf", tmp_path / "no", "--iso34", tmp_path)
