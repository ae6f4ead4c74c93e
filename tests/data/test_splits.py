"""Splits keep groups whole, depend on seed and group alone, and reach what they promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schnorb_t.data.check import check
from schnorb_t.data.splits import (
    draw,
    link_duplicates,
    main,
    murcko_scaffolds,
    split_by_group,
    split_by_scaffold,
    split_by_size,
)
from schnorb_t.data.store import Store, StoreWriter
from schnorb_t.errors import UserError
from tests.data.store_examples import HEADER, example


def test_shares_are_met_and_groups_are_whole():
    groups = [f"molecule {i // 3}" for i in range(30000)]
    splits = split_by_group(groups, (0.7, 0.2, 0.1), seed=4)
    of_group = {}
    for group, split in zip(groups, splits, strict=True):
        assert of_group.setdefault(group, split) == split
    for split, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        # 10,000 groups: three standard deviations are below 0.015
        assert (splits == split).mean() == pytest.approx(share, abs=0.015)


def test_split_depends_on_seed_and_group_alone():
    groups = np.array([f"molecule {i}" for i in range(500)])
    splits = split_by_group(groups, seed=1)
    shuffled = np.random.default_rng(0).permutation(500)
    assert (split_by_group(groups[shuffled], seed=1) == splits[shuffled]).all()
    assert (split_by_group(groups[:100], seed=1) == splits[:100]).all()  # a file that grew
    assert (split_by_group(groups, seed=2) != splits).any()
    assert draw("CCO", 0) == 0.7967194882394115  # the same on every machine, for ever


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_bad_fractions(fractions):
    with pytest.raises(UserError, match="sum to 1"):
        split_by_group(["a"], fractions)


def test_an_empty_split_is_an_error():
    with pytest.raises(UserError, match="'(val|test)'.*came out empty"):
        split_by_group(["a", "b"], (0.98, 0.01, 0.01))


def test_by_size():
    n_heavy = np.repeat([7, 8, 9], 40)
    groups = [f"molecule {i}" for i in range(120)]
    splits = split_by_size(n_heavy, groups, 8, 0.2)
    assert (splits[n_heavy == 9] == "test").all()
    assert set(splits[n_heavy < 9]) == {"train", "val"}
    with pytest.raises(UserError, match="no molecule with more than 9 heavy atoms; there are 7 to 9"):
        split_by_size(n_heavy, groups, 9)
    with pytest.raises(UserError, match="no molecule with at most 6"):
        split_by_size(n_heavy, groups, 6)


def test_by_scaffold():
    pytest.importorskip("rdkit")
    benzenes = ["Cc1ccccc1", "CCc1ccccc1", "OC(=O)c1ccccc1"]
    others = ["C1CCCCC1O", "CCO", "CCN", "OCC"]
    benzene, *_ = murcko_scaffolds(benzenes)
    assert murcko_scaffolds(benzenes) == [benzene] * 3 == ["c1ccccc1"] * 3
    cyclohexane, ethanol, amine, same = murcko_scaffolds(others)
    assert cyclohexane == "C1CCCCC1" and ethanol == same != amine
    assert murcko_scaffolds(["C[C@H]1CCO1", "C[C@@H]1CCO1"]) == ["C1COC1"] * 2  # enantiomers
    rings = [f"C{'C' * n}{ring}" for ring in ("c1ccccc1", "C1CC1", "C1CCC1", "C1CCCC1", "C1COC1") for n in range(6)]
    splits = split_by_scaffold(rings, (0.4, 0.3, 0.3), seed=3).reshape(5, 6)
    assert (splits == splits[:, :1]).all() and len(set(splits[:, 0])) == 3
    with pytest.raises(UserError, match="'not a smiles' is not a SMILES"):
        murcko_scaffolds(["CCO", "not a smiles"])
    with pytest.raises(UserError, match="'' is not a SMILES"):
        murcko_scaffolds([""])


@pytest.fixture
def path(tmp_path):
    """60 molecules, group i // 2, and a copy of molecule 0 under another group."""
    path = tmp_path / "molecules.h5"
    with StoreWriter(path, HEADER) as writer:
        for i in range(60):
            writer.add(replace(example(i), split=""))
        writer.add(replace(example(0), split="", name="copy", group="another name", order=60))
    return path


def test_duplicates_share_a_group(path):
    with Store(path) as store:
        linked = link_duplicates(store, store.groups.tolist())
        assert linked[60] == linked[0] == linked[1] == "another name"
        assert linked[2:60].tolist() == store.groups[2:60].tolist()


def test_command_writes_a_split_that_the_check_accepts(path, capsys):
    for seed in range(8):  # a split that parted the two copies would show in one of these
        main([str(path), "--seed", str(seed), "--fractions", "0.6", "0.2", "0.2"])
        with Store(path) as store:
            assert (store.splits != "").all()
        assert not check(path).errors
    printed = capsys.readouterr().out
    assert "train" in printed and "test" in printed and "heavy atoms" in printed


def test_command_by_size(path):
    # groups of unlike molecules, as of the reactants and products of one reaction, cannot be split by size
    with pytest.raises(UserError, match="'group .*' has molecules with at most and with more than 2 heavy atoms"):
        main([str(path), "--by", "size", "--largest-in-training", "2"])
    path.unlink()
    with StoreWriter(path, HEADER) as writer:
        for i in range(60):
            writer.add(replace(example(i), split="", group=f"molecule {i}"))
    main([str(path), "--by", "size", "--largest-in-training", "2"])
    with Store(path) as store:
        heavy = np.array([(store.atomic_numbers_of(i) > 1).sum() for i in range(len(store))])
        assert (heavy[store.indices("test")] == 3).all() and (heavy[store.indices("train")] <= 2).all()
    assert not check(path).errors


def test_command_refuses(path):
    with pytest.raises(UserError, match="--largest-in-training"):
        main([str(path), "--by", "size"])
    with pytest.raises(UserError, match="not a SMILES"):
        pytest.importorskip("rdkit")
        main([str(path), "--by", "scaffold"])
    with Store(path) as store:
        assert (store.splits == "").all()  # nothing half-written
