"""``benchmarks/size.py`` in small, and that its molecules are molecules."""

import json

import numpy as np
import pytest

from schnorb_t.structures import Structure, bonds, fault_of
from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def size():
    with benchmark_script("size") as module:
        yield module


@pytest.mark.parametrize("system", ["water", "alkane", "polypeptide"])
@pytest.mark.parametrize("atoms", [40, 200])
def test_molecules_are_sound(size, system, atoms):
    z, r = getattr(size, system)(atoms)
    assert abs(len(z) - atoms) <= 7 and fault_of(Structure(z, r)) == ""
    degree = np.bincount(np.array(sorted(bonds(z, r))).ravel(), minlength=len(z))
    valences = {"water": {8: {2}}, "alkane": {6: {4}}, "polypeptide": {6: {3, 4}, 7: {3}, 8: {1, 2}}}[system]
    for element, allowed in ({1: {1}} | valences).items():
        assert set(degree[z == element].tolist()) <= allowed


@pytest.mark.slow
def test_a_table_of_small_sizes(size, tmp_path, monkeypatch, capsys):
    out = tmp_path / "size"
    arguments = ["--systems", "water", "--atoms", "30", "60", "--output", out]
    monkeypatch.setattr("sys.argv", ["size.py", *map(str, arguments)])
    size.main()
    result = json.loads(out.with_suffix(".json").read_text())
    rows = result["systems"]["water"]
    assert [x["atoms"] for x in rows] == [30, 60] and rows[1]["orbitals"] == 120
    assert set(rows[0]["seconds"]) == set(size.STAGES) and all(x["memory_gib"] > 0 for x in rows)
    assert "agreement" not in rows[0]
    agreement = rows[1]["agreement"]
    assert max(agreement["overlap"], agreement["homo_eh"], agreement["lumo_eh"]) < 1e-6
    assert set(result["exponents"]["water"]) > {"network and assembly", "all", "memory"}
    assert out.with_suffix(".png").stat().st_size > 10_000 and "exponents" in capsys.readouterr().out


def test_exponents(size):
    rows = [
        {"atoms": n, "seconds": {s: n**2.0 for s in size.STAGES}, "memory_gib": n**1.0, "memory_before_gib": 0.0}
        for n in (10, 500, 1000, 4000)
    ]
    rows[0]["seconds"]["network"] = 1e9  # too small to be fitted
    found = size.exponents(rows, 500)
    assert found["network"] == pytest.approx(2) and found["memory"] == pytest.approx(1)
