"""Which batches a real ``Trainer`` sees: other ones in every epoch, the same ones after an interruption."""

import warnings

import pytest
import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from schnorb_t import keys
from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.data.sampler import SizeBucketSampler

from .examples import write_store

#: besides the plain one
WAYS = [{"workers": 1}, {"reload_dataloaders_every_n_epochs": 1}, {"wanted": False}]


class Recorder(L.LightningModule):
    """A model of one number that writes down which molecules it was given."""

    def __init__(self, log: list, interrupt_after: int | None = None, total_steps_wanted: bool = False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.log_, self.interrupt_after, self.total_steps_wanted = log, interrupt_after, total_steps_wanted

    def training_step(self, batch, index):
        if self.interrupt_after is not None and len(self.log_) == self.interrupt_after:
            raise Interruption
        self.log_.append((self.current_epoch, index, tuple(batch[keys.INDEX].tolist())))
        return self.weight.square()

    def validation_step(self, batch, _):
        self.log("val/loss", self.weight.detach(), batch_size=1)

    def configure_optimizers(self):
        if self.total_steps_wanted:  # as schedules do; Lightning makes the first iterator then
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Interruption(Exception):
    """The power fails."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("batches") / "toy.h5"
    write_store(path)
    return path


def run(store, folder, resume=None, interrupt_after=None, wanted=True, workers=0, callbacks=None, **options):
    """Batches that a training of three epochs with three batches each saw: [(epoch, place in it, molecules)]."""
    log: list = []
    data = MatrixDataModule(str(store), batch_size=3, num_workers=workers)
    trainer = L.Trainer(
        **{
            "max_epochs": 3,
            "accelerator": "cpu",
            "default_root_dir": folder,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            **options,
        },
        callbacks=callbacks or [ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)],
    )
    module = Recorder(log, interrupt_after, wanted)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*|.*bottleneck.*")
        try:
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        except Interruption:
            pass
    return log


def epochs(log):
    return [[molecules for epoch, _, molecules in log if epoch == k] for k in range(1 + log[-1][0])]


@pytest.mark.parametrize("options", [{}, *WAYS])
def test_every_epoch_has_another_order_of_the_same_molecules(store, tmp_path, options):
    seen = epochs(run(store, tmp_path, **options))
    train = sorted(MatrixDataModule(str(store)).split["train"].tolist())
    assert len(seen) == 3 and all(sorted(sum(map(list, epoch), [])) == train for epoch in seen)
    assert len({tuple(epoch) for epoch in seen}) == 3
    # molecules are grouped anew, too: not merely the same batches in another order
    assert len({frozenset(batch) for epoch in seen for batch in epoch}) > 3


def test_order_follows_from_the_seed(store, tmp_path):
    assert run(store, tmp_path / "a") == run(store, tmp_path / "b", workers=1)


@pytest.mark.parametrize(
    "step, options", [*((step, {}) for step in range(1, 9)), *((step, way) for way in WAYS for step in (2, 5, 6))]
)
def test_resumed_training_sees_the_batches_that_it_would_have_seen(store, tmp_path, step, options):
    """From a checkpoint after any step: within an epoch, and at its end."""
    whole = run(store, tmp_path / "whole", **options)
    part = run(store, tmp_path / "part", interrupt_after=step, **options)
    rest = run(store, tmp_path / "part", resume=tmp_path / "part" / f"step={step}.ckpt", **options)
    assert part == whole[:step]
    assert rest == whole[step:]


@pytest.mark.parametrize("options", [{}, {"max_epochs": -1, "max_steps": 9}])
@pytest.mark.parametrize("callback", ["epoch", "validation", "interruption"])
def test_resumed_from_every_kind_of_checkpoint(store, tmp_path, callback, options):
    """Written at an epoch's end, after a validation (within an epoch, too), or when the training was interrupted."""
    from pytorch_lightning.callbacks import OnExceptionCheckpoint

    folder = tmp_path / "part"
    every = {"val_check_interval": 2} if callback == "validation" else {}
    kinds = {
        "epoch": lambda: ModelCheckpoint(folder, filename="it", save_on_train_epoch_end=True),
        "validation": lambda: ModelCheckpoint(folder, filename="it", save_on_train_epoch_end=False),
        "interruption": lambda: OnExceptionCheckpoint(folder, filename="it"),
    }
    whole = run(store, tmp_path / "whole", **every, **options)
    part = run(store, folder, interrupt_after=7, callbacks=[kinds[callback]()], **every, **options)
    state = torch.load(folder / "it.ckpt", weights_only=True)
    rest = run(store, tmp_path / "rest", resume=folder / "it.ckpt", **every, **options)
    assert part == whole[:7] and len(rest) == 9 - state["global_step"]
    assert rest == whole[state["global_step"] :]


def test_overfitting_keeps_its_batches(store, tmp_path):
    seen = epochs(run(store, tmp_path, overfit_batches=2))
    assert len(seen) == 3 and len(seen[0]) == 2 and seen[0] == seen[1] == seen[2]


def test_a_part_of_every_epoch_is_another_part_every_time(store, tmp_path):
    seen = epochs(run(store, tmp_path, limit_train_batches=1))
    assert [len(epoch) for epoch in seen] == [1, 1, 1] and len({frozenset(e[0]) for e in seen}) > 1


def test_a_loader_is_whole_outside_of_a_training(store, tmp_path):
    data = MatrixDataModule(str(store), batch_size=3)
    assert len(list(data.train_dataloader())) == len(data.train_dataloader()) == 3


def test_ranks_share_out_each_epoch_and_go_on_in_its_middle(monkeypatch):
    """Data-parallel: the ranks' batches together are the epoch's, also those after an interruption."""
    sampler = SizeBucketSampler(range(5, 55), 4, shuffle=True)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        whole = sampler.batches()
        for first in (0, 3):
            sampler.first, parts = first, []
            for rank in (0, 1):
                monkeypatch.setattr(SizeBucketSampler, "_world", staticmethod(lambda rank=rank: (rank, 2)))
                parts.append(list(sampler))
            together = [batch for pair in zip(*parts, strict=True) for batch in pair]
            assert together[: len(whole) - 2 * first] == whole[2 * first :]
            assert len(together) <= len(whole) - 2 * first + 1
