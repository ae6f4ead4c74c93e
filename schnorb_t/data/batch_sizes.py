"""Which molecules to work on together: similar sizes in one batch, and no batch too large for the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: Pairs of atoms in a batch whose size nobody chose: some 25 molecules of QM9 on a CPU, whose caches overflow beyond.
MAX_PAIRS = {"cpu": 8_000, "cuda": 200_000}


def batches_by_size(
    n_atoms: Sequence[int], batch_size: int | None = None, device: str = "cpu", alone_above: float = math.inf
) -> list[list[int]]:
    """Largest molecules first, so that too little memory shows at once and little of a batch is padding.

    Args:
        n_atoms: [n] atoms of each molecule.
        batch_size: molecules per batch; ``None``: as many as ``MAX_PAIRS`` allows on this kind of device, one at least.
        device: ``"cpu"`` or ``"cuda"``.
        alone_above: atoms; a larger molecule has a batch of its own.

    Returns:
        places in ``n_atoms``, each once.

    Raises:
        ValueError: ``batch_size`` below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch size must be 1 or more, got {batch_size}")
    limit = MAX_PAIRS.get(device, MAX_PAIRS["cuda"])
    out: list[list[int]] = []
    room, closed = 0, True
    for place in np.argsort(-np.asarray(n_atoms, dtype=np.int64), kind="stable").tolist():
        n = int(n_atoms[place])
        if n > alone_above:
            out.append([place])
            room, closed = 0, True
            continue
        if batch_size is None:
            full = n * n > room
        else:
            full = closed or len(out[-1]) == batch_size
        if full:
            out.append([])
            room, closed = limit, False
        out[-1].append(place)
        room -= n * n
    return out
