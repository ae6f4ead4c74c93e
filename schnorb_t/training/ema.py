"""Exponential moving average of the weights, used for validation, checkpoints and prediction."""

from __future__ import annotations

import torch
from pytorch_lightning.callbacks import WeightAveraging


class ExponentialMovingAverage(WeightAveraging):
    """Lightning's weight averaging with a decay that grows to ``decay``: min(decay, (1 + n) / (10 + n)) after n steps.

    Without the growth a short training would still remember its random start.

    Args:
        decay: in the long run; averages over about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float = 0.998):
        def average(averaged, current, n):
            now = torch.clamp((1 + n) / (10 + n), max=decay)
            for old, new in zip(averaged, current, strict=True):
                old.lerp_(new, (1 - now).to(old))

        super().__init__(use_buffers=False, multi_avg_fn=average)
