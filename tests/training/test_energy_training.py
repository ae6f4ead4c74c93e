"""From files with energies and forces to a trained model: the import, the losses, the report, going on."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from schnorb_t.commands.check import check
from schnorb_t.commands.import_energies import import_energies
from schnorb_t.data.store import Store
from schnorb_t.energy_predictor import load_energies
from schnorb_t.errors import ConfigurationError, UserError
from schnorb_t.training.losses import Output
from schnorb_t.training.run import train
from schnorb_t.units import BOHR, HARTREE, KCAL_PER_MOL

SMALL = {
    "config": "forces",
    "model.network.irreps": "16x0e+8x1o",
    "model.network.interactions": 2,
    "model.network.hidden": 16,
    "model.network.product_channels": 4,
    "model.network.charge_channels": 0,
    "data.batch_size": 4,
    "trainer.max_epochs": 24,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "model.learning_rate": 0.01,
    "model.warmup_steps": 5,
}


def frames(n: int, seed: int) -> list[Atoms]:
    """Water, and hydrogen molecules, on springs."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(n):
        atoms = molecule("H2O" if k % 3 else "H2")
        rest = atoms.get_all_distances()
        atoms.positions += rng.normal(0, 0.05, (len(atoms), 3))
        d = atoms.positions[:, None] - atoms.positions
        r = np.linalg.norm(d, axis=-1) + np.eye(len(atoms))
        stretch = np.where(np.eye(len(atoms)), 0.0, r - rest)
        forces = -(8 * stretch / r)[..., None] * d
        energy = 2 * (stretch**2).sum() - 13.6 * len(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces.sum(1))
        out.append(atoms)
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("energies")
    for split, n, seed in (("train", 24, 0), ("val", 6, 1), ("test", 6, 2)):
        write(folder / f"{split}.extxyz", frames(n, seed))
        import_energies([folder / f"{split}.extxyz"], output=folder / "store.h5", split=split, level="springs")
    return folder / "store.h5"


def test_extended_xyz_into_a_store(store):
    with Store(store) as found:
        assert len(found) == 36 and found.target == "energies" and found.level == {"method": "springs"}
        record, atoms = found[1], frames(24, 0)[1]
    assert record.total_energy * HARTREE == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert np.allclose(record.forces * HARTREE / BOHR, atoms.get_forces(), atol=1e-6)
    assert record.hamiltonian is None and record.n_electrons == 8
    assert not check(store, no_png=True)["n_errors"]
    again = import_energies([store.parent / "val.extxyz"], output=store, split="val")
    assert again["added"] == 0 and again["known"] == 6


def test_numpy_files_and_what_is_wrong_with_them(tmp_path):
    path, out = tmp_path / "a.npz", tmp_path / "a.h5"
    r = np.array([molecule("H2O").positions, molecule("H2O").positions + 0.1])
    np.savez(path, nuclear_charges=[8, 1, 1], train_coords=r, train_energies=[-1.0, -2.0], train_forces=0 * r)
    result = import_energies([path], output=out, prefix="train_", unit="kcal/mol", split="train")
    assert result["added"] == 2 and result["with_forces"] == 2
    with Store(out) as found:
        assert found[1].total_energy == pytest.approx(-2 / KCAL_PER_MOL)
    for change, message in (
        ({"unit": ""}, "does not say its unit"),
        ({"prefix": "test_"}, "no atomic numbers and positions"),
        ({"unit": "kJ/mol"}, "--unit kJ/mol"),
    ):
        with pytest.raises(UserError, match=message):
            import_energies([path], output=tmp_path / "b.h5", **{"prefix": "train_", "unit": "eV", **change})
    np.savez(path, z=[[8, 1, 1], [1, 1, 0]], R=r, E=[-1.0, np.nan])
    with pytest.raises(UserError, match="structure 1: its energy holds NaN"):
        import_energies([path], output=tmp_path / "b.h5", unit="eV")
    np.savez(path, z=[[8, 1, 1], [8, 1, 1], [1, 1, 0]], R=r[[0, 1, 0]], E=[-1.0, -1.1, -2.0])
    import_energies([path], output=tmp_path / "padded.h5", unit="eV")
    assert Store(tmp_path / "padded.h5").groups.tolist() == ["H2O", "H2O", "H2"]  # so that splits keep them together
    np.savez(path, z=[8, 1, 1], R=r, E=[-1.0])
    with pytest.raises(UserError, match="do not fit together"):
        import_energies([path], output=tmp_path / "b.h5", unit="eV")
    molecule("H2O").write(tmp_path / "bare.extxyz")
    with pytest.raises(UserError, match="neither energy nor forces"):
        import_energies([tmp_path / "bare.extxyz"], output=tmp_path / "b.h5")


@pytest.mark.parametrize("kind", ["conservative", "direct"])
def test_training_learns_and_leaves_a_report(store, tmp_path, kind):
    options = {**SMALL, "data.path": str(store), "runs": str(tmp_path), "model.network.forces": kind}
    result = train(options, tell=lambda text: None)
    model, elements = result.metrics["model"], result.metrics["elements"]
    assert model["forces_mae_kcal_per_angstrom"] < 0.6 * elements["forces_mae_kcal_per_angstrom"]
    assert model["net_force_kcal_per_angstrom"] < 1e-6
    assert (result.folder / "report.png").stat().st_size > 10_000
    assert json.loads((result.folder / "test_metrics.json").read_text()) == result.metrics
    atoms = frames(2, 9)[1]
    (prediction,) = load_energies(result.best).predict([atoms])
    error = np.abs(prediction.forces * HARTREE / BOHR - atoms.get_forces()).mean()
    assert error < 0.8 * np.abs(atoms.get_forces()).mean()
    if kind == "conservative":
        more = {**options, "ckpt_path": str(result.last), "trainer.max_epochs": 25}
        assert train(more, tell=lambda text: None).finished
        began = train(
            {**options, "model.start_from": str(result.best), "trainer.max_epochs": 1}, tell=lambda text: None
        )
        assert began.metrics["model"]["forces_mae_kcal_per_angstrom"] < elements["forces_mae_kcal_per_angstrom"]


def test_what_cannot_be_trained(store, tmp_path):
    options = {**SMALL, "data.path": str(store), "runs": str(tmp_path)}
    with pytest.raises(ConfigurationError, match="gap is not learned by the architecture energy"):
        train({**options, "model.outputs": [{"name": "gap"}]})
    with pytest.raises(ConfigurationError, match="forces is learned by the architecture energy"):
        train({"config": "sample", "model.outputs": [{"name": "forces"}], "runs": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="forces: must be conservative or direct"):
        train({**options, "model.network.forces": "both"})
    with pytest.raises(ValueError, match="total_energy cannot have the loss norm"):
        Output("total_energy", loss="norm")
    bare = tmp_path / "bare.h5"
    for split, seed in (("train", 0), ("val", 1)):
        some = frames(6, seed)
        for atoms in some:
            atoms.calc.results.pop("forces")
        write(tmp_path / f"{split}.extxyz", some)
        import_energies([tmp_path / f"{split}.extxyz"], output=bare, split=split)
    with pytest.raises(UserError, match="no training molecule has forces"):
        train({**options, "data.path": str(bare)})
