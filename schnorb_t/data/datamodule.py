"""A store as a ``LightningDataModule``: dataset, size-bucketed batches, splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from schnorb_t.basis import Basis
from schnorb_t.data.batch import records_to_batch
from schnorb_t.data.records import MoleculeRecord
from schnorb_t.data.sampler import SizeBucketSampler
from schnorb_t.data.store import Store
from schnorb_t.errors import ConfigurationError, UserError

#: The molecules that come with the package.
SAMPLE = Path(__file__).parent / "sample" / "sample.h5"


class RecordDataset(Dataset):
    """Some molecules of a store, read when first asked for and kept if ``keep``."""

    def __init__(self, store: Store, indices: np.ndarray, keep: bool):
        self.store, self.indices = store, np.asarray(indices, dtype=np.int64)
        self.keep = keep
        self._kept: dict[int, MoleculeRecord] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[int, MoleculeRecord]:
        at = int(self.indices[i])
        if self._kept is None:
            return at, self.store[at]
        if at not in self._kept:
            self._kept[at] = self.store[at]
        return at, self._kept[at]


class _Collate:
    """Picklable, so that spawned workers can have it."""

    def __init__(self, basis: Basis, cutoff: float):
        self.basis, self.cutoff = basis, cutoff

    def __call__(self, items: list[tuple[int, MoleculeRecord]]) -> dict[str, Tensor]:
        indices, records = zip(*items, strict=True)
        return records_to_batch(records, self.basis, self.cutoff, indices)


class EpochLoader(DataLoader):
    """A loader whose batches are those of the epoch, and of the place in it, at which its first batch is asked for.

    Lightning makes the iterator of the first epoch before it restores the progress of an interrupted training and
    before it tells the sampler its epoch; worker processes would then prepare batches of another epoch. (And the epoch
    that it tells is one too many where ``max_steps`` rather than ``max_epochs`` ends a training.)

    Args:
        place: gives epoch and number of batches of it that have been seen already; ``None`` outside of a training.
        **kwargs: of ``DataLoader``; ``batch_sampler`` is a ``SizeBucketSampler``.
    """

    def __init__(self, *args, place: Callable[[], tuple[int, int] | None], **kwargs):
        super().__init__(*args, **kwargs)
        self.place = place

    @property
    def _sampler(self) -> SizeBucketSampler:
        assert isinstance(self.batch_sampler, SizeBucketSampler)
        return self.batch_sampler

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]  # a loop needs no more
        epoch, self._sampler.first = self.place() or (self._sampler.epoch, 0)
        self._sampler.set_epoch(epoch)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Tells Lightning that this loader goes on in the middle of an epoch; ``place`` says where."""
        return {"epoch": self._sampler.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to do: epoch and place are part of Lightning's own progress."""


class MatrixDataModule(L.LightningDataModule):
    """Labelled molecules of one HDF5 file (see docs/store.md).

    Args:
        path: the file; ``"sample"`` is the set that comes with the package.
        cutoff: Å, pairs farther apart have no block; the model's.
        batch_size: molecules per training batch (per process).
        eval_batch_size: molecules per validation batch.
        max_train: use only the first so many training molecules (learning curves); all if ``None``.
        num_workers: processes that build batches; 0 builds them in the training process.
        keep_in_memory: keep molecules that were read; ``None`` does so below 20,000 training molecules.
        seed: of the shuffling.

    Raises:
        ConfigurationError: a size that must be 1 or more, a cutoff that is no length.
        UserError: a file that cannot be read, or without molecules to train on or to validate with.
    """

    def __init__(
        self,
        path: str = "sample",
        cutoff: float = 10.0,
        batch_size: int = 8,
        eval_batch_size: int = 32,
        max_train: int | None = None,
        num_workers: int = 0,
        keep_in_memory: bool | None = None,
        seed: int = 0,
    ):
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("max_train", 1 if max_train is None else max_train, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ConfigurationError(f"data.{name}: must be {least} or more, got {value}")
        if not 0 < cutoff < np.inf:
            raise ConfigurationError(f"data.cutoff: must be a length above 0, Å, got {cutoff}")
        self.store = Store(SAMPLE if path == "sample" else path)
        self.cutoff, self.batch_size, self.eval_batch_size = cutoff, batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        train = self.store.indices("train")
        if max_train is not None:
            train = train[:max_train]
        self.split = {"train": train, "val": self.store.indices("val"), "test": self.store.indices("test")}
        for name in ("train", "val"):
            if not len(self.split[name]):
                raise UserError(
                    f"{self.store.path}: no molecule in split {name!r}; "
                    "set splits with schnorb_t splits (docs/store.md)"
                )
        keep = len(train) < 20_000 if keep_in_memory is None else keep_in_memory
        self.datasets = {name: RecordDataset(self.store, rows, keep) for name, rows in self.split.items()}

    @property
    def basis(self) -> Basis:
        """Of the stored matrices."""
        return self.store.basis

    def leave_out(self, split: str, which: np.ndarray) -> None:
        """Take molecules out of a split.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            which: [molecules of the split] bool.
        """
        rows = self.datasets[split]
        self.split[split] = self.split[split][~which]
        self.datasets[split] = RecordDataset(self.store, self.split[split], rows.keep)

    def sampler(self, split: str) -> SizeBucketSampler:
        """Batches of ``"train"`` (shuffled anew in every epoch), ``"val"`` or ``"test"`` (largest molecules first)."""
        size = self.batch_size if split == "train" else self.eval_batch_size
        return SizeBucketSampler(self.store.n_orbitals[self.split[split]], size, split == "train", self.seed)

    def _loader(self, split: str) -> DataLoader:
        return self._make_loader(DataLoader, split, self.sampler(split))

    def _make_loader(self, kind: type[DataLoader], split: str, sampler: Sampler, **more) -> DataLoader:
        return kind(
            self.datasets[split],
            batch_sampler=sampler,
            collate_fn=_Collate(self.basis, self.cutoff),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            **more,
        )

    def _place(self) -> tuple[int, int] | None:
        """Epoch and number of its batches that the running training has seen."""
        if self.trainer is None or not self.trainer.training:
            return None
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def train_dataloader(self) -> DataLoader:
        """Batches of the present epoch; the same few in every epoch under ``trainer.overfit_batches``."""
        sampler = self.sampler("train")
        sampler.fixed = getattr(self.trainer, "overfit_batches", 0) > 0
        return self._make_loader(EpochLoader, "train", sampler, place=self._place)

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation molecules, largest first."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test molecules, largest first."""
        return self._loader("test")

    def training_batches(self) -> Iterator[dict[str, Tensor]]:
        """All training molecules once, in the same order in every process: for closed-form fits."""
        collate, data = _Collate(self.basis, self.cutoff), self.datasets["train"]
        sampler = SizeBucketSampler(self.store.n_orbitals[self.split["train"]], self.eval_batch_size, shuffle=False)
        for rows in sampler.batches():
            yield collate([data[i] for i in rows])
