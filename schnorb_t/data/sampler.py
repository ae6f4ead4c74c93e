"""Batches of molecules of similar size, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch.distributed
from torch.utils.data import Sampler


class SizeBucketSampler(Sampler[list[int]]):
    """Molecules shuffled, cut into pools, sorted by size within a pool, cut into batches, batches shuffled.

    A batch sampler (``DataLoader(batch_sampler=...)``). Every epoch's order follows from seed and epoch alone, so that
    an interrupted training continues with the batches it would have had. Under data-parallel training each rank takes
    every n-th batch, and all ranks take equally many.

    Args:
        sizes: [n] orbitals of each molecule.
        batch_size: molecules per batch.
        shuffle: False: largest first, nothing dropped (for validation and prediction).
        seed: of the shuffling.
        pool: batches per pool at most (a quarter of all batches); larger means less padding and less randomness.
        fixed: every epoch has the batches of the first one.

    Attributes:
        epoch: which of the orders; see ``set_epoch``.
        first: batches of this rank that the next iteration leaves out, because they were seen before an interruption.
    """

    def __init__(
        self, sizes: Sequence[int], batch_size: int, shuffle: bool, seed: int = 0, pool: int = 8, fixed: bool = False
    ):
        self.sizes = np.asarray(sizes)
        self.batch_size, self.shuffle, self.seed, self.pool, self.fixed = batch_size, shuffle, seed, pool, fixed
        self.epoch = self.first = 0

    @property
    def sampler(self) -> SizeBucketSampler:
        """Itself: Lightning calls ``set_epoch`` of ``dataloader.batch_sampler.sampler`` before every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; without it all iterations are alike."""
        self.epoch = 0 if self.fixed else epoch

    @staticmethod
    def _world() -> tuple[int, int]:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def batches(self) -> list[list[int]]:
        """All batches of this epoch, of all ranks, each a list of places in ``sizes``."""
        n, size = len(self.sizes), self.batch_size
        if not self.shuffle:
            order = np.argsort(-self.sizes, kind="stable")
            return [order[k : k + size].tolist() for k in range(0, n, size)]
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(n)
        out = []
        # of few molecules one pool would hold all, and the same molecules would meet in every epoch
        pooled = size * max(1, min(self.pool, -(-n // size) // 4))
        for start in range(0, n, pooled):
            pool = order[start : start + pooled]
            pool = pool[np.argsort(self.sizes[pool], kind="stable")]
            out += [pool[k : k + size].tolist() for k in range(0, len(pool), size)]
        return [out[k] for k in rng.permutation(len(out))]

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's batches of this epoch, as places in ``sizes``, from batch ``first`` on."""
        rank, world = self._world()
        batches = self.batches()
        if self.shuffle and len(batches) % world:  # every rank must take equally many steps
            batches += batches[: world - len(batches) % world]
        return iter(batches[rank::world][self.first :])

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        rank, world = self._world()
        n = -(-len(self.sizes) // self.batch_size)
        return -(-n // world) if self.shuffle else len(range(rank, n, world))

    def padded_fraction(self) -> float:
        """Share of the matrix elements of this epoch's batches that is padding."""
        used = total = 0
        for batch in self.batches():
            sizes = self.sizes[batch].astype(np.int64)
            used += int((sizes**2).sum())
            total += len(sizes) * int(sizes.max()) ** 2
        return 1 - used / max(total, 1)
