"""From a pool in files to chosen molecules in a file."""

import json
import sys

import numpy as np
import pytest
import torch
from ase.io import read, write

from schnorb_t.active.features import look, pooled
from schnorb_t.active.selection import REASONS, Labelled, candidates, select
from schnorb_t.commands import main
from schnorb_t.commands.calibrate import calibrate_model
from schnorb_t.commands.select import select_molecules
from schnorb_t.data.store import Store, StoreWriter
from schnorb_t.errors import UserError
from schnorb_t.predictor import load
from schnorb_t.structures import read_structures
from tests.training.examples import geometries, toy_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(folder, calibrated model, plain model, store, pool): the pool has the molecules of the store and others."""
    folder = tmp_path_factory.mktemp("selection")
    plain, store = toy_files(folder)
    calibrate_model(str(plain), store, output=folder / "sure.ckpt", members=4)
    frames = []
    for seed in range(4):
        for atoms in geometries(seed):
            atoms.info["group"] = atoms.info["name"]
            atoms.info["name"] += f"/{seed}" if seed else ""
            atoms.info["split"] = {"C6H6": "test", "C2H4": "val"}.get(atoms.info["group"], "train")
            frames.append(atoms)
    write(folder / "pool.extxyz", frames, format="extxyz")
    return folder, folder / "sure.ckpt", plain, store, folder / "pool.extxyz"


def test_pooling_weighs_elements_by_their_share():
    scalars = torch.tensor(np.random.default_rng(0).normal(size=(7, 3)))
    element, molecule = torch.tensor([0, 1, 1, 2, 0, 0, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    out = pooled(scalars, element, molecule, 2, 3).reshape(2, 3, 3)
    for m, n in ((0, 4), (1, 3)):
        for e in range(3):
            rows = scalars[(molecule == m) & (element == e)]
            expected = (len(rows) / n) ** 0.5 * rows.mean(0) if len(rows) else torch.zeros(3)
            torch.testing.assert_close(out[m, e], expected.to(out))


def test_doubt_is_that_of_predictions_and_batches_change_nothing(files):
    _, sure, _, _, pool = files
    predictor, structures = load(sure), read_structures(pool)[:20]
    view = look(predictor, structures)
    np.testing.assert_allclose(view.doubt, [p.doubt for p in predictor.predict(structures)], rtol=1e-4)
    alone = look(predictor, structures, batch_size=1, doubt=False)
    assert alone.doubt is None
    np.testing.assert_allclose(alone.features, view.features, atol=2e-5)


def test_features_turn_into_themselves(files):
    _, sure, _, _, pool = files
    atoms = read(pool, 5)
    turned = atoms.copy()
    turned.rotate(77.0, (1.0, 2.0, 3.0))
    predictor = load(sure)
    a, b = (look(predictor, predictor_input, doubt=False).features for predictor_input in _structures(atoms, turned))
    np.testing.assert_allclose(a, b, atol=2e-5)


def _structures(*atoms):
    from schnorb_t.structures import as_structure

    return [[as_structure(a)] for a in atoms]


def test_candidates_are_new_sound_and_of_split_train(files):
    _, sure, _, store_path, pool = files
    structures = read_structures(pool)
    with Store(store_path) as store:
        known = Labelled.of(store)
        trained = set(store.groups[store.indices("train")])
    found, refused = candidates(structures, known, load(sure).basis.elements)
    assert set(found) | set(refused) == set(range(len(structures))) and found
    for place in found:
        s = structures[place]
        assert s.split == "train" and s.name not in known.names and s.group in trained
    by_name = {structures[k].name: why for k, why in refused.items()}
    assert by_name["H2O"] == REASONS[0] and by_name["C6H6/1"] == REASONS[1]
    assert by_name["C2H6/2"] == REASONS[1]  # its other geometry is a test molecule of the store
    only_carbon = candidates(structures, known, (1, 6))[1]
    assert "the model knows only H, C" in next(w for k, w in only_carbon.items() if structures[k].name == "NH3/1")


def test_a_pool_without_splits_is_all_candidates_and_one_with_some_is_not(files):
    from dataclasses import replace

    structures = read_structures(files[4])
    free = [replace(s, split="") for s in structures]
    assert len(candidates(free, Labelled())[0]) == len(structures)
    mixed = [replace(s, split="" if k else "train") for k, s in enumerate(structures)]
    found, refused = candidates(mixed, Labelled())
    assert found == [0] and set(refused.values()) == {REASONS[2]}


def test_failures_are_not_tried_again(files, tmp_path):
    from tests.training.examples import BASIS, Header

    with StoreWriter(tmp_path / "part.h5", Header(BASIS, "toy", {}, {})) as writer:
        writer.add_failure("NH3/1", "did not converge", 0)
    with Store(tmp_path / "part.h5") as store:
        known = Labelled.of(store)
    structures = read_structures(files[4])
    assert "NH3/1" not in {structures[k].name for k in candidates(structures, known)[0]}


@pytest.mark.parametrize("method", ["fps-doubt", "cur", "random"])
def test_the_command_keeps_names_groups_and_splits(files, tmp_path, method, capsys):
    if method != "random":
        pytest.importorskip("skmatter")
    _, sure, _, store, pool = files
    out, numbers = tmp_path / "chosen.extxyz", tmp_path / "out.json"
    argv = ["select", pool, sure, "-n", 6, "--method", method, "--labelled", store, "-o", out, "--json", numbers]
    main(list(map(str, argv)))
    assert "6 of " in capsys.readouterr().out
    result = json.loads(numbers.read_text())
    chosen, originals = read_structures(out), {s.name: s for s in read_structures(pool)}
    assert [s.name for s in chosen] == [c["name"] for c in result["chosen"]] and len(set(chosen)) == 6
    for s in chosen:
        original = originals[s.name]
        assert (s.group, s.split) == (original.group, "train")
        np.testing.assert_allclose(s.positions, original.positions, atol=1e-7)
    with Store(store) as labelled:
        assert not {s.name for s in chosen} & set(labelled.names)
        expected, _ = select(
            read_structures(pool), 6, method=method, predictor=load(sure), labelled=Labelled.of(labelled)
        )
    assert [c.structure.name for c in expected] == [s.name for s in chosen]


def test_what_cannot_be_chosen_is_a_line(files, tmp_path):
    folder, sure, plain, store, pool = files
    output = tmp_path / "chosen.extxyz"
    with pytest.raises(UserError, match="knows no doubt, which --method doubt needs; schnorb_t calibrate"):
        select_molecules([pool], str(plain), output=output, method="doubt")
    benzene = [a for a in read(pool, ":") if a.info["group"] == "C6H6"]
    write(tmp_path / "test.extxyz", benzene, format="extxyz")
    with pytest.raises(UserError, match=r"no molecule left to choose \(4 held out for validation or test\)"):
        select_molecules([tmp_path / "test.extxyz"], str(sure), output=output, method="random")
    odd = read(pool, 0)
    odd.numbers[0], odd.info["name"] = 16, "H2S"
    write(tmp_path / "odd.extxyz", [odd, *read(pool, "1:4")], format="extxyz")
    with pytest.raises(UserError, match=r"structure 0 \(H2S\).*the model knows only"):
        select_molecules([tmp_path / "odd.extxyz"], str(sure), output=output, method="random")
    result = select_molecules([tmp_path / "odd.extxyz"], str(sure), output=output, method="random", skip_bad=True)
    assert len(result["chosen"]) == 3 and len(result["bad"]) == 1
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_random_needs_no_library(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skmatter.sample_selection", None)
    _, sure, _, _, pool = files
    select_molecules([pool], str(sure), output=tmp_path / "a.extxyz", method="doubt", number=2)
    with pytest.raises(UserError, match="scikit-matter"):
        select_molecules([pool], str(sure), output=tmp_path / "b.extxyz", number=2)
