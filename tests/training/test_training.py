"""Training through the real command: resume, two processes, errors; losses and averaged weights by themselves."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.data.sampler import SizeBucketSampler
from schnorb_t.training.checkpoint import FORMAT, load_model, read_checkpoint
from schnorb_t.training.ema import ExponentialMovingAverage
from schnorb_t.training.losses import LOSSES, QUANTITIES, Output, Quantities
from schnorb_t.training.module import MatrixModule

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--config=configs/sample.yaml",
    "--data.max_train=60",
    "--data.batch_size=6",
    "--model.warmup_steps=2",
    "--model.learning_rate=0.006",
    "--ema.decay=0.5",
    "--model.network={irreps: 8x0e+4x1o+4x2e, pair_channels: [8, 4, 4, 4], hidden: 16, product_channels: 4}",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.check_val_every_n_epoch=1",
]


def fit(folder, *arguments, check=True):
    """The command in a process of its own, one thread, results below ``folder``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "schnorb_t.fit", *SMALL, f"--runs={folder}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def weights(folder, version=0):
    path = folder / "sample" / f"version_{version}" / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder, "--trainer.max_epochs=4")


def test_a_run_leaves_everything(whole_run):
    folder, done = whole_run
    run = folder / "sample" / "version_0"
    names = {p.name for p in run.iterdir()}
    assert {"test_metrics.json", "metrics.csv", "config.yaml"} <= names
    assert len(list(run.glob("*.png"))) >= 3
    assert any(p.name.startswith("events.out.tfevents") for p in run.iterdir())
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert "two-centre" in done.stdout.lower() and "padding" in done.stdout


def test_training_lowers_the_error(whole_run):
    folder, _ = whole_run
    with open(folder / "sample" / "version_0" / "metrics.csv") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]
    assert len(losses) == 4 and min(losses) < 0.99 * losses[0]


@pytest.mark.parametrize("every", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_equals_uninterrupted_bitwise(whole_run, tmp_path, every):
    """Killed after 2 of 4 epochs and taken up again: the same weights, averages, optimiser state to the last bit.

    Also when validation, and with it the choice of the best, is rarer than once an epoch.
    """
    folder, _ = whole_run
    arguments = [f"--runs={tmp_path}", "--trainer.max_epochs=4", f"--trainer.check_val_every_n_epoch={every}"]
    stopped = subprocess.run(
        [sys.executable, "-c", KILL_AFTER_TWO, *SMALL, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert stopped.returncode == -9, stopped.stderr[-3000:]
    last = tmp_path / "sample" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 1
    fit(tmp_path, *arguments, f"--ckpt_path={last}")
    a, b = weights(folder), weights(tmp_path, 1)
    assert a["epoch"] == b["epoch"] == 3 and a["global_step"] == b["global_step"]
    for part in ("state_dict", "current_model_state"):
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), name
    optimisers = [x["optimizer_states"][0]["state"].values() for x in (a, b)]
    for x, y in zip(*optimisers, strict=True):
        assert all(torch.equal(x[k], y[k]) for k in x)


#: the fit command, killed right after the checkpoint of the second epoch is written
KILL_AFTER_TWO = """
import os, signal
from pytorch_lightning.callbacks import ModelCheckpoint
from schnorb_t import fit
original = ModelCheckpoint.on_train_epoch_end
def kill(self, trainer, module):
    original(self, trainer, module)
    if self.filename == "last" and trainer.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
ModelCheckpoint.on_train_epoch_end = kill
fit.main()
"""


def test_two_processes_train_together(tmp_path):
    """Data-parallel on two CPU processes: one result, and the weights of one process with the same global batch."""
    common = ["--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"]
    fit(tmp_path, *common, "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=6", "--name=two")
    state = torch.load(tmp_path / "two" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 5  # 60 molecules, 2 x 6 per step
    assert (tmp_path / "two" / "version_0" / "test_metrics.json").exists()
    assert not (tmp_path / "two" / "version_1").exists()


def test_missing_data_is_told_without_traceback(tmp_path):
    done = fit(tmp_path, "--data.path=nowhere.h5", check=False)
    assert done.returncode == 2 and "nowhere.h5" in done.stderr and "Traceback" not in done.stderr


def test_wrong_checkpoint_is_told_without_traceback(tmp_path):
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(b"not a checkpoint")
    done = fit(tmp_path, f"--ckpt_path={bad}", check=False)
    assert done.returncode == 2 and "bad.ckpt" in done.stderr and "Traceback" not in done.stderr


def test_unknown_loss_is_told_without_traceback(tmp_path):
    done = fit(tmp_path, "--model.outputs=[{name: colour}]", check=False)
    assert done.returncode == 2 and "colour" in done.stderr and "Traceback" not in done.stderr


def test_unknown_network_argument_is_told_without_traceback(tmp_path):
    done = fit(tmp_path, "--model.network.irrep=8x0e", check=False)
    assert done.returncode == 2 and "irrep" in done.stderr and "Traceback" not in done.stderr


# ---- checkpoints ----------------------------------------------------------------------------------


def test_checkpoint_holds_the_averaged_weights_and_the_configuration(whole_run):
    folder, _ = whole_run
    path = folder / "sample" / "version_0" / "checkpoints" / "best.ckpt"
    content = read_checkpoint(path)
    entry = content["schnorb_t"]
    assert entry["format"] == FORMAT and "learning_rate" in entry["config"]
    model, card = load_model(path)
    assert card.target == "wqao" and card.level["functional"].lower() == "b3lyp"
    name = "embedding.table.weight"
    assert torch.equal(model.state_dict()[name], content["state_dict"]["model." + name])
    assert not torch.equal(content["state_dict"]["model." + name], content["current_model_state"]["model." + name])


def test_exported_model_predicts_the_same_and_is_small(whole_run, tmp_path, batch):
    from schnorb_t.errors import UserError
    from schnorb_t.export import export

    source = whole_run[0] / "sample" / "version_0" / "checkpoints" / "best.ckpt"
    target = tmp_path / "small.ckpt"
    export(source, target)
    assert target.stat().st_size < 0.5 * source.stat().st_size
    with torch.no_grad():
        a, b = (load_model(path)[0](batch)["hamiltonian"] for path in (source, target))
    assert torch.equal(a, b)
    with pytest.raises(UserError, match="exists"):
        export(source, target)


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    from schnorb_t.errors import UserError

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "evil.ckpt"
    torch.save({"schnorb_t": Evil()}, path)
    with pytest.raises(UserError, match="evil.ckpt"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_newer_format_is_refused(tmp_path):
    from schnorb_t.errors import UserError

    path = tmp_path / "new.ckpt"
    torch.save({"schnorb_t": {"format": FORMAT + 1}, "state_dict": {}}, path)
    with pytest.raises(UserError, match="newer"):
        read_checkpoint(path)


# ---- losses ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch():
    return next(iter(MatrixDataModule(batch_size=6).train_dataloader()))


@pytest.mark.parametrize("name", sorted(QUANTITIES))
@pytest.mark.parametrize("loss", sorted({*LOSSES} - {"norm"}))  # norm is of forces alone
def test_losses_vanish_at_the_reference_and_ignore_padding(batch, name, loss):
    """Zero for the reference itself; whatever stands in padding changes neither value nor gradient."""
    reference = Quantities(batch, batch["hamiltonian"], batch["overlap"])
    same = Quantities(batch, batch["hamiltonian"], batch["overlap"], reference)
    assert Output(name, loss)(same, reference).abs() < 1e-9
    mask = batch["orbital_mask"]
    real = mask[:, :, None] & mask[:, None]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = 1e-3 * (noise + noise.mT)
    values, gradients = [], []
    for fill in (0.0, 7.0):
        h = torch.where(real, batch["hamiltonian"] + noise, fill).requires_grad_()
        value = Output(name, loss)(Quantities(batch, h, batch["overlap"], reference), reference)
        values.append(value.detach())
        if name != "overlap":
            value.backward()
            gradients.append(h.grad)
            assert (h.grad[~real] == 0).all() and torch.isfinite(h.grad).all()
    assert torch.equal(*values) and (name == "overlap") == (values[0] == 0)
    if gradients:
        assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


def test_hamiltonian_in_orbitals_is_the_first_order_error(batch):
    """Its diagonal is the change of orbital energies, to second order in the error of H and S."""
    reference = Quantities(batch, batch["hamiltonian"], batch["overlap"])
    mask = batch["orbital_mask"]
    real = (mask[:, :, None] & mask[:, None]).double()
    g = torch.Generator().manual_seed(1)
    dh, ds = (torch.randn(real.shape, generator=g, dtype=torch.float64) * real for _ in range(2))
    step = 1e-6
    changed = Quantities(
        batch, batch["hamiltonian"] + step * (dh + dh.mT), batch["overlap"] + step * (ds + ds.mT), reference
    )
    first = changed["hamiltonian_in_orbitals"][0] - reference["hamiltonian_in_orbitals"][0]
    # within a degenerate set first order is a matrix, not a list
    energies = reference.orbitals()[0]
    close = (energies[:, :, None] - energies[:, None]).abs() < 1e-3
    levels = reference.levels(None, 0) & (close.sum(2) == 1)
    assert levels.sum() > 20
    moved = (changed.orbitals()[0] - reference.orbitals()[0])[levels]
    assert (first.diagonal(dim1=1, dim2=2)[levels] - moved).abs().max() < 1e-3 * moved.abs().max()


def test_weight_schedule():
    output = Output("gap", weight=2.0, start=3, ramp=1)
    assert [output.weight_at(e) for e in range(6)] == [0, 0, 0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("bad", [{"name": "colour"}, {"name": "gap", "loss": "l3"}])
def test_unknown_output_is_refused(bad):
    with pytest.raises(ValueError, match="known"):
        Output(**bad)


# ---- batches and averages -------------------------------------------------------------------------


def test_sampler_covers_everything_once_with_little_padding():
    sizes = np.random.default_rng(0).integers(5, 60, 1000)
    sampler = SizeBucketSampler(sizes, 8, shuffle=True)
    batches = list(sampler)
    assert sorted(i for b in batches for i in b) == list(range(1000)) and len(batches) == len(sampler)
    assert sampler.padded_fraction() < 0.25
    sampler.set_epoch(1)
    assert list(sampler) != batches
    sampler.set_epoch(0)
    assert list(sampler) == batches


def test_average_forgets_its_start_and_is_what_validates():
    ema = ExponentialMovingAverage(0.99)
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1), multi_avg_fn=ema._kwargs["multi_avg_fn"])
    current = torch.nn.Linear(1, 1)
    for _ in range(300):
        averaged.update_parameters(current)
    assert torch.allclose(averaged.module.weight, current.weight, atol=1e-6)


def test_module_needs_its_card_before_saving():
    module = MatrixModule(MatrixDataModule().basis, {"irreps": "4x0e+4x1o+4x2e", "pair_channels": [4, 4, 4, 4]})
    with pytest.raises(RuntimeError, match="prepare"):
        module.on_save_checkpoint({})
