"""The measurement of a label's cost: its ways are the labels' own, and what it reports is what they gave."""

import pytest
from ase.build import molecule
from ase.io import write

from schnorb_t.reference.pyscf import Level
from schnorb_t.structures import read_structures
from tests.benchmark_scripts import benchmark_script

pytest.importorskip("pyscf")


def test_all_ways_end_at_the_same_label(tmp_path):
    write(tmp_path / "water.xyz", molecule("H2O"), format="extxyz")
    with benchmark_script("label_cost") as script:
        (structure,) = script.choose(read_structures([tmp_path / "water.xyz"]), 5, 1, frozenset())
        row = script.measure(structure, Level(basis="sto-3g"), None)
        summary = {line["way"]: line for line in script.summarise([row])}
        script.draw(list(summary.values()), tmp_path / "cost.png")
        assert len(summary) == len(script.WAYS) - 1  # no model, no start from one
        for way in ("orbitals kept on the grid", "exchange by NumPy too", script.DEFAULT.name):
            assert 0 < summary[way]["fock_from_plain"] < 1e-8
        assert summary[script.PLAIN.name]["times_faster"] == 1.0
        assert summary[script.LIMIT.name]["cycles"] > summary[script.PLAIN.name]["cycles"]
        assert summary[script.LIMIT.name]["levels_from_limit"] == 0.0
    assert (tmp_path / "cost.png").stat().st_size > 1000
