"""Limits on the size of features, so that no geometry, however far from all training, makes a network overflow.

Products of features are products of products several layers on: atoms half as far apart as they should be make features
ten times as large as those of any molecule, and blocks of 10^29, or infinite. Here the root mean square of each irrep's
features is left as it is up to ``start`` (the factor is exactly 1; several times what molecules reach) and tends to
``most`` beyond, with a continuous slope; the direction stays, so that everything stays equivariant.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from schnorb_t.nn.o2 import Features, O2Features


def all_below(x: Tensor, start: float) -> bool:
    """Whether no number is larger than ``start``, so that nothing is to be limited, told without a copy of ``x``.

    Only on the CPU, and False elsewhere: the host would wait for the device to know.
    """
    if x.device.type != "cpu" or not x.numel():
        return False
    low, high = torch.aminmax(x.detach())
    return -start <= float(low) and float(high) <= start


def limited(x: Tensor, start: float, most: float) -> Tensor:
    """[N, ...] times a factor per row: root mean squares above ``start`` grow ever more slowly, up to ``most``."""
    if all_below(x, start):
        return x
    # no root below start, where it is not needed: its slope at 0 is infinite, and irreps may vanish
    size = x.square().flatten(1).mean(1).clamp(min=start * start).sqrt()
    room = most - start
    factor = (start - room * torch.expm1((start - size) / room)) / size
    return x * factor.reshape(-1, *[1] * (x.dim() - 1))


def limited_atoms(x: Features, limits: Sequence[float]) -> Features:
    """Features of atoms, each irrep held below a limit (start, most)."""
    return {name: limited(t, *limits) for name, t in x.items()}


def limited_pairs(x: O2Features, limits: Sequence[float]) -> O2Features:
    """Features of pairs in the bond frame, each kind held below a limit (start, most)."""
    return [limited(t, *limits) if t.shape[-1] else t for t in x]
