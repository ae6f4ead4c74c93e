"""Batches of molecules of similar size, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch.distributed
from torch.utils.data import Sampler


class SizeBucketSampler(Sampler[list[int]]):
    """Molecules shuffled, cut into pools, sorted by size within a pool, cut into batches, batches shuffled.

    Every epoch's order follows from seed and epoch alone, so that an interrupted training continues with the batches
    it would have had. Under data-parallel training each rank takes every n-th batch, and all ranks take equally many.

    Args:
        sizes: [n] orbitals of each molecule.
        batch_size: molecules per batch.
        shuffle: False: largest first, nothing dropped (for validation and prediction).
        seed: of the shuffling.
        pool: batches per pool; larger means less padding and less randomness.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, shuffle: bool, seed: int = 0, pool: int = 8):
        self.sizes = np.asarray(sizes)
        self.batch_size, self.shuffle, self.seed, self.pool = batch_size, shuffle, seed, pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @staticmethod
    def _world() -> tuple[int, int]:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def batches(self) -> list[list[int]]:
        """All batches of this epoch, of all ranks."""
        n, size = len(self.sizes), self.batch_size
        if not self.shuffle:
            order = np.argsort(-self.sizes, kind="stable")
            return [order[k : k + size].tolist() for k in range(0, n, size)]
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(n)
        out = []
        for start in range(0, n, size * self.pool):
            pool = order[start : start + size * self.pool]
            pool = pool[np.argsort(self.sizes[pool], kind="stable")]
            out += [pool[k : k + size].tolist() for k in range(0, len(pool), size)]
        return [out[k] for k in rng.permutation(len(out))]

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = self._world()
        batches = self.batches()
        if self.shuffle and len(batches) % world:  # every rank must take equally many steps
            batches += batches[: world - len(batches) % world]
        return iter(batches[rank::world])

    def __len__(self) -> int:
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
