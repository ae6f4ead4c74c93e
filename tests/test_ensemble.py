"""``python -m schnorb_t.ensemble``, and what an ensemble's predictions say besides."""

import dataclasses
import os

import h5py
import numpy as np
import pytest
import torch
from ase.io import write

import schnorb_t
from schnorb_t import ensemble, predict
from schnorb_t.errors import UserError, run_command
from schnorb_t.predictor import load
from schnorb_t.training.checkpoint import load_model, load_single, write_checkpoint
from tests.training.examples import fitted_model, geometries, write_store
from tests.training.examples import write_checkpoint as save


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two members with different weights, and the ensemble of them."""
    folder = tmp_path_factory.mktemp("members")
    store = write_store(folder / "toy.h5")
    for name, seed in (("a", 1), ("b", 2)):
        model = fitted_model(store, seed)
        with torch.no_grad():
            model.scale.onsite.fill_(0.01)
        save(folder / f"{name}.ckpt", model, store)
    ensemble.main([str(folder / "a.ckpt"), str(folder / "b.ckpt"), "-o", str(folder / "both.ckpt")])
    return folder


def fails(capsys, command, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: command.main([str(a) for a in arguments]))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_predictions_are_means_and_know_their_spread(files):
    a, b, both = (load(files / f"{name}.ckpt", "cpu", torch.float64) for name in ("a", "b", "both"))
    atoms = geometries()[5]
    x, y, mean = (model.predict(atoms) for model in (a, b, both))
    assert np.allclose(mean.hamiltonian, 0.5 * (x.hamiltonian + y.hamiltonian), atol=1e-10)
    assert np.allclose(mean.overlap, 0.5 * (x.overlap + y.overlap), atol=1e-10)
    apart = np.abs(x.orbital_energies - y.orbital_energies) / 2**0.5
    # to first order; methanol's levels are well apart
    assert np.allclose(mean.orbital_energy_spread, apart, atol=0.1 * apart.max())
    n = mean.n_occupied
    assert mean.frontier_spread == tuple(mean.orbital_energy_spread[n - 1 : n + 1])
    assert x.orbital_energy_spread is None and x.frontier_spread is None


def test_the_file_knows_all_members_were_trained_on(files):
    model, card = load_model(files / "both.ckpt")
    single = load_single(files / "a.ckpt")[1]
    assert card.training_groups == single.training_groups and len(card.members) == 2
    assert (card.level, card.target, card.basis) == (single.level, single.target, single.basis)
    assert not model.training
    with pytest.raises(UserError, match="both.ckpt: an ensemble of 2 models"):
        load_single(files / "both.ckpt")


def test_command_shows_and_writes_the_spread(files, tmp_path, capsys):
    structures = geometries()[:4]
    write(tmp_path / "molecules.xyz", structures)
    model = schnorb_t.load(files / "both.ckpt", "cpu")
    doubt = [model.predict(a).doubt for a in structures]
    worst = int(np.argmax(doubt))
    threshold = 0.999 * doubt[worst]
    arguments = [files / "both.ckpt", tmp_path / "molecules.xyz", "-o", tmp_path / "out.h5", "--doubt-above", threshold]
    predict.main([str(a) for a in arguments])
    printed = capsys.readouterr().out
    assert "1 of 4 structures" in printed and "unlike what the model learned from" in printed
    assert f"  structure {worst} ({structures[worst].info['name']}): {doubt[worst]:.3f} eV" in printed
    line = next(x for x in printed.splitlines() if "CH4 " in x)
    assert float(line.split("│")[-2]) == pytest.approx(doubt[1], abs=2e-3)
    with h5py.File(tmp_path / "out.h5") as file:
        for k, atoms in enumerate(structures):
            wanted = model.predict(atoms).orbital_energy_spread
            assert np.allclose(file[f"{k:06d}/orbital_energy_spread"], wanted, atol=1e-5)


def test_what_is_refused(files, tmp_path, capsys, monkeypatch):
    a, b, out = files / "a.ckpt", files / "b.ckpt", tmp_path / "out.ckpt"
    assert "one model is no ensemble" in fails(capsys, ensemble, a, "-o", out)
    assert "no such model" in fails(capsys, ensemble, a, tmp_path / "none.ckpt", "-o", out)
    assert "both.ckpt: an ensemble" in fails(capsys, ensemble, a, files / "both.ckpt", "-o", out)
    assert "is an input" in fails(capsys, ensemble, a, b, "-o", a, "--force")
    model, card = load_single(b)
    write_checkpoint(tmp_path / "other.ckpt", model, dataclasses.replace(card, level={"functional": "another"}), "")
    assert "its level is not that of" in fails(capsys, ensemble, a, tmp_path / "other.ckpt", "-o", out)
    out.write_bytes(b"precious")
    assert "--force" in fails(capsys, ensemble, a, b, "-o", out)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    assert "cannot be written (no space left)" in fails(capsys, ensemble, a, b, "-o", out, "--force")
    assert out.read_bytes() == b"precious" and sorted(p.name for p in tmp_path.iterdir()) == ["other.ckpt", "out.ckpt"]
