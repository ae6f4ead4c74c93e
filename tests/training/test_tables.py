"""Training of Slater-Koster tables: on real labels, on all targets, interrupted, exported; bad input in one line."""

import json

import numpy as np
import pytest
import torch
import yaml
from ase.build import molecule

from schnorb_t.commands import main
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.store import Header, MoleculeRecord, Store, StoreWriter
from schnorb_t.errors import UserError
from schnorb_t.interfaces.ase import DFTB as Calculator
from schnorb_t.physics.dftb import DFTB
from schnorb_t.physics.skf import read_skf_set
from schnorb_t.physics.trainable_dftb import TrainableDFTB
from schnorb_t.training.table_configuration import read_table_settings
from schnorb_t.training.table_targets import TableTarget
from schnorb_t.training.tables import TableSettings, TableTraining, load_tables
from tests.shared_data import shared_data


@pytest.fixture(scope="module")
def ob():
    return shared_data("skf/3ob-3-1")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Molecules of H, C and O from the embedded sample, a geometry of each: B3LYP/def2-SVP energies and levels."""
    sample, path = Store(SAMPLE), tmp_path_factory.mktemp("real") / "real.h5"
    seen, count = set(), {"train": 0, "val": 0, "test": 0}
    with StoreWriter(path, sample.header) as writer:
        for k in np.flatnonzero((sample.n_atoms > 2) & (sample.n_atoms <= 12)):
            record = sample[int(k)]
            if record.group not in seen and set(record.atomic_numbers.tolist()) <= {1, 6, 8}:
                seen.add(record.group)
                count[record.split] += 1
                writer.add(record)
    assert count["train"] >= 60 and count["val"] >= 9 and count["test"] >= 12
    return path


@pytest.fixture(scope="module")
def of_a_teacher(ob, tmp_path_factory):
    """Labels of every kind by DFTB with changed tables, which a training can find again."""
    tables = read_skf_set(ob, [1, 8])
    teacher = TrainableDFTB(tables, order=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in teacher.trained().items():
            size = 0.0 if name == "hubbard" else 4e-3
            p += size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        teacher.hubbard[8] += 0.02
    path, rng = tmp_path_factory.mktemp("teacher") / "teacher.h5", np.random.default_rng(0)
    with StoreWriter(path, Header(tables.basis, "DFTB", {"functional": "DFTB3"}, {})) as writer:
        for k in range(28):
            atoms = molecule("H2O" if k % 2 else "H2O2")
            atoms.positions += 0.06 * rng.normal(size=atoms.positions.shape)
            batch = structures_to_batch([atoms.numbers], [atoms.positions], tables.basis, 1.0)
            result, forces = teacher.requires_grad_(False).energy_and_forces(batch)
            centred = atoms.positions - atoms.positions.mean(0)
            writer.add(
                MoleculeRecord(
                    atomic_numbers=atoms.numbers,
                    positions=atoms.positions,
                    n_electrons=int(result.scc.state.occupations.sum().round()),
                    total_energy=result.energy.item() - 0.5 * len(atoms),  # another zero
                    forces=forces.numpy(),
                    partial_charges=result.charges.numpy(),
                    dipole=result.charges.numpy() @ centred / 0.529177210903,
                    large_basis_energies=result.scc.state.energies[0].numpy(),
                    name=f"m{k}",
                    group=f"m{k}",
                    split="train" if k < 16 else "val" if k < 20 else "test",
                    order=k,
                )
            )
    return path


def settings(ob, data, folder, **changes):
    given = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "rates": {}}
    return TableSettings(str(ob), str(data), str(folder), **{**given, **changes})


def test_real_energies_of_unseen_molecules(ob, real, tmp_path, monkeypatch, capsys):
    """The command: 64 geometries, and energies of other molecules become better; files of it are used like any set."""
    monkeypatch.chdir(tmp_path)
    config = {"skf": str(ob), "data": str(real), "folder": "out", "epochs": 4, "batch_size": 4, "train": ["repulsion"]}
    (tmp_path / "dftb.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit-dftb", "--config", "dftb.yaml", "--json", "result.json"]) in (None, 0)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["after"]["energy"] < 0.9 * found["before"]["energy"] and "kcal/mol" in printed
    rows = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 6 and rows[0].startswith("epoch,train_loss,val_energy")
    # the exported set in this package's own reader and calculator
    model, _, reference = load_tables(tmp_path / "out" / "tables.pt")
    atoms = molecule("CH3OH")
    batch = structures_to_batch([atoms.numbers], [atoms.positions], model.basis, 1.0)
    with torch.no_grad():
        energy = model(batch).energy.item()
        published = DFTB(read_skf_set(ob, [1, 6, 8]), order=3)(batch).energy.item()
    atoms.calc = Calculator(tmp_path / "out" / "skf")
    assert atoms.get_potential_energy() == pytest.approx(energy * 27.211386245988, abs=1e-6)
    assert abs(energy - published) > 1e-4 and (reference[[1, 6, 8]].abs() > 0.1).all()
    assert main(["export-skf", "out/tables.pt", "-o", "again"]) in (None, 0)
    for path in (tmp_path / "out" / "skf").glob("*.skf"):
        again = (tmp_path / "again" / path.name).read_text()
        assert again.split("<Documentation>")[0] == path.read_text().split("<Documentation>")[0]
    assert "with Hubbard U and repulsive splines" in capsys.readouterr().out


def test_all_targets_at_once_and_an_interruption(ob, of_a_teacher, tmp_path):
    """Every kind of label teaches; stopped and gone on gives what a training without a stop gives."""
    targets = [
        TableTarget("energy"),
        TableTarget("forces", 0.3),
        TableTarget("charges", 0.3),
        TableTarget("dipole", 0.3),
        TableTarget("band_pass", 0.3),
    ]
    options = {"targets": targets, "smooth_tables": 1.0, "convex": 1.0}
    lines = []
    whole = TableTraining(settings(ob, of_a_teacher, tmp_path / "whole", **options), lines.append).run()
    before, after = whole["before"], whole["after"]
    assert after["energy"] < before["energy"] and after["forces"] < before["forces"], (before, after)
    # charges and dipoles hardly answer to the tables in so few epochs, and must not become worse for it
    assert all(after[t.name] < 1.01 * before[t.name] for t in targets), (before, after)
    assert lines[0].startswith("epoch 0: energy")

    class Stopped(TableTraining):
        def _record(self, found, train):
            super()._record(found, train)
            if self.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stopped(settings(ob, of_a_teacher, tmp_path / "parts", **options), lines.append).run()
    parts = TableTraining(settings(ob, of_a_teacher, tmp_path / "parts", **options), lines.append).run()
    assert parts["after"] == pytest.approx(whole["after"], rel=1e-6) and any(
        "goes on after epoch 1" in x for x in lines
    )
    with pytest.raises(UserError, match="another batch_size; name another folder"):
        TableTraining(settings(ob, of_a_teacher, tmp_path / "parts", **{**options, "batch_size": 4})).run()


def test_free_energies_of_smeared_levels(ob, of_a_teacher, tmp_path):
    options = {"smearing": 0.01, "targets": [TableTarget("free_energy")], "epochs": 1, "train": ["repulsion"]}
    training = TableTraining(settings(ob, of_a_teacher, tmp_path / "free", **options), lambda text: None)
    assert training.model.smearing.width == 0.01
    found = training.run()
    assert set(training.model.trained()) == {"repulsion.correction.coefficients"}
    assert 0 < found["after"]["free_energy"] <= found["before"]["free_energy"] * 1.01


def test_bad_input_in_one_line(ob, real, tmp_path):
    good = {"skf": str(ob), "data": str(real)}

    def refused(match, **content):
        path = tmp_path / "dftb.yaml"
        path.write_text(yaml.safe_dump({**good, **content}))
        with pytest.raises(UserError, match=match) as caught:
            TableTraining(read_table_settings(path, {}))
        assert "\n" not in str(caught.value)

    refused("no key epoch; known: .*epochs", epoch=3)
    refused("skf: must be given", skf=None)
    refused("nowhere: no such folder", skf=str(tmp_path / "nowhere"))
    refused("nowhere.h5: no such file", data=str(tmp_path / "nowhere.h5"))
    refused("targets: 'enrgy' is none of energy", targets=[{"name": "enrgy"}])
    refused("targets: must be a list", targets="energy")
    refused("targets: each may stand once", targets=[{"name": "energy"}, {"name": "energy"}])
    refused("no training molecule has forces", targets=[{"name": "forces"}])
    refused("train: tables: must be some of", train=["tables"])
    refused("order: must be 2 or 3", order=4)
    refused("epochs: must be 0 or more", epochs=-1)
    refused("learning_rate: must be above 0", learning_rate=0.0)
    refused("rates: hubbrd", rates={"hubbrd": 1.0})
    refused("'Au' is no element and no pair", pairs=["Au"])
    refused("epochs", epochs="many")
    with pytest.raises(UserError, match="nowhere.yaml: cannot be read"):
        read_table_settings(tmp_path / "nowhere.yaml", {})
    assert read_table_settings("dftb", {"epochs": 2}).epochs == 2  # the one that ships
    for path, match in ((real, "holds no trained tables"), (tmp_path / "none.pt", "no such file")):
        with pytest.raises(UserError, match=match):
            load_tables(path)
    empty = tmp_path / "empty.h5"
    with StoreWriter(empty, Store(real).header) as writer:
        writer.add(Store(real)[0])
    refused("has no molecules in split", data=str(empty))
